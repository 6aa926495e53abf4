"""The candidate: which version is on trial, on how many servers, and who scores it."""

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
    """Begins and ends trials, at most one at a time; whoever calls does so one call at a time."""

    def __init__(
        self, service: Service, config: Config, open_version: OpenVersion, release: Callable[[Selection], None]
    ) -> None:
        self.config = config
        self._service = service
        self._open_version = open_version
        self._release = release

    @property
    def candidate(self) -> Candidate | None:
        """The version on trial."""
        return self._service.candidate

    @property
    def name(self) -> str | None:
        """Its name."""
        return None if self.candidate is None else self.candidate.name

    @property
    def share_left(self) -> float:
        """The share of the servers that the version which serves forecasts."""
        assignment = None if self.candidate is None else self.candidate.assignment
        return 1.0 if assignment is None or assignment.shadow else 1.0 - assignment.share

    async def begin(self, selection: Selection, wanted: CandidateSection, current: Deployment | None) -> None:
        """Load a version and put it on trial in place of any other.

        Raises `StreamdError`, and then nothing is changed.
        """
        before = self.candidate
        try:
            self._check(selection)
        except ReloadError:
            selection.release()
            raise
        candidate = self._make(selection, wanted)
        deployment = await candidate.load()
        try:
            check_backend(deployment, current, self.config)
        except ReloadError:
            await candidate.end()
            raise
        if before is not None:
            await self.end(keep=candidate.name)
        candidate.begin()
        self._service.candidate = candidate
        self._score(candidate)
        log.info("candidate_begun", engine=candidate.name, share=candidate.assignment.share)

    async def end(self, keep: str | None = None) -> None:
        """Give its servers back and retire it, if there is one; its scores go too, unless it is the one to keep."""
        candidate = self.candidate
        if candidate is not None:
            await candidate.end()
            self._note_end(candidate)
            if candidate.name not in (keep, self._service.model):
                self._service.accuracy.unfollow(candidate.name)
            log.info("candidate_ended", engine=candidate.name)

    def has(self, version: str) -> bool:
        """Whether this version is on trial with warm lanes, opened by the settings."""
        candidate = self.candidate
        if candidate is None or candidate.deployment is None or not candidate.pipeline.ready:
            return False
        return is_opened_as(candidate.deployment, version, self.config)

    def check_same_files(self, selection: Selection) -> None:
        """Raise `ReloadError` where the files of the version on trial are not those that were loaded."""
        assert self.candidate is not None, "there is a candidate"
        assert self.candidate.deployment is not None, "it is loaded"
        check_same_files(selection, self.candidate.deployment)

    async def hand_over(self, manager: DeploymentManager) -> Deployment | None:
        """End the trial and give the loaded version to a manager; `None` where it lost its lanes."""
        candidate = self.candidate
        assert candidate is not None, "there is a candidate"
        deployment = await candidate.hand_over(manager)
        if deployment is None:
            await candidate.end()
        self._note_end(candidate)
        return deployment

    def close(self) -> None:
        """Stop it."""
        if self.candidate is not None:
            self.candidate.close()

    def status(self) -> dict[str, Any] | None:
        """Return what `/v1/status` shows of it."""
        return None if self.candidate is None else self.candidate.status()

    def _check(self, selection: Selection) -> None:
        check_same_contract(selection, self._service.contract)
        if selection.name == self._service.model:
            raise ReloadError(f"{selection.name} serves already: there is nothing to compare it with")

    def _make(self, selection: Selection, wanted: CandidateSection) -> Candidate:
        service = self._service
        return Candidate(
            service.state,
            service.pipeline,
            service.router,
            make_spec(selection, self.config, self._open_version, self._release),
            share=wanted.candidate_share,
            shadow=wanted.candidate_shadow,
            board=service.board_sink,
            scores=(service.accuracy,),
            observer=service.metrics,
        )

    def _note_end(self, candidate: Candidate) -> None:
        self._service.candidate_ended(candidate)
        self._service.accuracy.follow(self._service.model, share=1.0)

    def _score(self, candidate: Candidate) -> None:
        accuracy, assignment = self._service.accuracy, candidate.assignment
        accuracy.follow(
            candidate.name, training=candidate.spec.training, share=assignment.share, shadow=assignment.shadow
        )
        accuracy.follow(self._service.model, share=self.share_left)
