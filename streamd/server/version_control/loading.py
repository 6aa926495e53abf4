"""From a selection and the settings to warm lanes: what opens them, what keeps them, and what is too slow to serve."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec

from streamd.core.errors import ReloadError
from streamd.core.scheduling.costs import CostTable
from streamd.core.scheduling.lane_health import LaneLimits
from streamd.runtime.lanes.deployment import Deployment
from streamd.runtime.lanes.opening import OpenBackend, OpenedBackend
from streamd.runtime.lanes.pipeline import Pipeline
from streamd.runtime.lanes.supervisor import LaneSupervisor
from streamd.runtime.versions.manager import Loaded, MakeKeeper, Source
from streamd.server.backends import is_behind
from streamd.server.config import Config
from streamd.server.version_control.selection import Selection

OpenVersion = Callable[..., OpenedBackend]
"""`open_backend` of the backends' room."""


@dataclass(frozen=True, kw_only=True)
class VersionSource(Source):
    """Versions to load, and the settings by which their lanes are opened."""

    selection: Selection
    settings: tuple[object, ...]


def source_of(
    selection: Selection, config: Config, open_version: OpenVersion, release: Callable[[Selection], None]
) -> VersionSource:
    """Return what loads a selection; `release` is called when it is let go of, or could not be loaded."""
    first, *others = selection.versions
    open_backend: OpenBackend = partial(open_version, first, config)
    if others:
        open_backend = partial(open_version, first, config, others=others)
    return VersionSource(
        selection.model,
        open_backend,
        partial(release, selection),
        selection=selection,
        settings=lane_settings(config),
    )


def keepers_of(pipeline: Pipeline, read_config: Callable[[], Config]) -> MakeKeeper:
    """Return what makes the keepers of a pipeline's deployments, by the settings as they are then."""

    def make(
        deployment: Deployment, open_backend: OpenBackend, changed: Callable[[OpenedBackend, CostTable], None]
    ) -> LaneSupervisor:
        config = read_config()
        return LaneSupervisor(
            pipeline,
            open_backend,
            deployment=deployment,
            max_batch=config.batching.max_batch_size,
            warmup_seconds=config.engine.warmup_seconds,
            limits=LaneLimits(hang_seconds=config.engine.lane_hang_seconds),
            changed=changed,
        )

    return make


def check_backend(loaded: Loaded, current: Loaded | None, config: Config) -> None:
    """Raise `ReloadError` where a version fell back to a slower backend than the one that serves well."""
    if current is None or not current.deployment.workers or config.engine.backend != "auto":
        return
    here, there = loaded.opened.backend.name, current.opened.backend.name
    if is_behind(here, there):
        reasons = "; ".join(f"{each['backend']}: {each['reason']}" for each in loaded.keeper.fallbacks)
        raise ReloadError(
            f"{loaded.name} would serve on {here} only, and {current.name} serves on {there}: {reasons}; "
            f'to let it serve so all the same, set backend = "{here}" and reload'
        )


def is_loaded(loaded: Loaded | None, name: str | None, config: Config) -> bool:
    """Whether this is the version of that name, opened as the settings say."""
    if loaded is None or loaded.name != name:
        return False
    assert isinstance(loaded.source, VersionSource)
    return loaded.source.settings == lane_settings(config)


def lane_settings(config: Config) -> tuple[object, ...]:
    """Of the settings those by which lanes are opened; which version is another matter."""
    section = msgspec.structs.replace(
        config.engine, engines="", engine="", ensemble=(), keep_warm_seconds=0.0, read_timeout_seconds=1.0
    )
    return section, config.batching.max_batch_size


def need_restart(config: Config, before: Config) -> list[str]:
    """The sections that differ and are read at start only."""
    live = ("engine", "candidate")
    sections = (field.name for field in msgspec.structs.fields(Config) if field.name not in live)
    return [name for name in sections if getattr(config, name) != getattr(before, name)]


def told_of(loaded: Loaded) -> dict[str, Any]:
    """What `/v1/status` tells of the version that serves."""
    backend, costs, source = loaded.opened.backend, loaded.costs, loaded.source
    assert isinstance(source, VersionSource)
    return {
        "backend": backend.name,
        "precision": backend.precision,
        "fallbacks": loaded.keeper.fallbacks,
        "backend_details": backend.describe(),
        "architecture": "+".join(version.contract.architecture for version in source.selection.versions),
        "bucket_ms": {str(bucket): round(seconds * 1e3, 3) for bucket, seconds in costs.seconds.items()},
    }
