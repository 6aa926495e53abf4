"""The candidate: which version is on trial, on how many servers, and what is known of how it does."""

from collections.abc import Callable
from typing import Any

import structlog

from streamd.core.errors import ReloadError
from streamd.runtime.service import Service
from streamd.runtime.versions.candidate import Candidate
from streamd.runtime.versions.manager import Loaded, Reloader
from streamd.server.config import CandidateSection, Config
from streamd.server.version_control.loading import (
    OpenVersion,
    VersionSource,
    check_backend,
    is_loaded,
    keepers_of,
    source_of,
)
from streamd.server.version_control.selection import Selection, check_same, check_same_contract

log = structlog.get_logger(__name__)


class Trial:
    """At most one candidate; whoever calls does so one at a time."""

    def __init__(
        self, service: Service, open_version: OpenVersion, release: Callable[[Selection], None], config: Config
    ) -> None:
        self.config = config
        self._service = service
        self._open_version = open_version
        self._release = release

    @property
    def candidate(self) -> Candidate | None:
        """What is on trial."""
        return self._service.candidate

    @property
    def name(self) -> str | None:
        """Its name."""
        return None if self.candidate is None else self.candidate.source.name

    @property
    def share_left(self) -> float:
        """The share of the servers that the version which serves forecasts."""
        assignment = None if self.candidate is None else self.candidate.assignment
        return 1.0 if assignment is None or assignment.shadow else 1.0 - assignment.share

    async def begin(self, selection: Selection, wanted: CandidateSection, current: Loaded | None) -> None:
        """Load a version and put it on trial in place of any other; raises `StreamdError`, and nothing is changed."""
        service, before = self._service, self.candidate
        try:
            check_same_contract(selection, service.contract)
            if selection.name == service.model:
                raise ReloadError(f"{selection.name} serves already: there is nothing to compare it with")
        except ReloadError:
            selection.release()
            raise
        candidate = Candidate(
            service.state,
            service.pipeline,
            source_of(selection, self.config, self._open_version, self._release),
            lambda pipeline: keepers_of(pipeline, lambda: self.config),
            share=wanted.candidate_share,
            shadow=wanted.candidate_shadow,
            publish=service.hub.publish,
            observer=service.metrics,
        )
        loaded = await candidate.load()
        try:
            check_backend(loaded, current, self.config)
        except ReloadError:
            await candidate.end()
            raise
        if before is not None:
            await self.end(keep=candidate.source.name)
        candidate.begin()
        service.candidate = candidate
        self._follow(candidate, selection)
        log.info("candidate_begun", engine=candidate.source.name, share=candidate.assignment.share)

    async def end(self, keep: str | None = None) -> None:
        """Give its servers back and let go of it, if there is one, with its figures unless it is the one to keep."""
        candidate = self.candidate
        if candidate is not None:
            await candidate.end()
            self._over(candidate)
            if candidate.source.name not in (keep, self._service.model):
                self._service.accuracy.unfollow(candidate.source.name)
            log.info("candidate_ended", engine=candidate.source.name)

    def has(self, version: str) -> bool:
        """Whether this version is on trial with warm lanes, opened as the settings say."""
        candidate = self.candidate
        return candidate is not None and candidate.pipeline.ready and is_loaded(candidate.loaded, version, self.config)

    def check_same(self, selection: Selection) -> None:
        """Raise `ReloadError` where the files of the version on trial are not those that were loaded."""
        assert self.candidate is not None, "there is a candidate"
        assert isinstance(self.candidate.source, VersionSource)
        check_same(selection, self.candidate.source.selection)

    async def hand_over(self, reloader: Reloader) -> Loaded | None:
        """End the trial and give the loaded version away; none where it has no lanes left, and it is ended then too."""
        candidate = self.candidate
        assert candidate is not None, "there is a candidate"
        loaded = await candidate.hand_over(reloader)
        if loaded is None:
            await candidate.end()
        self._over(candidate)
        return loaded

    def close(self) -> None:
        """Stop it."""
        if self.candidate is not None:
            self.candidate.close()

    def status(self) -> dict[str, Any] | None:
        """What `/v1/status` shows of it."""
        return None if self.candidate is None else self.candidate.status()

    def _over(self, candidate: Candidate) -> None:
        self._service.candidate_ended(candidate)
        self._service.accuracy.follow(self._service.model, share=1.0)

    def _follow(self, candidate: Candidate, selection: Selection) -> None:
        accuracy, assignment = self._service.accuracy, candidate.assignment
        accuracy.follow(
            candidate.source.name,
            training=selection.training,
            share=assignment.share,
            shadow=assignment.shadow,
        )
        accuracy.follow(self._service.model, share=self.share_left)
