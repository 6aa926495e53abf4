"""Checks the inputs and outputs of a graph against the contract, for both backends of ONNX Runtime.

Knows sessions, and no lanes.
"""

from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from streamd.core.contract import MEMORY_INPUT, ModelContract
from streamd.core.errors import BackendUnavailableError, BatchFailedError
from streamd.inference.lane import Inputs
from streamd.inference.onnxruntime.library import import_onnxruntime


def check_session(model: Path, session: Any, contract: ModelContract) -> None:
    """Raise `BackendUnavailableError` unless a session's graph follows the contract, with a dynamic batch."""
    expected = contract.input_shapes
    given = {node.name: node for node in session.get_inputs()}
    if MEMORY_INPUT in expected:  # it may have a default value in the graph
        given |= {node.name: node for node in session.get_overridable_initializers() if node.name == MEMORY_INPUT}
    types = {"encoder_cat": "tensor(int32)", "decoder_cat": "tensor(int32)"}
    for name, shape in expected.items():
        if name not in given:
            raise BackendUnavailableError(f"{model}: the graph has inputs {sorted(given)}, expected {name!r}")
        _check_node(model, given[name], shape, types.get(name, "tensor(float)"))
    if extra := set(given) - set(expected):
        raise BackendUnavailableError(f"{model}: the graph has inputs {sorted(extra)} that the contract lacks")
    outputs = {node.name: node for node in session.get_outputs()}
    if "predictions" not in outputs:
        raise BackendUnavailableError(f"{model}: the graph has outputs {sorted(outputs)}, expected 'predictions'")
    _check_node(model, outputs["predictions"], contract.output_shape, "tensor(float)")


def check_by_running(model: Path, session: Any, contract: ModelContract) -> None:
    """Run one window if the graph does not state the shape of `predictions`; raises `BackendUnavailableError`."""
    if any(node.shape for node in session.get_outputs() if node.name == "predictions"):
        return
    if reason := _find_contradiction(model):  # ONNX Runtime drops a shape that the nodes contradict
        raise BackendUnavailableError(
            f"{model}: predictions is declared with a shape that its nodes contradict: {reason}"
        )
    try:
        (found,) = session.run(["predictions"], Inputs.allocate(contract, 1).view_first(1))
    except Exception as exc:  # ONNX Runtime's errors have no common root of their own
        raise BackendUnavailableError(f"{model}: one window of zeros does not run: {exc}") from exc
    if found.shape[:1] != (1,) or found.size != prod(contract.output_shape):
        expected = (1, *contract.output_shape)
        raise BackendUnavailableError(f"{model}: predictions is {found.shape} for one window, expected {expected}")


def _find_contradiction(model: Path) -> str | None:
    """Return the error that ONNX Runtime finds in a graph's shapes when it is strict, or `None`."""
    runtime = import_onnxruntime()
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.strict_shape_type_inference", "1")
    try:
        runtime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    except Exception as exc:  # as above
        return str(exc)
    return None


def shape_predictions(owner: str, predictions: Any, count: int, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Return the output of a graph for `count` windows as `(count, *shape) float32`.

    Raises `BatchFailedError` if it has another number of rows or values.
    """
    found = np.asarray(predictions, np.float32)
    if found.shape[:1] != (count,) or found.size != count * prod(shape):
        raise BatchFailedError(f"{owner}: the graph gave {found.shape} for {count} windows, expected {(count, *shape)}")
    return found.reshape(count, *shape)


def _check_node(model: Path, node: Any, shape: tuple[int, ...], expected_type: str) -> None:
    if node.type != expected_type:
        raise BackendUnavailableError(f"{model}: {node.name} is {node.type}, expected {expected_type}")
    if not node.shape:
        return  # a graph may leave even the number of axes open: `shape_predictions` checks the output
    batch, *rest = node.shape
    if isinstance(batch, int):
        raise BackendUnavailableError(f"{model}: {node.name} has a fixed batch of {batch}, expected a dynamic axis")
    fixed = [got if isinstance(got, int) else want for got, want in zip(rest, shape, strict=False)]
    if len(rest) != len(shape) or tuple(fixed) != shape:
        raise BackendUnavailableError(f"{model}: {node.name} is {node.shape}, expected (batch, {shape})")
