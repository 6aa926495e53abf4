"""The part of the status about the version that serves: it, the warm one, and the outcome of the newest change.

Changes no version; `control.py` does.
"""

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import structlog

from streamd.core.errors import ReloadError, StreamdError
from streamd.repository.versions import SkippedVersion
from streamd.runtime.lanes.deployment import Deployment
from streamd.runtime.service import Service
from streamd.runtime.versions.manager import DeploymentManager

log = structlog.get_logger(__name__)


class VersionStatus:
    """The version that serves and the outcome of changes, as `/v1/status` shows them; they are in `service.engine`."""

    def __init__(self, service: Service, manager: DeploymentManager) -> None:
        self.change: dict[str, Any] = {"state": "starting", "version": None, "error": None, "when": None}
        """The newest change."""
        self.passed_over: list[dict[str, str]] = []
        """The versions that should serve in place of the serving one."""
        self.lost_candidate: dict[str, str] | None = None
        """The candidate of the settings if it could not be loaded, in the same form."""
        self._service = service
        self._manager = manager

    @asynccontextmanager
    async def reporting(self, version: str) -> AsyncIterator[None]:
        """Report the begin and the end of a change; turns any other error into a `StreamdError`."""
        self.note("loading", version)
        try:
            yield
        except Exception as exc:
            error = exc
            if not isinstance(exc, StreamdError):  # a defect of a backend, or no memory; nothing was changed
                error = ReloadError(f"{version}: {type(exc).__name__}: {exc}")
            self.note("failed", self.change["version"], str(error))
            log.error("reload_failed", engine=version, serving=self._service.model, error=str(error))
            if error is exc:
                raise
            raise error from exc
        self.note("serving", self._service.model)

    def note_passed_over(self, passed_over: Sequence[SkippedVersion], serving: str) -> None:
        """Log and show the versions that should serve in place of the serving one, and why they cannot."""
        for each in passed_over:
            log.warning("version_passed_over", version=each.name, rule=each.rule, reason=each.reason, serving=serving)
        self.passed_over = [{"name": each.name, "rule": each.rule, "reason": each.reason} for each in passed_over]
        self.update()

    def note(self, state: str, version: str | None, error: str | None = None) -> None:
        """Show the state of the last change; with "serving", the error says why better versions do not serve."""
        if state == "serving":
            error = "; ".join(each["reason"] for each in self.passed_over) or None
        self.change = {"state": state, "version": version, "error": error, "when": round(time.time(), 3)}
        self.update()

    def update(self) -> None:
        """Update what `/v1/status` shows: the serving version, the warm one, and the result of the last change."""
        current, previous = self._manager.current, self._manager.previous
        shown = (
            _describe_deployment(current)
            if current is not None
            else {"backend": None, "precision": None, "fallbacks": []}
        )
        warm = None if previous is None else {"engine": previous.name, "lanes": len(previous.workers)}
        passed_over = [*self.passed_over, *filter(None, (self.lost_candidate,))]
        self._service.engine.shown = {
            **shown,
            "previous": warm,
            "keep_warm_seconds": self._manager.keep_warm_seconds,
            "reload": self.change,
            "passed_over": passed_over,
        }

    def note_lost_candidate(self, lost: dict[str, str] | None) -> None:
        """Show why the candidate of the settings could not be loaded; `None` if it could, or none is named."""
        self.lost_candidate = lost
        self.update()

    def describe_change(self, before: str, began: float) -> dict[str, Any]:
        """Return the answer to a change that began at a monotonic second, when `before` served."""
        answer = {"engine": self._service.model, "before": before, "seconds": round(time.monotonic() - began, 3)}
        return {**answer, "passed_over": self.passed_over} if self.passed_over else answer


def _describe_deployment(deployment: Deployment) -> dict[str, Any]:
    """Return what `/v1/status` shows of the serving version."""
    backend, costs = deployment.backend, deployment.costs
    assert backend is not None, "it is loaded"
    assert costs is not None, "it is loaded"
    fallbacks = [] if deployment.supervisor is None else deployment.supervisor.fallbacks
    return {
        "backend": backend.name,
        "precision": backend.precision,
        "fallbacks": [each.as_dict() for each in fallbacks],
        "backend_details": backend.describe(),
        "architecture": deployment.spec.architecture,
        "bucket_ms": {str(bucket): round(seconds * 1e3, 3) for bucket, seconds in costs.seconds.items()},
    }
