"""ONNX Runtime on the CPU: each lane one session with its own threads."""

from pathlib import Path
from typing import Any

import numpy as np

from streamd.core.contract import ModelContract
from streamd.core.errors import BackendUnavailableError, BatchFailedError
from streamd.device.lane import Float32, Inputs


class OnnxRuntimeCpuBackend:
    """Runs a version's `model.onnx`; any batch size up to the largest bucket runs as it is."""

    name = "onnxruntime-cpu"
    precision = "fp32"

    def __init__(self, model: Path, contract: ModelContract, buckets: tuple[int, ...], threads_per_lane: int) -> None:
        try:
            import onnxruntime
        except ImportError as exc:
            raise BackendUnavailableError(f"onnxruntime cannot be imported: {exc}") from exc
        self._runtime = onnxruntime
        self.model = model
        self.contract = contract
        self.buckets = buckets
        self.threads_per_lane = threads_per_lane

    def make_lane(self, index: int) -> "OnnxRuntimeCpuLane":
        """Load the model into a session of its own."""
        options = self._runtime.SessionOptions()
        options.intra_op_num_threads = self.threads_per_lane
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # Spinning threads would take the cores from the event loop.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            session = self._runtime.InferenceSession(str(self.model), options, providers=["CPUExecutionProvider"])
        except Exception as exc:
            raise BackendUnavailableError(f"{self.model}: ONNX Runtime cannot load it: {exc}") from exc
        self._check(session)
        return OnnxRuntimeCpuLane(f"cpu-{index}", session, self.contract, self.buckets)

    def describe(self) -> dict[str, Any]:
        """The runtime's version and threads."""
        return {"onnxruntime": self._runtime.__version__, "threads_per_lane": self.threads_per_lane}

    def _check(self, session: Any) -> None:
        """Raise `BackendUnavailableError` unless the graph takes and gives what the manifest says."""
        given = {node.name: node for node in session.get_inputs()}
        types = {"encoder_cat": "tensor(int32)", "decoder_cat": "tensor(int32)"}
        for name, shape in self.contract.input_shapes.items():
            if name not in given:
                raise BackendUnavailableError(f"{self.model}: the graph has inputs {sorted(given)}, expected {name!r}")
            _check_node(self.model, given[name], shape, types.get(name, "tensor(float)"))
        if extra := set(given) - set(self.contract.input_shapes):
            raise BackendUnavailableError(f"{self.model}: the graph has inputs {sorted(extra)} that the contract lacks")
        outputs = {node.name: node for node in session.get_outputs()}
        if "predictions" not in outputs:
            raise BackendUnavailableError(
                f"{self.model}: the graph has outputs {sorted(outputs)}, expected 'predictions'"
            )
        _check_node(self.model, outputs["predictions"], self.contract.output_shape, "tensor(float)")


class OnnxRuntimeCpuLane:
    """One session; `run` blocks with the GIL released."""

    device = "cpu"
    pads = False

    def __init__(self, name: str, session: Any, contract: ModelContract, buckets: tuple[int, ...]) -> None:
        self.name = name
        self.buckets = buckets
        self.inputs = Inputs.allocate(contract, buckets[-1])
        self._session = session
        self._shape = (contract.horizon, len(contract.targets), len(contract.quantiles))

    def run(self, count: int) -> Float32:
        """Run the first `count` windows; a graph that fails raises `BatchFailedError`."""
        if self._session is None:
            raise BatchFailedError(f"lane {self.name} is closed")
        try:
            (predictions,) = self._session.run(["predictions"], self.inputs.first(count))
        except Exception as exc:  # ONNX Runtime's errors have no common root of their own
            raise BatchFailedError(f"lane {self.name}: ONNX Runtime: {exc}") from exc
        return np.asarray(predictions, np.float32).reshape(count, *self._shape)

    def close(self) -> None:
        """Drop the session."""
        self._session = None


def _check_node(model: Path, node: Any, shape: tuple[int, ...], expected_type: str) -> None:
    if node.type != expected_type:
        raise BackendUnavailableError(f"{model}: {node.name} is {node.type}, expected {expected_type}")
    batch, *rest = node.shape or (None,)  # a graph may leave even the number of axes open
    if isinstance(batch, int):
        raise BackendUnavailableError(f"{model}: {node.name} has a fixed batch of {batch}, expected a dynamic axis")
    fixed = [got if isinstance(got, int) else want for got, want in zip(rest, shape, strict=False)]
    if len(rest) != len(shape) or tuple(fixed) != shape:
        raise BackendUnavailableError(f"{model}: {node.name} is {node.shape}, expected (batch, {shape})")
