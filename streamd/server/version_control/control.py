"""Decides which version serves, from start to stop: by the settings, a promotion, a rollback or a reload.

Each change has the same order: check, load and warm beside the serving version, record, switch. So a process that is
killed at any step leaves a record of a version that is known to load, and a change that fails changes nothing.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import structlog

from streamd.core.errors import DrainingError, ReloadError, StreamdError
from streamd.repository.record import PromotionRecord
from streamd.repository.seal import SealedVersion
from streamd.runtime.background import run_in_background
from streamd.runtime.lanes.deployment import Deployment, DeploymentSpec
from streamd.runtime.service import Service
from streamd.runtime.versions.candidate import Candidate
from streamd.runtime.versions.manager import DeploymentManager
from streamd.server.config import CandidateSection, Config, find_restart_sections
from streamd.server.memory import trim_heap
from streamd.server.version_control.candidate import CandidateControl
from streamd.server.version_control.catalog import CatalogReader, describe_catalog
from streamd.server.version_control.prepared import CheckSelection, PreparedVersion, WriteRecord, digest_versions
from streamd.server.version_control.specs import (
    OpenVersion,
    Selection,
    check_backend,
    check_choice,
    check_same_contract,
    check_same_files,
    is_opened_as,
    make_spec,
)
from streamd.server.version_control.version_folders import VersionFolders
from streamd.server.version_control.version_status import VersionStatus

log = structlog.get_logger(__name__)


class VersionControl:
    """Decides which version serves and changes it, one change at a time.

    `reread` reads the settings again, with the flags and variables of the process; it raises `ConfigError`.
    """

    def __init__(
        self, service: Service, config: Config, open_version: OpenVersion, reread: Callable[[], Config] | None = None
    ) -> None:
        self.config = config
        self.on_device_lost: Callable[[str], None] = lambda reason: None
        """Called with the reason if the version that serves has lost a device."""
        self._service = service
        self._open_version = open_version
        self._reread = reread or (lambda: config)
        self._manager = DeploymentManager(
            service.pipeline, keep_warm_seconds=config.engine.keep_warm_seconds, listener=self
        )
        self._candidates = CandidateControl(service, config, open_version, self._release)
        self.folders = VersionFolders(lambda: self.config)
        """The versions on disk."""
        self._status = VersionStatus(service, self._manager)
        self.is_in_cluster = False
        """Whether all nodes change versions together: then the settings begin no candidate."""
        self.cluster_version: str | None = None
        """The version that the cluster serves, which a reload selects; `None` until it is known."""
        self._catalog = CatalogReader()
        self._lock = asyncio.Lock()
        self._status.update()

    async def start(self, selection: Selection) -> Deployment:
        """Load the first version and switch to it; raises `BackendUnavailableError` if no backend runs it."""
        async with self._lock:
            loaded = await self._manager.load(self._spec(selection, self.config))
            self._status.note_passed_over(selection.passed_over, loaded.name)
            self._status.note("serving", loaded.name)
            self._switch(loaded, self.config)
        return loaded

    async def start_configured_candidate(self) -> None:
        """Load the candidate that the settings name; a failure is reported in the status and the log only."""
        if self.config.candidate.candidate:
            async with self._lock:
                await self._begin_configured_candidate(self.config.candidate)

    def close(self) -> None:
        """Stop supervising the lanes of all versions; the pipeline stops the lanes themselves."""
        self._candidates.close()
        self._manager.close()

    # ------------------------------------------------------------ changes
    async def reload(self) -> None:
        """Read the settings again, select the version again, and switch if it is another one.

        A failure is reported in the status and the log only, and changes nothing.
        """
        async with self._lock:
            with suppress(StreamdError):  # the status has it
                async with self._status.reporting("the selected version"):
                    config = await self.folders.run("the settings", self._reread)
                    self._apply_alert_rules(config)
                    is_candidate_due = (
                        config.candidate != self.config.candidate or self._status.lost_candidate is not None
                    )
                    await self._apply_settings(config)
                if is_candidate_due:
                    await self._begin_configured_candidate(config.candidate)

    def _apply_alert_rules(self, config: Config) -> None:
        """Apply the rules of alerts, which do not depend on the version that is selected."""
        if self._service.alerts is not None:
            self._service.alerts.replace_rules(config.alerts)

    async def promote(self, version: str, who: str, why: str) -> dict[str, Any]:
        """Load a version, record its promotion, and switch to it.

        Returns the names of the new and the previous version. Raises `RepositoryError` if the version is refused,
        `ReloadError` if it cannot serve without a restart.
        """
        async with self._requested_change(version):
            before, began = self._service.model, time.monotonic()
            await self.folders.check_promotable(version)
            loaded = await self._warm(self.config, await self.folders.select(self.config, version))
            await self._record(loaded, partial(self.folders.promoter.promote, version, who, why, time.time()))
            await self._serve(loaded, self.config)
            self._status.note_passed_over((), loaded.name)
        return self._status.describe_change(before, began)

    async def rollback(self, who: str, why: str) -> dict[str, Any]:
        """Undo the last promotion, without loading if the earlier version is still warm. Raises as `promote`."""
        async with self._requested_change("the previous version"):
            before, began = self._service.model, time.monotonic()
            version, passed_over = await self.folders.find_rollback_target()
            loaded = await self._warm(self.config, await self.folders.select(self.config, version))
            record = await self._record(loaded, partial(self.folders.promoter.rollback, who, why, time.time()))
            if record.current in (None, version):
                await self._serve(loaded, self.config)
                self._status.note_passed_over(passed_over, loaded.name)
            else:  # another version was promoted from the shell in the meantime
                self._manager.discard(loaded)
                await self._apply_settings(self.config)
        return self._status.describe_change(before, began)

    @asynccontextmanager
    async def _requested_change(self, version: str) -> AsyncIterator[None]:
        """Run one change that a caller requested; raises `ReloadError` if another one runs or the settings pin one."""
        self._check_not_busy()
        self._check_may_change()
        async with self._lock, self._status.reporting(version):
            yield

    def _check_not_draining(self) -> None:
        if self._service.is_draining:
            raise DrainingError("the daemon is stopping")

    def _check_not_busy(self) -> None:
        self._check_not_draining()
        if self._lock.locked():
            raise ReloadError(
                f"{self._status.change['version']} is being loaded: one change at a time; try again later"
            )

    # ------------------------------------------------------------ changes of a cluster
    @asynccontextmanager
    async def prepare(self, version: str, check: CheckSelection) -> AsyncIterator[PreparedVersion]:
        """Load and warm a version for a change that all nodes decide; without its `switch`, it is discarded.

        `check` raises `ReloadError` if the files are not those that are meant. Raises as `promote`, but waits for a
        change that is in progress.
        """
        self._check_may_change()
        async with self._lock, self._status.reporting(version):
            await self.folders.check_promotable(version)
            loaded = await self._warm(self.config, await self.folders.select_checked(version, check))
            prepared = PreparedVersion(partial(self._switch_prepared, loaded))
            try:
                yield prepared
            finally:
                if not prepared.is_used:
                    self._manager.discard(loaded)

    async def _switch_prepared(self, loaded: Deployment, write: WriteRecord) -> None:
        try:
            await self.folders.run("the record of promotions", partial(write, self.folders.promoter))
        except (StreamdError, OSError) as exc:  # the cluster has decided, and its table is the record that counts
            log.error("promotion_not_recorded", engine=loaded.name, error=str(exc))
        await self._serve(loaded, self.config)
        self._status.note_passed_over((), loaded.name)

    @asynccontextmanager
    async def prepare_candidate(
        self, version: str, share: float, shadow: bool, check: CheckSelection
    ) -> AsyncIterator[PreparedVersion]:
        """Load a candidate for a change that all nodes decide, as `prepare`; its `switch` gives it its servers."""
        self._check_not_draining()
        async with self._lock, self._status.reporting(version):
            selection = await self.folders.select_checked(version, check)
            self._candidates.config = self.config
            settings = CandidateSection(version, share, shadow)
            candidate = await self._candidates.load(selection, settings, self._manager.current)
            prepared = PreparedVersion(lambda write: self._candidates.start(candidate))
            try:
                yield prepared
            finally:
                if not prepared.is_used:
                    await candidate.end()

    async def drop_candidate(self) -> None:
        """End the candidate, if there is one, after a change that is in progress."""
        async with self._lock:
            await self._candidates.end()
            self._status.note_lost_candidate(None)

    @property
    def serving_digest(self) -> str | None:
        """The digest of the network that serves; `None` before the first version."""
        current = self._manager.current
        versions = () if current is None else current.spec.versions
        sealed = [each for each in versions if isinstance(each, SealedVersion)]
        return digest_versions(sealed) if sealed else None

    @property
    def candidate(self) -> Candidate | None:
        """The candidate, if there is one."""
        return self._candidates.candidate

    def _check_may_change(self) -> None:
        self._check_not_draining()
        if self.config.engine.pinned:
            raise ReloadError(
                f"the settings pin {' and '.join(self.config.engine.pinned)}, whatever is promoted: "
                "take engine or ensemble out of them and reload first"
            )

    # ------------------------------------------------------------ candidates
    async def start_candidate(self, version: str, share: float, shadow: bool) -> dict[str, Any]:
        """Make a version the candidate on a share of the servers, in place of any other; raises as `promote`."""
        self._check_not_busy()
        async with self._lock:
            await self._begin_candidate(CandidateSection(version, share, shadow))
            self._status.note_lost_candidate(None)
        return {"candidate": self._candidates.status()}

    async def end_candidate(self) -> dict[str, Any]:
        """End the candidate, if there is one; the serving version forecasts its servers again."""
        self._check_not_busy()
        name = self._candidates.name
        await self.drop_candidate()
        return {"ended": name}

    async def _begin_configured_candidate(self, settings: CandidateSection) -> None:
        """Begin the candidate of the settings; a failure stays in the status until a candidate begins or ends."""
        if self.is_in_cluster:
            log.warning("candidate_settings_ignored", remedy="POST /v1/engines/candidate, for all nodes of the cluster")
            return
        lost = None
        try:
            await self._begin_candidate(settings)
        except StreamdError as exc:
            if settings.candidate != self._service.model:
                lost = {"name": settings.candidate, "rule": "candidate", "reason": str(exc)}
        self._status.note_lost_candidate(lost)

    async def _begin_candidate(self, settings: CandidateSection) -> None:
        self._candidates.config = self.config
        if not settings.candidate:
            await self._candidates.end()
            return
        async with self._status.reporting(settings.candidate):
            selection = await self.folders.select(self.config, settings.candidate)
            await self._candidates.begin(selection, settings, self._manager.current)

    async def _apply_settings(self, config: Config) -> None:
        """Switch to the version that these settings select, then adopt their engine and candidate sections.

        Raises `ReloadError` if the version that should serve is damaged: a reload does not replace it by another one.
        """
        named = () if config.engine.pinned else filter(None, (self.cluster_version,))
        selection = await self.folders.select(config, *named)
        try:
            check_choice(selection, self._service.model)
        except ReloadError:
            selection.release()
            raise
        loaded = await self._warm_selected(selection, config)
        self._status.note_passed_over(selection.passed_over, loaded.name)
        if sections := find_restart_sections(config, self.config):
            log.warning("settings_need_restart", sections=sections)
        await self._serve(loaded, config)

    async def _serve(self, loaded: Deployment, config: Config) -> None:
        """Switch to a loaded version, and end the candidate if it is this version: it can no longer be compared."""
        self._switch(loaded, config)
        if self._candidates.name == loaded.name:
            await self._candidates.end()

    async def _warm(self, config: Config, selection: Selection) -> Deployment:
        """Return the version, warm: the candidate's lanes if it is the candidate, else as `_warm_selected`."""
        if self._candidates.has_warm(selection.name):
            try:
                self._candidates.check_same_files(selection)
                transferred = await self._candidates.transfer(self._manager)
            except BaseException:
                selection.release()
                raise
            if transferred is not None:
                selection.release()
                return transferred
        return await self._warm_selected(selection, config)

    async def _warm_selected(self, selection: Selection, config: Config) -> Deployment:
        """Return the selected version, warm, loading it unless it is; releases the selection if it is not used."""
        try:
            self._status.note("loading", selection.name)
            if (loaded := self._claim_warm(selection.name, config)) is not None:
                try:
                    check_same_files(selection, loaded)
                except ReloadError:
                    self._manager.discard(loaded)
                    raise
                selection.release()
                return loaded
            check_same_contract(selection, self._service.contract)
        except BaseException:
            selection.release()
            raise
        made = await self._manager.load(self._spec(selection, config))
        try:
            check_backend(made, self._manager.current, config)
        except ReloadError:
            self._manager.discard(made)
            raise
        return made

    def _claim_warm(self, name: str, config: Config) -> Deployment | None:
        """Return the version of this name if it serves or is still warm, and claim it until `switch` or `discard`."""
        for each in (self._manager.current, self._manager.previous):
            if each is not None and is_opened_as(each, name, config) and self._manager.claim(each):
                return each
        return None

    async def _record(self, loaded: Deployment, write: Callable[[], PromotionRecord]) -> PromotionRecord:
        """Record the change; if that fails, discard the version that was loaded for it."""
        try:
            return await self.folders.run("the record of promotions", write)
        except BaseException:
            self._manager.discard(loaded)
            raise

    def _switch(self, loaded: Deployment, config: Config) -> None:
        self.config = msgspec.structs.replace(self.config, engine=config.engine, candidate=config.candidate)
        self._manager.keep_warm_seconds = config.engine.keep_warm_seconds
        self._manager.switch(loaded)
        if loaded.spec.memory_length and self._service.state.memory is None:
            log.warning("memory_is_off", engine=loaded.name, remedy="[windows] memory = true: it forecasts without one")
        training, share = loaded.spec.training, self._candidates.share_left
        self._service.accuracy.follow(loaded.name, training=training, share=share)

    async def list_versions(self) -> dict[str, Any]:
        """Return the versions of the repository, sound or not, and the record of promotions.

        Raises `RepositoryError` if its file system does not answer in time.
        """
        settings = self.config.engine
        catalog = await self._catalog.read(Path(settings.engines), settings.read_timeout_seconds)
        describe = partial(
            describe_catalog,
            catalog,
            serving=self._service.model,
            candidate=self._candidates.name,
            contract=self._service.contract,
            is_pinned=bool(settings.pinned),
        )
        return await run_in_background(describe)  # 10,000 versions take 0.2 s

    # ------------------------------------------------------------ helpers
    def _spec(self, selection: Selection, config: Config) -> DeploymentSpec:
        return make_spec(selection, config, self._open_version, self._release)

    def _release(self, selection: Selection) -> None:
        """Release the folders of a version, and its scores unless the version is also loaded otherwise."""
        selection.release()
        loaded = (self._manager.current, self._manager.previous)
        if selection.name not in {self._candidates.name, *(each.name for each in loaded if each is not None)}:
            self._service.accuracy.unfollow(selection.name)
        with suppress(RuntimeError):  # the loop or its threads are closed: the process ends
            asyncio.get_running_loop().run_in_executor(None, trim_heap)

    def serving_changed(self) -> None:
        """Update what `/v1/status` shows."""
        self._status.update()

    def device_lost(self, reason: str) -> None:
        """Pass on that a device of the serving version is lost for this process."""
        self.on_device_lost(reason)
