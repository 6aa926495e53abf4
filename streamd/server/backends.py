"""Which backend runs: the chain TensorRT, ONNX Runtime CUDA, ONNX Runtime CPU, and why each was passed over."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from streamd.core.errors import BackendUnavailableError, RepositoryError
from streamd.device.lane import Backend, Lane
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
            return Opened(backend, _make_lanes(backend, config.engine.lanes or backend.default_lanes), fallbacks)
        except BackendUnavailableError as exc:
            fallbacks.append({"backend": name, "reason": str(exc)})
    reasons = "; ".join(f"{each['backend']}: {each['reason']}" for each in fallbacks)
    raise BackendUnavailableError(f"no backend can run {version.name}: {reasons or 'each was tried already'}")


def _make_lanes(backend: Backend, count: int) -> list[Lane]:
    """Make all lanes or none: what the first ones hold is given back where a later one finds no room."""
    lanes: list[Lane] = []
    with ExitStack() as made:
        for index in range(count):
            lane = backend.make_lane(index)
            made.callback(lane.close)
            lanes.append(lane)
        made.pop_all()
    return lanes


def usable_buckets(config: Config) -> tuple[int, ...]:
    """The configured buckets up to the largest batch, rising; the smallest where all are larger."""
    buckets = sorted(set(config.engine.buckets))
    return tuple(size for size in buckets if size <= config.batching.max_batch_size) or (buckets[0],)


def _open_tensorrt(version: EngineVersion, config: Config) -> Backend:
    from streamd.device import cuda
    from streamd.device.tensorrt_engine import Plan, load_tensorrt
    from streamd.device.tensorrt_lane import TensorRtBackend
    from streamd.repository.plans import choose_plan

    library, settings = load_tensorrt(), config.engine
    first = settings.devices[0]
    try:
        chosen = choose_plan(
            version,
            settings.precision,
            cuda.device_name(first),
            cuda.compute_capability(first),
            library.version,
            lean=library.lean,
        )
    except (RepositoryError, cuda.CudaError) as exc:
        raise BackendUnavailableError(str(exc)) from exc
    # A plan of one dynamic profile lists no buckets: it takes those of the configuration.
    static = tuple(size for size in chosen.buckets if size <= config.batching.max_batch_size) or chosen.buckets[:1]
    buckets = static or usable_buckets(config)
    lean = Path(settings.lean_runtime) if settings.lean_runtime and chosen.version_compatible else None
    plan = Plan(chosen.path, chosen.precision, lean)
    return TensorRtBackend(plan, version.contract, buckets, settings.devices, graphs=settings.cuda_graphs)


def _open_onnxruntime_cuda(version: EngineVersion, config: Config) -> Backend:
    from streamd.device.onnxruntime_cuda import LANES_PER_DEVICE, OnnxRuntimeCudaBackend

    devices, lanes = config.engine.devices, config.engine.lanes
    return OnnxRuntimeCudaBackend(
        version.onnx,
        version.contract,
        usable_buckets(config),
        devices,
        lanes_per_device=-(-lanes // len(devices)) if lanes else LANES_PER_DEVICE,
    )


def _open_onnxruntime_cpu(version: EngineVersion, config: Config) -> Backend:
    from streamd.device.onnxruntime_cpu import OnnxRuntimeCpuBackend

    return OnnxRuntimeCpuBackend(version.onnx, version.contract, usable_buckets(config), config.engine.threads_per_lane)


_OPENERS: dict[str, Callable[[EngineVersion, Config], Backend]] = {
    "tensorrt": _open_tensorrt,
    "onnxruntime-cuda": _open_onnxruntime_cuda,
    "onnxruntime-cpu": _open_onnxruntime_cpu,
}
