"""Which backend runs: the chain TensorRT, ONNX Runtime CUDA, ONNX Runtime CPU, and why each was passed over."""

import importlib.util
import os
from collections.abc import Callable

from streamd.core.errors import BackendUnavailableError
from streamd.device.lane import Backend
from streamd.repository.versions import EngineVersion
from streamd.runtime.keeper import Opened
from streamd.server.config import Config


def open_backend(version: EngineVersion, config: Config, passed_over: frozenset[str] = frozenset()) -> Opened:
    """Open the first backend of the chain that runs here and is not in `passed_over`; blocks.

    Raises `BackendUnavailableError` with every reason where none does, or where the one that was asked for
    does not.
    """
    wanted = config.engine.backend
    chain = [name for name in (_OPENERS if wanted == "auto" else [wanted]) if name not in passed_over]
    fallbacks: list[dict[str, str]] = []
    for name in chain:
        try:
            backend = _OPENERS[name](version, config)
            lanes = [backend.make_lane(index) for index in range(lane_count(config))]
        except BackendUnavailableError as exc:
            fallbacks.append({"backend": name, "reason": str(exc)})
        else:
            return Opened(backend, lanes, fallbacks)
    reasons = "; ".join(f"{each['backend']}: {each['reason']}" for each in fallbacks)
    raise BackendUnavailableError(f"no backend can run {version.name}: {reasons or 'each was tried already'}")


def lane_count(config: Config) -> int:
    """The lanes to open: as many as configured, or one more than the cores that this process may use.

    With the one more, a core has work while another lane's batch is handed over: a twentieth more forecasts.
    """
    return config.engine.lanes or len(os.sched_getaffinity(0)) + 1


def _open_tensorrt(version: EngineVersion, config: Config) -> Backend:
    if importlib.util.find_spec("tensorrt") is None:
        raise BackendUnavailableError("the package tensorrt is not installed: pip install 'streamd[tensorrt]'")
    raise BackendUnavailableError("this release of streamd has no TensorRT lanes yet")


def _open_onnxruntime_cuda(version: EngineVersion, config: Config) -> Backend:
    import onnxruntime

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        raise BackendUnavailableError(
            "the installed ONNX Runtime has no CUDA provider: pip install onnxruntime-gpu in its place"
        )
    raise BackendUnavailableError("this release of streamd has no ONNX Runtime CUDA lanes yet")


def _open_onnxruntime_cpu(version: EngineVersion, config: Config) -> Backend:
    from streamd.device.onnxruntime_cpu import OnnxRuntimeCpuBackend

    settings = config.engine
    buckets = sorted(set(settings.buckets))
    usable = tuple(size for size in buckets if size <= config.batching.max_batch_size) or (buckets[0],)
    return OnnxRuntimeCpuBackend(version.onnx, version.contract, usable, settings.threads_per_lane)


_OPENERS: dict[str, Callable[[EngineVersion, Config], Backend]] = {
    "tensorrt": _open_tensorrt,
    "onnxruntime-cuda": _open_onnxruntime_cuda,
    "onnxruntime-cpu": _open_onnxruntime_cpu,
}
