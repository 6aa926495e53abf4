"""Turns settings into a `DeploymentSpec`: the versions that serve as one, and the backends that open their lanes.

The chain of backends is TensorRT, ONNX Runtime on CUDA, ONNX Runtime on the CPU; the first that runs here is used.
Loads nothing itself: a `DeploymentManager` does, from the spec.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import msgspec
import structlog

from streamd.core.accuracy.scores import TrainingScores
from streamd.core.contract import ModelContract
from streamd.core.errors import BackendUnavailableError, ReloadError, RepositoryError, StreamdError
from streamd.core.names import AUTO, BACKENDS, ONNXRUNTIME_CPU, ONNXRUNTIME_CUDA, TENSORRT
from streamd.core.scheduling.lane_health import LaneLimits
from streamd.core.state.forecast_seals import MAX_MODEL_BYTES
from streamd.inference.checked import CheckedFiles
from streamd.inference.ensemble import EnsembleBackend
from streamd.inference.lane import LANES_PER_DEVICE, Backend, Lane
from streamd.inference.opening import OpenedBackend, join_reasons, open_all, open_first
from streamd.repository.files import VersionHold
from streamd.repository.seal import SealedVersion, list_changed_files, seal_version
from streamd.repository.versions import EngineRepository, EngineVersion, SkippedVersion
from streamd.runtime.accuracy.live import read_training_scores
from streamd.runtime.lanes.deployment import Deployment, DeploymentSpec
from streamd.server.config import Config, EngineSection

log = structlog.get_logger(__name__)


# ---------------------------------------------------------------- versions
@dataclass(frozen=True)
class Selection:
    """Sound versions that serve as one; `gc` keeps their folders until `release`."""

    versions: tuple[SealedVersion, ...]
    holds: ExitStack
    training: TrainingScores | None = None
    """The scores in training, against which drift is measured; `None` for an ensemble, which was not trained as one."""
    passed_over: tuple[SkippedVersion, ...] = ()
    """Versions that should serve in place of these and cannot, each with the reason."""

    @property
    def name(self) -> str:
        """The model name in forecasts: the name of the version, or `ensemble(a,b)`."""
        names = ",".join(version.name for version in self.versions)
        return names if len(self.versions) == 1 else f"ensemble({names})"

    @property
    def contract(self) -> ModelContract:
        """The contract, which all of them share."""
        return self.versions[0].contract

    @property
    def server_ids(self) -> dict[str, int]:
        """The ids that servers had in training, the same in all of them."""
        return self.versions[0].server_ids

    def release(self) -> None:
        """Release the folders; a second call does nothing."""
        self.holds.close()


def select_versions(settings: EngineSection, named: Iterable[str] = (), *, starting: bool = False) -> Selection:
    """Check, read and hold the named versions, else those that the settings pin, else the choice of the repository.

    `starting` ignores a record of promotions that cannot be read. Raises `RepositoryError` with the reason; blocks
    while it reads the files whole.
    """
    repository = EngineRepository(Path(settings.engines))
    names = tuple(named) or settings.pinned
    passed_over: tuple[SkippedVersion, ...] = ()
    if names:
        chosen = tuple(repository.load(name) for name in names)
    else:
        choice = repository.choose_at_start() if starting else repository.choose_with_reasons()
        chosen, passed_over = (choice.version,), choice.skipped
    _check_ensemble(chosen)
    with ExitStack() as holds:
        for version in chosen:
            holds.enter_context(VersionHold(version.path))
        versions = tuple(map(seal_version, chosen))
        training = read_training_scores(versions[0].path) if len(versions) == 1 else None
        selection = Selection(versions, holds.pop_all(), training, passed_over)
    if len(selection.name.encode()) > MAX_MODEL_BYTES:
        selection.release()
        raise RepositoryError(f"{selection.name}: a name of over {MAX_MODEL_BYTES} bytes; name the versions shorter")
    return selection


def check_same_contract(selection: Selection, contract: ModelContract) -> None:
    """Raise `ReloadError` if the contract of a selection is not that of the open state."""
    if differing := find_contract_differences(selection.contract, contract):
        raise ReloadError(
            f"{selection.name}: its {' and '.join(differing)} differ from those of what serves; "
            "the state is laid out by them, so it needs a restart"
        )


def check_choice(selection: Selection, serving: str) -> None:
    """Raise `ReloadError` if a selection would replace the serving version only because a version is damaged.

    A damaged version that is only newer than the selected one, and does not serve, does not prevent the change.
    """
    reasons = [each.reason for each in selection.passed_over if each.rule != "newest" or each.name == serving]
    if reasons:
        raise ReloadError(
            f"{'; '.join(reasons)}: {serving} goes on serving, and {selection.name} would be the next best; "
            "repair it, or promote another version"
        )


def check_same_files(selection: Selection, loaded: Deployment) -> None:
    """Raise `ReloadError` if the files of a version are not those that were loaded under its name."""
    sealed = [version for version in loaded.spec.versions if isinstance(version, SealedVersion)]
    for now, then in zip(selection.versions, sealed, strict=True):
        if changed := list_changed_files(then, now):
            raise ReloadError(
                f"{now.path}: its {' and '.join(changed)} changed since it was loaded; what is loaded stays: give the "
                "new one a name of its own, or restart"
            )


def _check_ensemble(versions: tuple[EngineVersion, ...]) -> None:
    first = versions[0]
    for each in versions[1:]:
        if differing := find_contract_differences(each.contract, first.contract):
            raise RepositoryError(f"{each.path}: its {' and '.join(differing)} differ from {first.name}'s: no ensemble")
        if each.server_ids != first.server_ids:
            raise RepositoryError(f"{each.path}: its server_mapping.json differs from {first.name}'s: no ensemble")


def find_contract_differences(one: ModelContract, other: ModelContract) -> list[str]:
    """Return the names of the fields in which two contracts differ; the architecture and the memory may differ.

    The state keeps a memory whether or not the version that serves asks for it.
    """
    fields = ("features", "targets", "quantiles", "context_length", "horizon", "step_seconds", "units")
    return [name for name in fields if getattr(one, name) != getattr(other, name)]


# ---------------------------------------------------------------- the spec
class OpenVersion(Protocol):
    """Opens the lanes of versions that serve as one: `open_version`, or a fake in a test."""

    def __call__(
        self, versions: Sequence[EngineVersion], config: Config, exhausted: frozenset[str] = frozenset()
    ) -> OpenedBackend:
        """Open the first backend of the chain that runs here and is not in `exhausted`; blocks."""
        ...


def make_spec(
    selection: Selection, config: Config, open_version: OpenVersion, release: Callable[[Selection], None]
) -> DeploymentSpec:
    """Make the spec of a selection; `release` is called when the deployment closes or could not be loaded."""
    return DeploymentSpec(
        name=selection.name,
        open_backend=partial(open_version, selection.versions, config),
        server_ids=selection.server_ids,
        release=partial(release, selection),
        max_batch=config.batching.max_batch_size,
        warmup_seconds=config.engine.warmup_seconds,
        lane_limits=LaneLimits(hang_seconds=config.engine.lane_hang_seconds),
        lane_settings=collect_lane_settings(config),
        versions=selection.versions,
        architecture="+".join(version.contract.architecture for version in selection.versions),
        memory_length=max(version.contract.memory_length for version in selection.versions),
        training=selection.training,
    )


def collect_lane_settings(config: Config) -> tuple[object, ...]:
    """Return the settings by which lanes are opened, without those that select a version or only affect loading."""
    section = msgspec.structs.replace(
        config.engine, engines="", engine="", ensemble=(), keep_warm_seconds=0.0, read_timeout_seconds=1.0
    )
    return section, config.batching.max_batch_size


def is_opened_as(deployment: Deployment, name: str, config: Config) -> bool:
    """Whether a deployment is the version of this name, with lanes opened by these settings."""
    return deployment.name == name and deployment.spec.lane_settings == collect_lane_settings(config)


def check_backend(deployment: Deployment, current: Deployment | None, config: Config) -> None:
    """Raise `ReloadError` if a version fell back to a slower backend than that of the serving version."""
    if current is None or not current.workers or config.engine.backend != AUTO:
        return
    assert deployment.backend is not None, "it is loaded"
    assert current.backend is not None, "it has lanes"
    new, serving = deployment.backend.name, current.backend.name
    if is_slower_backend(new, serving):
        reasons = join_reasons(deployment.supervisor.fallbacks) if deployment.supervisor is not None else ""
        raise ReloadError(
            f"{deployment.name} would serve on {new} only, and {current.name} serves on {serving}: {reasons}; "
            f'to let it serve on {new} anyway, set backend = "{new}" and reload'
        )


# ---------------------------------------------------------------- the chain of backends
def open_version(
    versions: Sequence[EngineVersion], config: Config, exhausted: frozenset[str] = frozenset()
) -> OpenedBackend:
    """Open the first backend of the chain that runs here and is not in `exhausted`; blocks.

    Several versions form one ensemble, all on the same backend. Raises `BackendUnavailableError` with every reason if
    no backend runs them, or if the one that the settings name does not.
    """
    setting = config.engine.backend
    chain = [name for name in (BACKENDS if setting == AUTO else (setting,)) if name not in exhausted]

    # The lanes of an ensemble's members are given each other's inputs, so none of them keeps windows.
    own = config if len(versions) == 1 else _without_resident_windows(config)

    def open_lanes(name: str) -> tuple[Backend, list[Lane]]:
        backends = [_OPENERS[name](version, own) for version in versions]
        backend = backends[0] if len(backends) == 1 else EnsembleBackend(backends)
        count = config.engine.lanes or backend.default_lanes
        return backend, open_all(partial(backend.make_lane, index) for index in range(count))

    openers = {name: partial(open_lanes, name) for name in chain}
    _, (backend, lanes), passed_over = open_first(versions[0].name, openers, skip_on=StreamdError)
    return OpenedBackend(backend, lanes, passed_over)


def _without_resident_windows(config: Config) -> Config:
    engine = msgspec.structs.replace(config.engine, resident_windows=False)
    return msgspec.structs.replace(config, engine=engine)


def is_slower_backend(name: str, other: str) -> bool:
    """Whether a backend comes after another one in the chain, whose order is from fast to slow."""
    return BACKENDS.index(name) > BACKENDS.index(other)


def list_usable_buckets(config: Config) -> tuple[int, ...]:
    """Return the configured buckets up to `max_batch_size`, ascending; the smallest bucket if all are larger."""
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
            cuda.get_device_name(first),
            cuda.get_compute_capability(first),
            library.version,
            lean=library.lean,
        )
    except (RepositoryError, cuda.CudaError) as exc:
        raise BackendUnavailableError(str(exc)) from exc
    # A plan with one dynamic profile lists no buckets and runs those of the configuration.
    static = tuple(size for size in chosen.buckets if size <= config.batching.max_batch_size) or chosen.buckets[:1]
    buckets = static or list_usable_buckets(config)
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
        capacity=config.state.max_servers if settings.resident_windows else 0,
    )


def _open_onnxruntime_cuda(version: EngineVersion, config: Config) -> Backend:
    from streamd.inference.onnxruntime.cuda_lane import OnnxRuntimeCudaBackend

    devices, lanes = config.engine.devices, config.engine.lanes
    graph, precision = _choose_graph(version, config)
    return OnnxRuntimeCudaBackend(
        graph,
        version.contract,
        list_usable_buckets(config),
        devices,
        lanes_per_device=-(-lanes // len(devices)) if lanes else LANES_PER_DEVICE,
        precision=precision,
        checked=_list_checked_files(version),
    )


def _open_onnxruntime_cpu(version: EngineVersion, config: Config) -> Backend:
    from streamd.inference.onnxruntime.cpu_lane import OnnxRuntimeCpuBackend

    graph, precision = _choose_graph(version, config)
    threads = config.engine.threads_per_lane
    return OnnxRuntimeCpuBackend(
        graph, version.contract, list_usable_buckets(config), threads, precision, checked=_list_checked_files(version)
    )


def _list_checked_files(version: EngineVersion) -> CheckedFiles | None:
    """Return the files that the lanes of a version may load; `None` if it was not sealed."""
    return CheckedFiles(version.path, version.sha256, version.data) if isinstance(version, SealedVersion) else None


def _choose_graph(version: EngineVersion, config: Config) -> tuple[Path, str]:
    """Return the graph for ONNX Runtime and its precision: the one that the settings name, else float32.

    A version without that graph, or whose graph the accuracy gate refused, serves in float32.
    """
    from streamd.repository.conversion import choose_graph

    precision = config.engine.precision
    if precision != AUTO:
        try:
            return choose_graph(version.path, precision), precision
        except RepositoryError as exc:
            log.warning("precision_passed_over", engine=version.name, precision=precision, reason=str(exc))
    return version.onnx, "fp32"


_OPENERS: dict[str, Callable[[EngineVersion, Config], Backend]] = {
    TENSORRT: _open_tensorrt,
    ONNXRUNTIME_CUDA: _open_onnxruntime_cuda,
    ONNXRUNTIME_CPU: _open_onnxruntime_cpu,
}
