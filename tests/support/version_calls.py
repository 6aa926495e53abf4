"""Calls that change or read which version a daemon process serves, and what must be true of each answer."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from streamd.http.documents.answers import CandidateAnswer, ChangeAnswer, ErrorAnswer
from streamd.http.documents.status_answer import StatusAnswer
from streamd.http.documents.version_answers import VersionsAnswer
from tests.support.daemon_process import DaemonProcess
from tests.support.documented_answers import check_documented
from tests.support.served_versions import AUTHORIZED, CALENDAR, SETTINGS, WINDOW

PROMOTE = "/v1/engines/promote"
ROLLBACK = "/v1/engines/rollback"
CANDIDATE = "/v1/engines/candidate"

StartDaemon = Callable[..., DaemonProcess]
"""The fixture `start`: `start(state_dir, *arguments, **environment)` returns a daemon that listens."""


def start_ready(start: StartDaemon, tmp_path: Path, *arguments: str, **env: str) -> DaemonProcess:
    """Start a daemon on the versions in `tmp_path/engines`, and wait until it is ready."""
    daemon = start(tmp_path / "state", *arguments, **{**SETTINGS, "STREAMD_ENGINES": str(tmp_path / "engines"), **env})
    daemon.wait_for("ready")
    return daemon


def promote(daemon: DaemonProcess, version: str, **more: str) -> tuple[int, Any]:
    """Ask for a promotion; returns the HTTP status and the answer."""
    return _check(daemon.call("POST", PROMOTE, {"version": version, **more}, **AUTHORIZED), ChangeAnswer)


def roll_back(daemon: DaemonProcess, **more: str) -> tuple[int, Any]:
    """Ask for a rollback; returns the HTTP status and the answer."""
    return _check(daemon.call("POST", ROLLBACK, more or None, **AUTHORIZED), ChangeAnswer)


def start_candidate(daemon: DaemonProcess, version: str = CALENDAR, **more: Any) -> tuple[int, Any]:
    """Ask to make a version the candidate; returns the HTTP status and the answer."""
    return _check(daemon.call("POST", CANDIDATE, {"version": version, **more}, **AUTHORIZED), CandidateAnswer)


def _check(answered: tuple[int, Any], type_: type[msgspec.Struct]) -> tuple[int, Any]:
    """Check that an answer is as the documents describe it."""
    status, answer = answered
    check_documented(answer, type_ if status == 200 else ErrorAnswer)
    return answered


def list_versions(daemon: DaemonProcess) -> Any:
    """Return the answer of `/v1/engines`."""
    status, answer = daemon.get("/v1/engines")
    assert status == 200, answer
    check_documented(answer, VersionsAnswer)
    return answer


def read_serving(daemon: DaemonProcess) -> str:
    """Return the name of the version that serves, from `/v1/status`."""
    status = daemon.get("/v1/status")[1]
    check_documented(status, StatusAnswer)
    return str(status["engine"])


def predict(daemon: DaemonProcess) -> str:
    """Ask for a forecast; returns the name of the version that made it, after checking the values against the name."""
    window = [[float(row * 4 + column) for column in range(4)] for row in range(4)]
    future = [[-1.0, -0.5, 0.5, 1.0]] * 4
    status, answer = daemon.call("POST", "/predict", {"encoder_cont": window, "decoder_cont": future})
    assert status == 200
    assert answer["predictions"] == {WINDOW: window, CALENDAR: future}[answer["model"]]
    return str(answer["model"])
