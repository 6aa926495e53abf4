"""Begins and ends the candidate: checks it, loads it, gives it its servers, and has its forecasts scored.

Decides nothing about the version that serves; `control.py` does.
"""

from collections.abc import Callable
from typing import Any

import structlog

from streamd.core.errors import ReloadError
from streamd.runtime.lanes.deployment import Deployment
from streamd.runtime.service import Service
from streamd.runtime.versions.candidate import Candidate
from streamd.runtime.versions.manager import DeploymentManager
from streamd.server.config import CandidateSection, Config
from streamd.server.version_control.specs import (
    OpenVersion,
    Selection,
    check_backend,
    check_same_contract,
    check_same_files,
    is_opened_as,
    make_spec,
)

log = structlog.get_logger(__name__)


class CandidateControl:
    """Manages the candidate, at most one at a time; the caller makes one call at a time."""

    def __init__(
        self, service: Service, config: Config, open_version: OpenVersion, release: Callable[[Selection], None]
    ) -> None:
        self.config = config
        self._service = service
        self._open_version = open_version
        self._release = release

    @property
    def candidate(self) -> Candidate | None:
        """The candidate; `None` if there is no candidate."""
        return self._service.candidate

    @property
    def name(self) -> str | None:
        """The name of the candidate's version; `None` if there is no candidate."""
        return None if self.candidate is None else self.candidate.name

    @property
    def share_left(self) -> float:
        """The share of the servers that the serving version forecasts, from 0 to 1."""
        assignment = None if self.candidate is None else self.candidate.assignment
        return 1.0 if assignment is None or assignment.shadow else 1.0 - assignment.share

    async def begin(self, selection: Selection, settings: CandidateSection, current: Deployment | None) -> None:
        """Load a version and make it the candidate, in place of any other.

        Raises `StreamdError` if it cannot be loaded or compared; then nothing changes.
        """
        await self.start(await self.load(selection, settings, current))

    async def load(self, selection: Selection, settings: CandidateSection, current: Deployment | None) -> Candidate:
        """Return a version that is loaded and has no servers; `start` or its `end` is next. Raises as `begin`."""
        try:
            self._check_comparable(selection)
        except ReloadError:
            selection.release()
            raise
        candidate = self._make_candidate(selection, settings)
        deployment = await candidate.load()
        try:
            check_backend(deployment, current, self.config)
        except ReloadError:
            await candidate.end()
            raise
        return candidate

    async def start(self, candidate: Candidate) -> None:
        """Make a loaded version the candidate, in place of any other."""
        if self.candidate is not None:
            await self.end(retain_scores_of=candidate.name)
        candidate.begin()
        self._service.candidate = candidate
        self._follow_accuracy(candidate)
        log.info("candidate_begun", engine=candidate.name, share=candidate.assignment.share)

    async def end(self, retain_scores_of: str | None = None) -> None:
        """End the candidate, if there is one: return its servers and retire it.

        Its scores are removed too, unless it is the version `retain_scores_of` or the one that serves.
        """
        candidate = self.candidate
        if candidate is not None:
            await candidate.end()
            self._note_end(candidate)
            if candidate.name not in (retain_scores_of, self._service.model):
                self._service.accuracy.unfollow(candidate.name)
            log.info("candidate_ended", engine=candidate.name)

    def has_warm(self, version: str) -> bool:
        """Whether this version is the candidate, with warm lanes that were opened by the present settings."""
        candidate = self.candidate
        if candidate is None or candidate.deployment is None or not candidate.pipeline.is_ready:
            return False
        return is_opened_as(candidate.deployment, version, self.config)

    def check_same_files(self, selection: Selection) -> None:
        """Raise `ReloadError` if the files of the candidate are not those that were loaded."""
        assert self.candidate is not None, "there is a candidate"
        assert self.candidate.deployment is not None, "it is loaded"
        check_same_files(selection, self.candidate.deployment)

    async def transfer(self, manager: DeploymentManager) -> Deployment | None:
        """End the candidate and transfer its loaded version to `manager`; returns `None` if it lost its lanes."""
        candidate = self.candidate
        assert candidate is not None, "there is a candidate"
        deployment = await candidate.transfer(manager)
        if deployment is None:
            await candidate.end()
        self._note_end(candidate)
        return deployment

    def close(self) -> None:
        """Stop the candidate, if there is one."""
        if self.candidate is not None:
            self.candidate.close()

    def status(self) -> dict[str, Any] | None:
        """Return what `/v1/status` shows of the candidate; `None` if there is no candidate."""
        return None if self.candidate is None else self.candidate.describe()

    def _check_comparable(self, selection: Selection) -> None:
        check_same_contract(selection, self._service.contract)
        if selection.name == self._service.model:
            raise ReloadError(f"{selection.name} serves already: there is nothing to compare it with")

    def _make_candidate(self, selection: Selection, settings: CandidateSection) -> Candidate:
        service = self._service
        return Candidate(
            service.state,
            service.pipeline,
            service.router,
            make_spec(selection, self.config, self._open_version, self._release),
            share=settings.candidate_share,
            shadow=settings.candidate_shadow,
            board=service.sink,
            scores=(service.accuracy,),
            observer=service.metrics,
        )

    def _note_end(self, candidate: Candidate) -> None:
        self._service.candidate_ended(candidate)
        self._service.accuracy.follow(self._service.model, share=1.0)

    def _follow_accuracy(self, candidate: Candidate) -> None:
        accuracy, assignment = self._service.accuracy, candidate.assignment
        accuracy.follow(
            candidate.name, training=candidate.spec.training, share=assignment.share, shadow=assignment.shadow
        )
        accuracy.follow(self._service.model, share=self.share_left)
