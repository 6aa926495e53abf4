"""What ONNX Runtime's backends share: does a graph take and give what the manifest says?"""

from pathlib import Path
from typing import Any

from streamd.core.contract import ModelContract
from streamd.core.errors import BackendUnavailableError


def check_graph(model: Path, session: Any, contract: ModelContract) -> None:
    """Raise `BackendUnavailableError` unless a session's graph is to the contract, its batch axis open."""
    given = {node.name: node for node in session.get_inputs()}
    types = {"encoder_cat": "tensor(int32)", "decoder_cat": "tensor(int32)"}
    for name, shape in contract.input_shapes.items():
        if name not in given:
            raise BackendUnavailableError(f"{model}: the graph has inputs {sorted(given)}, expected {name!r}")
        _check_node(model, given[name], shape, types.get(name, "tensor(float)"))
    if extra := set(given) - set(contract.input_shapes):
        raise BackendUnavailableError(f"{model}: the graph has inputs {sorted(extra)} that the contract lacks")
    outputs = {node.name: node for node in session.get_outputs()}
    if "predictions" not in outputs:
        raise BackendUnavailableError(f"{model}: the graph has outputs {sorted(outputs)}, expected 'predictions'")
    _check_node(model, outputs["predictions"], contract.output_shape, "tensor(float)")


def _check_node(model: Path, node: Any, shape: tuple[int, ...], expected_type: str) -> None:
    if node.type != expected_type:
        raise BackendUnavailableError(f"{model}: {node.name} is {node.type}, expected {expected_type}")
    batch, *rest = node.shape or (None,)  # a graph may leave even the number of axes open
    if isinstance(batch, int):
        raise BackendUnavailableError(f"{model}: {node.name} has a fixed batch of {batch}, expected a dynamic axis")
    fixed = [got if isinstance(got, int) else want for got, want in zip(rest, shape, strict=False)]
    if len(rest) != len(shape) or tuple(fixed) != shape:
        raise BackendUnavailableError(f"{model}: {node.name} is {node.shape}, expected (batch, {shape})")
