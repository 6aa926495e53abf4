"""Any ONNX graph in ONNX Runtime, on the CPU or on CUDA: sessions, and runners over them.

A session takes several runs at a time, so all runners of a device share one, and its weights are there once.
"""

from collections.abc import Mapping
from pathlib import Path
from traceback import clear_frames
from typing import Any

import numpy as np

from streamd.core.errors import BackendUnavailableError, BatchFailedError, InferenceError, LaneLostError
from streamd.device.onnxruntime_library import PROVIDER, load_onnxruntime, more_room, names_broken_device, why_left_out
from streamd.device.runner import Array, Arrays, TensorSpec

NUMPY_TYPES = {
    **{f"tensor({name})": np.dtype(name) for name in ("float16", "int8", "int16", "int32", "int64", "bool")},
    **{f"tensor({name})": np.dtype(name) for name in ("uint8", "uint16", "uint32", "uint64")},
    "tensor(float)": np.dtype(np.float32),
    "tensor(double)": np.dtype(np.float64),
}


class OnnxRuntimeRunner:
    """Runs batches of any size up to the largest bucket in a session that others may share."""

    pads = False

    def __init__(self, name: str, device: str, session: Any, model: Path, buckets: tuple[int, ...]) -> None:
        self.name = name
        self.device = device
        self.buckets = buckets
        self.inputs = tuple(spec_of(node, "input", model) for node in session.get_inputs())
        self.outputs = tuple(spec_of(node, "output", model) for node in session.get_outputs())
        self._names = [spec.name for spec in self.outputs]
        self._session = session

    def run(self, feeds: Mapping[str, Array]) -> Arrays:
        """Run one batch."""
        session = self._session
        if session is None:
            raise BatchFailedError(f"runner {self.name} is closed")
        try:
            results = session.run(self._names, dict(feeds))
        except Exception as exc:  # ONNX Runtime's errors have no common root of their own
            clear_frames(exc.__traceback__)  # they hold the session, which must not live as long as the error
            raise self._failure(exc) from exc
        return dict(zip(self._names, results, strict=True))

    def close(self) -> None:
        """Let go of the session."""
        self._session = None

    def _failure(self, error: Exception) -> InferenceError:
        told = f"runner {self.name}: ONNX Runtime: {error}"
        if self.device != "cpu" and names_broken_device(told):
            return LaneLostError(told, device_gone=True)
        return BatchFailedError(told + more_room(told))


def open_cpu_session(model: Path, threads: int) -> Any:
    """A session on the CPU with so many threads; raises `BackendUnavailableError`."""
    try:
        import onnxruntime
    except ImportError as exc:
        raise BackendUnavailableError(f"onnxruntime cannot be imported: {exc}") from exc
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Spinning threads would take the cores from whoever prepares the next batch.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    except Exception as exc:  # ONNX Runtime's errors have no common root of their own
        raise BackendUnavailableError(f"{model}: ONNX Runtime cannot load it: {exc}") from exc


def open_cuda_session(model: Path, device: int) -> Any:
    """A session on a CUDA device, in true float32; raises `BackendUnavailableError`, and never runs on the CPU."""
    runtime = load_onnxruntime()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    provider = {
        "device_id": str(device),
        # As for lanes: batches differ in size.
        "arena_extend_strategy": "kSameAsRequested",
        "cudnn_conv_algo_search": "HEURISTIC",
        "use_tf32": "0",
    }
    try:
        # Without `enable_fallback=0` a session that CUDA refused is silently made anew on the CPU.
        session = runtime.InferenceSession(str(model), options, providers=[(PROVIDER, provider)], enable_fallback=0)
    except Exception as exc:  # as above
        told = f"{model}: ONNX Runtime cannot load it on cuda:{device}: {exc}"
        raise BackendUnavailableError(told + more_room(str(exc))) from exc
    if PROVIDER not in session.get_providers():
        raise BackendUnavailableError(f"ONNX Runtime left CUDA out: {why_left_out(runtime)}")
    return session


def spec_of(node: Any, kind: str, model: Path) -> TensorSpec:
    """What a session tells of an input or output; raises `BackendUnavailableError` where no batch goes through it."""
    if node.type not in NUMPY_TYPES:
        raise BackendUnavailableError(f"{model}: {kind} {node.name!r} is {node.type}, expected a type that numpy has")
    if not node.shape:
        raise BackendUnavailableError(f"{model}: {kind} {node.name!r} has no axes, expected a batch axis first")
    batch, *rest = (size if isinstance(size, int) else None for size in node.shape)
    if batch is not None:
        raise BackendUnavailableError(
            f"{model}: {kind} {node.name!r} has a fixed batch of {batch}, expected a dynamic first axis: export it "
            "with a named one (torch.onnx.export: dynamic_axes) from a batch of 2 or more"
        )
    return TensorSpec(node.name, NUMPY_TYPES[node.type], tuple(rest))
