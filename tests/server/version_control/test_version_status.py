"""Tests `streamd/server/version_control/version_status.py`: what `/v1/status` shows of changes of the version."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from streamd.core.errors import ReloadError
from streamd.repository.versions import SkippedVersion
from streamd.runtime.service import Service
from streamd.runtime.versions.manager import DeploymentManager
from streamd.server.version_control.version_status import VersionStatus


def make_status() -> tuple[VersionStatus, Any]:
    """Return a status before any version is loaded, and what it shows."""
    engine = SimpleNamespace(shown={})
    service = SimpleNamespace(engine=engine, model="v1")
    manager = SimpleNamespace(current=None, previous=None, keep_warm_seconds=3.0)
    return VersionStatus(cast(Service, service), cast(DeploymentManager, manager)), engine


async def test_a_change_is_shown_while_it_runs_and_when_it_has_ended() -> None:
    status, engine = make_status()
    async with status.reporting("v2"):
        assert (engine.shown["reload"]["state"], engine.shown["reload"]["version"]) == ("loading", "v2")
    assert (engine.shown["reload"]["state"], engine.shown["reload"]["version"]) == ("serving", "v1")


async def test_a_defect_becomes_an_error_that_names_the_version() -> None:
    status, engine = make_status()
    with pytest.raises(ReloadError, match="v2: ZeroDivisionError: no"):
        async with status.reporting("v2"):
            raise ZeroDivisionError("no")
    assert engine.shown["reload"] | {"when": 0} == {
        "state": "failed",
        "version": "v2",
        "error": "v2: ZeroDivisionError: no",
        "when": 0,
    }


def test_better_versions_that_do_not_serve_are_shown_with_their_reasons() -> None:
    status, engine = make_status()
    status.note_passed_over([SkippedVersion("v3", "newest", "is damaged")], "v1")
    status.note_lost_candidate({"name": "v4", "rule": "candidate", "reason": "no lane"})
    status.note("serving", "v1")
    assert [each["name"] for each in engine.shown["passed_over"]] == ["v3", "v4"]
    assert engine.shown["reload"]["error"] == "is damaged"
    status.note_lost_candidate(None)
    assert [each["name"] for each in engine.shown["passed_over"]] == ["v3"]
