"""Tests `streamd/http/access/upgrades.py`: a path that is a WebSocket says so to a request that opens none."""

import pytest

from tests.support.http_harness import HttpDaemon


@pytest.mark.parametrize("path", ["/v1/ingest", "/telegraf"])
async def test_a_plain_request_is_answered_with_what_is_expected(daemon: HttpDaemon, path: str) -> None:
    reply = await daemon.get(path)
    assert (reply.status, reply.code) == (426, "upgrade_required")
    assert reply.headers["Upgrade"] == "websocket"
    assert reply.headers["Connection"] == "Upgrade"
    assert path in reply.body["message"]


async def test_the_connection_serves_further_requests(daemon: HttpDaemon) -> None:
    for _ in range(2):
        assert (await daemon.get("/v1/ingest")).status == 426
    assert (await daemon.get("/healthz")).status == 200


async def test_a_path_that_is_not_only_a_socket_has_its_own_answer(daemon: HttpDaemon) -> None:
    reply = await daemon.get("/v1/forecasts")
    assert (reply.status, reply.code) == (400, "invalid_selection")
