"""ONNX Runtime on CUDA, for machines without TensorRT: each lane is one session on a stream of its own.

If CUDA's libraries are missing, ONNX Runtime would silently run on the CPU; here this is an error with the reason.
"""

from pathlib import Path
from traceback import clear_frames
from typing import Any

from streamd.core.arrays import Float32
from streamd.core.contract import ModelContract
from streamd.core.errors import BatchFailedError, InferenceError, LaneLostError
from streamd.core.names import ONNXRUNTIME_CUDA
from streamd.inference import cuda
from streamd.inference.checked import CheckedFiles
from streamd.inference.cuda import CudaError
from streamd.inference.lane import LANES_PER_DEVICE
from streamd.inference.onnxruntime.binding import Binding, BoundSession, PlainSession
from streamd.inference.onnxruntime.graph import check_session, shape_predictions
from streamd.inference.onnxruntime.library import (
    count_cpu_nodes,
    load_onnxruntime,
    mentions_broken_device,
    suggest_less_memory,
)
from streamd.inference.onnxruntime.session import make_run_error, open_cuda_session

MEMORY_SHARE = 0.9
"""The share of a device's memory that all its lanes together may use."""


class OnnxRuntimeCudaBackend:
    """Runs a version's `model.onnx` on one or several devices; lane `i` is on device `devices[i % len(devices)]`.

    Any batch size up to the largest bucket runs as it is. `tensor_float32` lets matrix products round their factors
    to 10 bits: faster, and as exact as half precision. Raises `BackendUnavailableError` with the reason if the
    installed ONNX Runtime was built without CUDA or a device does not exist.
    """

    name = ONNXRUNTIME_CUDA

    def __init__(
        self,
        model: Path,
        contract: ModelContract,
        buckets: tuple[int, ...],
        devices: tuple[int, ...] = (0,),
        *,
        lanes_per_device: int = LANES_PER_DEVICE,
        tensor_float32: bool = False,
        precision: str = "fp32",
        checked: CheckedFiles | None = None,
    ) -> None:
        self._runtime = load_onnxruntime()
        self._own_streams = _has_cuda_python()
        if self._own_streams:
            cuda.check_devices(devices)
        self.model = model
        self._checked = checked
        self.contract = contract
        self.buckets = buckets
        self.devices = devices
        self.lanes_per_device = lanes_per_device
        self.default_lanes = lanes_per_device * len(devices)
        self.tensor_float32 = tensor_float32
        self.precision = "tf32" if tensor_float32 else precision

    def make_lane(self, index: int) -> "OnnxRuntimeCudaLane":
        """Load the model into a session of its own; with `checked`, a model that is not the checked one is refused."""
        device = self.devices[index % len(self.devices)]
        name = f"cuda:{device}/{index // len(self.devices)}"
        try:
            binding = self._bind(device)
        except CudaError as exc:
            raise cuda.make_unusable_error(device, f"{name}: {exc}{suggest_less_memory(str(exc))}") from exc
        return OnnxRuntimeCudaLane(name, f"cuda:{device}", binding, self.contract, self.buckets)

    def describe(self) -> dict[str, Any]:
        """Return the runtime's version, the CUDA version that it was built for, and the devices."""
        names = {f"cuda:{each}": cuda.get_device_name(each) if self._own_streams else "" for each in self.devices}
        return {
            "onnxruntime": self._runtime.__version__,
            "cuda": getattr(self._runtime, "cuda_version", ""),
            "devices": names,
        }

    def _bind(self, device: int) -> Binding:
        def open_session(stream: int | None) -> Any:
            return self._open_session(device, stream)

        if not self._own_streams:
            return PlainSession(open_session, self.contract, self.buckets[-1])
        options = self._runtime.RunOptions()
        return BoundSession(device, open_session, options, self.contract, self.buckets[-1])

    def _open_session(self, device: int, stream: int | None) -> Any:
        limit = None
        if stream is not None:
            # A fixed share: a lane that needs more fails during warm-up, and not under load beside busy lanes.
            limit = int(cuda.get_memory_bytes(device)[1] * MEMORY_SHARE) // self.lanes_per_device
        session = open_cuda_session(
            self._runtime,
            self.model,
            device,
            tensor_float32=self.tensor_float32,
            stream=stream,
            limit_bytes=limit,
            checked=self._checked,
        )
        check_session(self.model, session, self.contract)
        return session


class OnnxRuntimeCudaLane:
    """A lane of one session; `run` blocks with the GIL released."""

    pads = False

    def __init__(
        self, name: str, device: str, binding: Binding, contract: ModelContract, buckets: tuple[int, ...]
    ) -> None:
        self.name = name
        self.device = device
        self.buckets = buckets
        self.inputs = binding.inputs
        self._binding = binding
        self._nodes_on_cpu = count_cpu_nodes(binding.session)
        self._shape = (contract.horizon, len(contract.targets), len(contract.quantiles))
        self._closed = False

    def run(self, count: int) -> Float32:
        """Run the first `count` windows; raises `LaneLostError` if the device reports that it is broken."""
        if self._closed:
            raise BatchFailedError(f"lane {self.name} is closed")
        if not 0 < count <= self.buckets[-1]:
            raise BatchFailedError(f"lane {self.name}: a batch of {count}, expected 1 to {self.buckets[-1]}")
        try:
            predictions = self._binding.run(count)
        except Exception as exc:
            # The traceback's frames hold the session, which must not live as long as the error is kept.
            clear_frames(exc.__traceback__)
            raise self._make_error(exc) from exc
        return shape_predictions(f"lane {self.name}", predictions, count, self._shape)

    def check(self) -> None:
        """Raise `LaneLostError` if the device reports an error; without cuda-python only a run can find one."""
        if self._closed:
            return
        try:
            self._binding.check()
        except CudaError as exc:
            raise self._make_lost_error(str(exc), exc) from exc

    def describe(self) -> dict[str, Any]:
        """Return the owner of its stream, and the number of nodes that run on the CPU (`None` if unknown)."""
        return {"stream": self._binding.stream, "nodes_on_cpu": self._nodes_on_cpu}

    def close(self) -> None:
        """Drop the session, and release the buffers and the stream."""
        self._closed = True
        self._binding.close()

    def _make_error(self, error: Exception) -> InferenceError:
        """Return the error of a failed run: of the batch, unless the device reports an error or the text names one."""
        if isinstance(error, CudaError):
            return self._make_lost_error(str(error), error)
        try:
            self._binding.wait_idle()
        except CudaError as found:
            return self._make_lost_error(f"ONNX Runtime: {error}; {found}", found)
        return make_run_error(f"lane {self.name}", self.device, error)

    def _make_lost_error(self, text: str, error: CudaError) -> LaneLostError:
        return LaneLostError(f"lane {self.name}: {text}", device_gone=error.sticky or mentions_broken_device(text))


def _has_cuda_python() -> bool:
    try:
        import cuda.bindings.runtime  # type: ignore[import-not-found, unused-ignore] # noqa: F401
    except ImportError:
        return False
    return True
