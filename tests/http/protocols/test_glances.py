"""Tests `streamd/http/protocols/glances.py`: the refreshes that glances 4.5.8 posts."""

import json
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from streamd.http.protocols.glances import GlancesRoutes
from streamd.rule_sets import load_rule_set
from tests.support.agent_routes import AgentServer, serve_agents
from tests.support.http_harness import HttpDaemonSettings

AGENTS = Path(__file__).parents[2] / "fixtures" / "agents"
JSON_TYPE = {"Content-Type": "application/json"}


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[AgentServer]:
    settings = HttpDaemonSettings(rule_sets=[load_rule_set("glances")])
    async with serve_agents(
        tmp_path, lambda service, intake, _: GlancesRoutes(service, intake), settings=settings
    ) as served:
        yield served


def make_refresh(**plugins: Any) -> bytes:
    """Return a captured refresh as if it were of now."""
    refresh: dict[str, Any] = json.loads((AGENTS / "glances-restful/refresh-1.body").read_bytes())
    iso = datetime.fromtimestamp(int(time.time()), UTC).isoformat()
    return json.dumps({**refresh, "now": {"iso": iso}, **plugins}).encode()


async def test_a_refresh_is_taken(server: AgentServer) -> None:
    reply = await server.post("/glances", make_refresh(), JSON_TYPE)
    assert reply.status == 200
    assert reply.body["rejected"] == 0
    assert reply.body["taken"] == 3  # the features of the contract: cpu_user, mem_used, load_average
    assert "web-01" in server.service.collector.table.servers
    assert server.get_counts("glances").taken == 3


async def test_the_captured_refreshes_are_taken_or_named_as_too_far_off(server: AgentServer) -> None:
    for number in (1, 2):
        body = (AGENTS / f"glances-restful/refresh-{number}.body").read_bytes()
        reply = await server.post("/glances", body, JSON_TYPE)
        assert reply.status == 200
        assert reply.body["taken"] + reply.body["rejected"] == 3


async def test_bad_values_are_named_and_the_good_ones_are_taken(server: AgentServer) -> None:
    reply = await server.post("/glances", make_refresh(cpu={"user": 2, "x" * 2_000: 1}, mem=5))
    assert reply.status == 200
    assert (reply.body["taken"], reply.body["rejected"]) == (2, 2)
    assert all(error["message"] for error in reply.body["errors"])


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"{}"])
async def test_a_body_of_another_form_is_refused(server: AgentServer, body: bytes) -> None:
    reply = await server.post("/glances", body, JSON_TYPE)
    assert (reply.status, reply.code) == (400, "malformed")
    assert server.get_counts("glances").refused == {"malformed": 1}


async def test_an_overload_is_503_before_the_body_is_decoded(
    server: AgentServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server.service.collector.open_rows, "points_kept", server.service.collector.limits.max_points)
    reply = await server.post("/glances", b"{")
    assert (reply.status, reply.code, reply.headers["Retry-After"]) == (503, "too_busy", "1")
