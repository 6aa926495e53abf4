"""Which backend runs: the chain TensorRT, ONNX Runtime CUDA, ONNX Runtime CPU, and why each was passed over."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import structlog

from streamd.core.errors import BackendUnavailableError, RepositoryError, StreamdError
from streamd.inference.checked import CheckedFiles
from streamd.inference.ensemble import EnsembleBackend
from streamd.inference.lane import LANES_PER_DEVICE, Backend
from streamd.inference.opening import all_or_none
from streamd.repository.seal import SealedVersion
from streamd.repository.versions import EngineVersion
from streamd.runtime.lanes.opening import OpenedBackend
from streamd.server.config import Config

log = structlog.get_logger(__name__)


def open_backend(
    version: EngineVersion,
    config: Config,
    passed_over: frozenset[str] = frozenset(),
    *,
    others: Sequence[EngineVersion] = (),
) -> OpenedBackend:
    """Open the first backend of the chain that runs here and is not in `passed_over`; blocks.

    With `others` they and the version are one ensemble, all of it on the same backend.
    Raises `BackendUnavailableError` with every reason where none does, or where the one that was asked for
    does not.
    """
    wanted = config.engine.backend
    chain = [name for name in (_OPENERS if wanted == "auto" else [wanted]) if name not in passed_over]
    fallbacks: list[dict[str, str]] = []
    for name in chain:
        try:
            backend = _OPENERS[name](version, config)
            if others:
                backend = EnsembleBackend([backend, *(_OPENERS[name](each, config) for each in others)])
            count = config.engine.lanes or backend.default_lanes
            return OpenedBackend(
                backend, all_or_none(partial(backend.make_lane, index) for index in range(count)), fallbacks
            )
        except StreamdError as exc:
            fallbacks.append({"backend": name, "reason": str(exc)})
    reasons = "; ".join(f"{each['backend']}: {each['reason']}" for each in fallbacks)
    raise BackendUnavailableError(f"no backend can run {version.name}: {reasons or 'each was tried already'}")


def is_behind(name: str, other: str) -> bool:
    """Whether a backend comes after another one in the chain, which is slower."""
    chain = list(_OPENERS)
    return chain.index(name) > chain.index(other)


def usable_buckets(config: Config) -> tuple[int, ...]:
    """The configured buckets up to the largest batch, rising; the smallest where all are larger."""
    buckets = sorted(set(config.engine.buckets))
    return tuple(size for size in buckets if size <= config.batching.max_batch_size) or (buckets[0],)


def _open_tensorrt(version: EngineVersion, config: Config) -> Backend:
    from streamd.inference import cuda
    from streamd.inference.tensorrt.engine import Plan
    from streamd.inference.tensorrt.lane import TensorRtBackend
    from streamd.inference.tensorrt.library import load_tensorrt
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
    if isinstance(version, SealedVersion) and version.sha256.get(chosen.path.name) != chosen.sha256:
        raise BackendUnavailableError(
            f"{chosen.path}: another plan than when {version.name} was checked: restart to check and serve it"
        )
    plan = Plan(chosen.path, chosen.precision, lean, chosen.sha256)
    return TensorRtBackend(
        plan,
        version.contract,
        buckets,
        settings.devices,
        graphs=settings.cuda_graphs,
        spin=settings.lane_wait == "spin",
    )


def _open_onnxruntime_cuda(version: EngineVersion, config: Config) -> Backend:
    from streamd.inference.onnxruntime.cuda_lane import OnnxRuntimeCudaBackend

    devices, lanes = config.engine.devices, config.engine.lanes
    graph, precision = _graph_of(version, config)
    return OnnxRuntimeCudaBackend(
        graph,
        version.contract,
        usable_buckets(config),
        devices,
        lanes_per_device=-(-lanes // len(devices)) if lanes else LANES_PER_DEVICE,
        precision=precision,
        checked=_checked(version),
    )


def _open_onnxruntime_cpu(version: EngineVersion, config: Config) -> Backend:
    from streamd.inference.onnxruntime.cpu_lane import OnnxRuntimeCpuBackend

    graph, precision = _graph_of(version, config)
    threads = config.engine.threads_per_lane
    return OnnxRuntimeCpuBackend(
        graph, version.contract, usable_buckets(config), threads, precision, checked=_checked(version)
    )


def _checked(version: EngineVersion) -> CheckedFiles | None:
    """The files that a version's lanes may load; None where it was not sealed."""
    return CheckedFiles(version.path, version.sha256, version.data) if isinstance(version, SealedVersion) else None


def _graph_of(version: EngineVersion, config: Config) -> tuple[Path, str]:
    """The graph for ONNX Runtime, and its precision: the one that is asked for by name, else float32.

    A version without that graph, or whose graph the accuracy gate refused, still serves in float32.
    """
    from streamd.repository.conversion import choose_graph

    wanted = config.engine.precision
    if wanted != "auto":
        try:
            return choose_graph(version.path, wanted), wanted
        except RepositoryError as exc:
            log.warning("precision_passed_over", engine=version.name, precision=wanted, reason=str(exc))
    return version.onnx, "fp32"


_OPENERS: dict[str, Callable[[EngineVersion, Config], Backend]] = {
    "tensorrt": _open_tensorrt,
    "onnxruntime-cuda": _open_onnxruntime_cuda,
    "onnxruntime-cpu": _open_onnxruntime_cpu,
}
