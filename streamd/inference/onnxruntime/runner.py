"""Runs any ONNX graph in ONNX Runtime, on the CPU or on CUDA.

A session takes several runs at a time, so all runners of a device share one, and its weights are loaded once. Knows
nothing of forecasts.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from traceback import clear_frames
from typing import Any

import numpy as np

from streamd.core.errors import BackendUnavailableError, BatchFailedError
from streamd.inference.onnxruntime.session import make_run_error
from streamd.inference.runner import Array, Arrays, TensorSpec

NUMPY_TYPES = {
    **{f"tensor({name})": np.dtype(name) for name in ("float16", "int8", "int16", "int32", "int64", "bool")},
    **{f"tensor({name})": np.dtype(name) for name in ("uint8", "uint16", "uint32", "uint64")},
    "tensor(float)": np.dtype(np.float32),
    "tensor(double)": np.dtype(np.float64),
}


class OnnxRuntimeRunner:
    """A runner of batches of any size up to the largest bucket, in a session that others may share."""

    pads = False

    def __init__(self, name: str, device: str, session: Any, model: Path, buckets: tuple[int, ...]) -> None:
        self.name = name
        self.device = device
        self.buckets = buckets
        self.inputs = (
            *(make_tensor_spec(node, "input", model) for node in session.get_inputs()),
            *_list_optional_inputs(session, model),
        )
        self.outputs = tuple(make_tensor_spec(node, "output", model) for node in session.get_outputs())
        self._names = [spec.name for spec in self.outputs]
        self._session = session

    def run(self, feeds: Mapping[str, Array]) -> Arrays:
        """Run one batch."""
        if self._session is None:
            raise BatchFailedError(f"runner {self.name} is closed")
        try:
            results = self._session.run(self._names, dict(feeds))
        except Exception as exc:  # ONNX Runtime's errors have no common root of their own
            clear_frames(exc.__traceback__)  # they hold the session, which must not live as long as the error
            raise make_run_error(f"runner {self.name}", self.device, exc) from exc
        return dict(zip(self._names, results, strict=True))

    def close(self) -> None:
        """Drop the session."""
        self._session = None


def _list_optional_inputs(session: Any, model: Path) -> Iterator[TensorSpec]:
    """Yield the inputs that have a default value in the graph, and a batch axis; all other such inputs are weights."""
    for node in session.get_overridable_initializers():
        if node.shape and not isinstance(node.shape[0], int) and node.type in NUMPY_TYPES:
            yield replace(make_tensor_spec(node, "input", model), optional=True)


def make_tensor_spec(node: Any, kind: str, model: Path) -> TensorSpec:
    """Return the spec of a session's input or output; raises `BackendUnavailableError` if no batch goes through it."""
    if node.type not in NUMPY_TYPES:
        raise BackendUnavailableError(f"{model}: {kind} {node.name!r} is {node.type}, expected a type that numpy has")
    if not node.shape and kind == "output":  # the graph does not state its axes; it may have some
        return TensorSpec(node.name, NUMPY_TYPES[node.type], (), ranked=False)
    if not node.shape:
        raise BackendUnavailableError(
            f"{model}: {kind} {node.name!r} has no axes, or the graph does not state them; expected a batch axis first"
        )
    batch, *rest = (size if isinstance(size, int) else None for size in node.shape)
    if batch is not None:
        raise BackendUnavailableError(
            f"{model}: {kind} {node.name!r} has a fixed batch of {batch}, expected a dynamic first axis: export it "
            "with a named one (torch.onnx.export: dynamic_axes) from a batch of 2 or more"
        )
    return TensorSpec(node.name, NUMPY_TYPES[node.type], tuple(rest))
