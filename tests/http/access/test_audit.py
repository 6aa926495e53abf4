"""Tests `streamd/http/access/audit.py`: one line for each action of an administrator, done or refused."""

import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from aiohttp.test_utils import make_mocked_request
from structlog.testing import capture_logs
from structlog.typing import EventDict

from streamd.core.errors import ReloadError
from streamd.http.access.audit import log_action
from streamd.http.routes.versions import ChangeReport
from tests.http.conftest import Start
from tests.support.access_drivers import CHANGING, PROMOTING, RULES, NotedChanges
from tests.support.access_tokens import grant_all, make_access_list, make_test_token
from tests.support.http_harness import AS_ADMIN, HttpDaemon, HttpDaemonSettings, make_sample

ADMIN = make_test_token("ops", grant_all())
WEB = make_test_token("web", grant_all(["web-*"]))


def find_audits(logs: list[EventDict]) -> list[EventDict]:
    return [line for line in logs if line["event"] == "audit"]


@pytest.mark.parametrize("key", [*PROMOTING, *CHANGING])
async def test_an_action_is_logged_once_whether_it_is_done_or_refused(start: Start, key: tuple[str, str]) -> None:
    changes = NotedChanges()
    daemon = await start(HttpDaemonSettings(access=make_access_list(ADMIN, WEB), engines=changes))
    drive, action = (PROMOTING | CHANGING)[key], RULES[key].action
    for headers, caller, outcomes in (
        ({}, "unknown", {"unauthorized"}),
        (WEB.headers, "web", {"forbidden"}),
        (ADMIN.headers, "ops", {"done", "unknown_server"}),
    ):
        with capture_logs() as logs:
            await drive(daemon, headers, "db-01")
        (line,) = find_audits(logs)
        assert (line["action"], line["caller"], line["remote"]) == (action, caller, "127.0.0.1")
        assert line["outcome"] in outcomes
        assert line["target"] == ("db-01" if key in CHANGING and headers else line["target"])
    # The record of a promotion names the token, if its caller names nobody.
    assert not [
        call for call in changes.calls if call[0] in ("promote", "rollback") and not call[-2].startswith("ops ")
    ]


class FailingChanges(NotedChanges):
    """A `VersionChanges` that refuses each promotion."""

    async def promote(self, version: str, who: str, why: str) -> ChangeReport:
        raise ReloadError("it serves already")


async def test_a_line_has_the_target_and_the_code_of_the_error(start: Start) -> None:
    daemon = await start(HttpDaemonSettings(engines=FailingChanges()))
    with capture_logs() as logs:
        await daemon.post_bytes("/v1/engines/promote", b'{"version": "v2"}', **AS_ADMIN)
        await daemon.post_bytes("/v1/engines/promote", b"{", **AS_ADMIN)
    first, second = find_audits(logs)
    assert (first["target"], first["outcome"], first["caller"]) == ("v2", "reload_refused", "admin_token")
    assert (second["target"], second["outcome"]) == ("", "malformed")


async def test_what_only_reads_is_not_audited(daemon: HttpDaemon) -> None:
    with capture_logs() as logs:
        await daemon.accept([make_sample("web-01", 0)])
        await daemon.get("/v1/servers")
    assert not find_audits(logs)


@pytest.fixture
def quiet_logs() -> Iterator[list[EventDict]]:
    """Configure structlog to drop all lines below errors; returns the lines that were written."""
    before = structlog.get_config()
    lines: list[EventDict] = []

    def keep(_logger: Any, _name: str, line: EventDict) -> EventDict:
        lines.append(dict(line))
        raise structlog.DropEvent

    structlog.configure(processors=[keep], wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    yield lines
    structlog.configure(**before)


def test_the_level_of_the_log_does_not_silence_an_audit(quiet_logs: list[EventDict]) -> None:
    structlog.get_logger().warning("anything else")
    log_action(make_mocked_request("POST", "/v1/engines/promote"), "promote", "done")
    assert [(line["event"], line["action"], line["outcome"]) for line in quiet_logs] == [("audit", "promote", "done")]
