"""Which version serves, from start to stop: loads it, and changes it by promotion, rollback or another choice.

The order of a change is: check, load and warm beside what serves, record, switch. So whoever is killed at any step
leaves a record of a version that is known to load; and a change that fails leaves everything as it was.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import structlog

from streamd.core.errors import DrainingError, ReloadError, StreamdError
from streamd.repository.record import Record
from streamd.repository.versions import PassedOver
from streamd.runtime.service import Service
from streamd.runtime.versions.manager import Loaded, Reloader
from streamd.server.config import CandidateSection, Config
from streamd.server.disk import on_disk
from streamd.server.memory import return_freed
from streamd.server.version_control.candidate import Trial
from streamd.server.version_control.loading import (
    OpenVersion,
    VersionSource,
    check_backend,
    is_loaded,
    keepers_of,
    need_restart,
    source_of,
    told_of,
)
from streamd.server.version_control.promotions import Promotions
from streamd.server.version_control.selection import (
    Selection,
    check_choice,
    check_same,
    check_same_contract,
    select_versions,
)

log = structlog.get_logger(__name__)

T = TypeVar("T")


class VersionControl:
    """What serves, and the changes to it, one at a time.

    `reread` reads the settings again, as the process was started; raises `ConfigError`.
    """

    def __init__(
        self, service: Service, config: Config, open_version: OpenVersion, reread: Callable[[], Config] | None = None
    ) -> None:
        self.config = config
        self._opening = config  # the settings by which lanes are opened: they hold once these serve
        self._service = service
        self._open_version = open_version
        self._reread = reread or (lambda: config)
        self._reloader = Reloader(
            service.pipeline,
            keepers_of(service.pipeline, lambda: self._opening),
            keep_warm_seconds=config.engine.keep_warm_seconds,
            changed=self._tell,
        )
        self._trial = Trial(service, open_version, self._let_go, config)
        self._lock = asyncio.Lock()
        self._missed: list[dict[str, str]] = []
        self._lost_candidate: dict[str, str] | None = None
        """The candidate that the settings name, where it could not be put on trial."""
        self._change: dict[str, Any] = {"state": "starting", "version": None, "error": None, "when": None}
        self._tell()

    async def start(self, selection: Selection) -> Loaded:
        """Load the first version and let it serve; raises `BackendUnavailableError` where no backend runs it."""
        async with self._lock:
            loaded = await self._reloader.load(self._source(selection, self.config))
            self._pass_over(selection.missed, loaded.name)
            self._note("serving", loaded.name)
            self._switch(loaded, self.config)
        return loaded

    async def start_trial(self) -> None:
        """Load the candidate that the settings name; a failure is only told."""
        if self.config.candidate.candidate:
            async with self._lock:
                await self._follow_trial(self.config.candidate)

    def close(self) -> None:
        """Stop watching and mending; the lanes are the pipeline's to end."""
        self._trial.close()
        self._reloader.close()

    # ------------------------------------------------------------ changes
    async def reload(self) -> None:
        """Read the settings again, choose again, and change what serves if that differs; a failure is only told."""
        async with self._lock:
            with suppress(StreamdError):  # `_changing` told it
                async with self._changing("the choice"):
                    config = await self._on_disk("the settings", self._reread)
                    trial = config.candidate != self.config.candidate or self._lost_candidate is not None
                    await self._follow(config)
                if trial:
                    await self._follow_trial(config.candidate)

    async def promote(self, version: str, who: str, why: str) -> dict[str, Any]:
        """Load a version, record its promotion, and let it serve; returns what served before and what does.

        Raises `RepositoryError` where it is refused, `ReloadError` where it cannot serve without a restart.
        """
        async with self._changed_by_call(version):
            before, began = self._service.model, time.monotonic()
            await self._on_disk(version, partial(self._promotions.check, version))
            loaded = await self._warm(self.config, version)
            await self._record(loaded, partial(self._promotions.promote, version, who, why))
            await self._serve(loaded, self.config)
            self._pass_over((), loaded.name)
        return self._answer(before, began)

    async def rollback(self, who: str, why: str) -> dict[str, Any]:
        """Undo the last promotion; at once where what it goes back to is warm still. Raises as `promote`."""
        async with self._changed_by_call("the version before"):
            before, began = self._service.model, time.monotonic()
            version, missed = await self._on_disk("the version before", self._promotions.version_before)
            loaded = await self._warm(self.config, version)
            record = await self._record(loaded, partial(self._promotions.rollback, who, why))
            if record.current in (None, version):
                await self._serve(loaded, self.config)
                self._pass_over(missed, loaded.name)
            else:  # someone promoted from the shell in the meantime
                self._reloader.discard(loaded)
                await self._follow(self.config)
        return self._answer(before, began)

    @asynccontextmanager
    async def _changed_by_call(self, version: str) -> AsyncIterator[None]:
        self._check_free()
        if self.config.engine.pinned:
            raise ReloadError(
                f"the settings pin {' and '.join(self.config.engine.pinned)}, whatever is promoted: "
                "take engine or ensemble out of them and reload first"
            )
        async with self._lock, self._changing(version):
            yield

    def _check_free(self) -> None:
        if self._service.draining:
            raise DrainingError("the daemon is stopping")
        if self._lock.locked():
            raise ReloadError(f"{self._change['version']} is being loaded: one change at a time; try again later")

    # ------------------------------------------------------------ candidates
    async def try_out(self, version: str, share: float, shadow: bool) -> dict[str, Any]:
        """Put a version on trial on a share of the servers, in place of any other; raises as `promote`."""
        self._check_free()
        async with self._lock:
            await self._try_out(CandidateSection(version, share, shadow))
            self._lose_candidate(None)
        return {"candidate": self._trial.status()}

    async def end_trial(self) -> dict[str, Any]:
        """End the trial, if there is one; its servers are forecast by the version that serves again."""
        self._check_free()
        async with self._lock:
            name = self._trial.name
            await self._trial.end()
            self._lose_candidate(None)
        return {"ended": name}

    async def _follow_trial(self, wanted: CandidateSection) -> None:
        """Put on trial what the settings name; a failure is told until a trial begins or ends."""
        lost = None
        try:
            await self._try_out(wanted)
        except StreamdError as exc:
            if wanted.candidate != self._service.model:
                lost = {"name": wanted.candidate, "rule": "candidate", "reason": str(exc)}
        self._lose_candidate(lost)

    def _lose_candidate(self, lost: dict[str, str] | None) -> None:
        self._lost_candidate = lost
        self._tell()

    async def _try_out(self, wanted: CandidateSection) -> None:
        self._trial.config = self.config
        if not wanted.candidate:
            await self._trial.end()
            return
        async with self._changing(wanted.candidate):
            selection = await self._select(self.config, wanted.candidate)
            await self._trial.begin(selection, wanted, self._reloader.current)

    @asynccontextmanager
    async def _changing(self, version: str) -> AsyncIterator[None]:
        """Tell of a change that begins, and of how it ended; every error is a `StreamdError`."""
        self._note("loading", version)
        try:
            yield
        except Exception as exc:
            error = exc
            if not isinstance(exc, StreamdError):  # a backend's defect, or no memory: nothing was changed by it
                error = ReloadError(f"{version}: {type(exc).__name__}: {exc}")
            self._note("failed", self._change["version"], str(error))
            log.error("reload_failed", engine=version, serving=self._service.model, error=str(error))
            if error is exc:
                raise
            raise error from exc
        self._note("serving", self._service.model)

    async def _follow(self, config: Config) -> None:
        """Let serve what these settings choose; they hold from then on.

        Raises `ReloadError` where what should serve is damaged: another version does not take its place unasked.
        """
        selection = await self._select(config)
        try:
            check_choice(selection, self._service.model)
        except ReloadError:
            selection.release()
            raise
        loaded = await self._warm_selected(selection, config)
        if sections := need_restart(config, self.config):
            log.warning("settings_need_restart", sections=sections)
        await self._serve(loaded, config)
        self._pass_over(selection.missed, loaded.name)

    async def _serve(self, loaded: Loaded, config: Config) -> None:
        """Switch; a candidate that serves by now has nothing left to be compared with."""
        self._switch(loaded, config)
        if self._trial.name == loaded.name:
            await self._trial.end()

    async def _warm(self, config: Config, version: str) -> Loaded:
        """Return a version warm; what is loaded already is not loaded again."""
        selection = await self._select(config, version)
        if self._trial.has(version):
            try:
                self._trial.check_same(selection)
                taken = await self._trial.hand_over(self._reloader)
            except BaseException:
                selection.release()
                raise
            if taken is not None:
                selection.release()
                return taken
        return await self._warm_selected(selection, config)

    async def _warm_selected(self, selection: Selection, config: Config) -> Loaded:
        """Return a selection warm, and release it where it is loaded already or cannot serve."""
        try:
            self._note("loading", selection.name)
            if (loaded := self._find_warm(selection.name, config)) is not None:
                assert isinstance(loaded.source, VersionSource)
                try:
                    check_same(selection, loaded.source.selection)
                except ReloadError:
                    self._reloader.discard(loaded)
                    raise
                selection.release()
                return loaded
            check_same_contract(selection, self._service.contract)
        except BaseException:
            selection.release()
            raise
        self._opening = config
        made = await self._reloader.load(self._source(selection, config))
        try:
            check_backend(made, self._reloader.current, config)
        except ReloadError:
            self._reloader.discard(made)
            raise
        return made

    def _find_warm(self, name: str, config: Config) -> Loaded | None:
        """Return the version of this name if it serves, or is warm still: it stays so until `switch` or `discard`."""
        for each in (self._reloader.current, self._reloader.previous):
            if each is not None and is_loaded(each, name, config) and self._reloader.claim(each):
                return each
        return None

    async def _record(self, loaded: Loaded, write: Callable[[], Record]) -> Record:
        """Record the change; where that fails, what was loaded for it goes."""
        try:
            return await self._on_disk("the record of promotions", write)
        except BaseException:
            self._reloader.discard(loaded)
            raise

    def _switch(self, loaded: Loaded, config: Config) -> None:
        self.config = msgspec.structs.replace(self.config, engine=config.engine, candidate=config.candidate)
        self._reloader.keep_warm_seconds = config.engine.keep_warm_seconds
        self._reloader.switch(loaded)
        assert isinstance(loaded.source, VersionSource)
        training = loaded.source.selection.training
        self._service.accuracy.follow(loaded.name, training=training, share=self._trial.share_left)

    # ------------------------------------------------------------ the disk
    async def _select(self, config: Config, *named: str) -> Selection:
        """Check and hold the versions that are named, else those that these settings choose."""
        return await self._on_disk(
            " and ".join(named) or config.engine.engines,
            partial(select_versions, config.engine, named),
            Selection.release,
        )

    async def _on_disk(self, what: str, work: Callable[[], T], release: Callable[[T], None] = lambda made: None) -> T:
        return await on_disk(what, self.config.engine.read_timeout_seconds, work, release)

    # ------------------------------------------------------------ parts
    @property
    def _promotions(self) -> Promotions:
        return Promotions(Path(self.config.engine.engines))

    def _source(self, selection: Selection, config: Config) -> VersionSource:
        return source_of(selection, config, self._open_version, self._let_go)

    def _let_go(self, selection: Selection) -> None:
        """Let go of the folders, and of the figures where it is not loaded in another way as well."""
        selection.release()
        staying = (self._reloader.current, self._reloader.previous)
        if selection.name not in {self._trial.name, *(each.name for each in staying if each is not None)}:
            self._service.accuracy.unfollow(selection.name)
        with suppress(RuntimeError):  # the loop is closed, or its threads are: the process ends
            asyncio.get_running_loop().run_in_executor(None, return_freed)

    # ------------------------------------------------------------ telling
    def _pass_over(self, missed: Sequence[PassedOver], serving: str) -> None:
        """Tell what should serve in place of what does, and why it cannot."""
        for each in missed:
            log.warning("version_passed_over", version=each.name, rule=each.rule, reason=each.reason, serving=serving)
        self._missed = [{"name": each.name, "rule": each.rule, "reason": each.reason} for each in missed]
        self._tell()

    def _note(self, state: str, version: str | None, error: str | None = None) -> None:
        if state == "serving":  # the next best may serve: that is no failure, and is not without a reason either
            error = "; ".join(each["reason"] for each in self._missed) or None
        self._change = {"state": state, "version": version, "error": error, "when": round(time.time(), 3)}
        self._tell()

    def _tell(self) -> None:
        """Put what serves, what is warm and how the last change went where `/v1/status` finds it."""
        current, previous = self._reloader.current, self._reloader.previous
        told = told_of(current) if current is not None else {"backend": None, "precision": None, "fallbacks": []}
        warm = None if previous is None else {"engine": previous.name, "lanes": len(previous.deployment.workers)}
        passed_over = [*self._missed, *filter(None, (self._lost_candidate,))]
        self._service.engine = {**told, "previous": warm, "reload": self._change, "passed_over": passed_over}

    def _answer(self, before: str, began: float) -> dict[str, Any]:
        answer = {"engine": self._service.model, "before": before, "seconds": round(time.monotonic() - began, 3)}
        return {**answer, "passed_over": self._missed} if self._missed else answer
