"""Tests `streamd/http/protocols/pcp.py`: each answer to a document of pcp2json."""

import pytest

from streamd.core.errors import DrainingError, StreamdError, TooBusyError
from streamd.http.protocols.pcp import PcpRoutes
from tests.support.agent_fixtures import read_agent_body
from tests.support.recording_collector import run_recording_daemon


@pytest.mark.parametrize("name", ["default-stdout", "no-header-exact"])
async def test_a_document_is_taken(name: str) -> None:
    async with run_recording_daemon(PcpRoutes) as daemon:
        status, _, answer = await daemon.post("/pcp", read_agent_body(f"pcp2json/{name}"))
    assert status == 200
    assert answer == {"taken": 57, "ignored": 0, "skipped": 0, "rejected": 0, "errors": []}
    assert [protocol for protocol, _ in daemon.collector.batches] == ["pcp"]


async def test_bad_values_are_named_and_the_good_ones_are_taken() -> None:
    body = read_agent_body("pcp2json/no-header-exact").replace(b'"value": 33.302', b'"value": [1]', 1)
    async with run_recording_daemon(PcpRoutes) as daemon:
        status, _, answer = await daemon.post("/pcp", body)
    assert (status, answer["taken"], answer["rejected"]) == (200, 56, 1)
    assert answer["errors"][0]["message"].startswith("@hosts[0].@metrics[0].filesys.full: ")


@pytest.mark.parametrize("body", [b"", b"null", b"[1]"])
async def test_another_body_is_answered_with_400(body: bytes) -> None:
    async with run_recording_daemon(PcpRoutes) as daemon:
        status, _, answer = await daemon.post("/pcp", body)
    assert (status, answer["code"]) == (400, "malformed")


@pytest.mark.parametrize("error", [TooBusyError("too many points"), DrainingError("the daemon is stopping")])
async def test_an_overload_is_answered_with_503(error: StreamdError) -> None:
    async with run_recording_daemon(PcpRoutes) as daemon:
        daemon.collector.closed = error
        status, headers, answer = await daemon.post("/pcp", b"{}")
    assert (status, answer["code"], headers["Retry-After"]) == (503, error.code, "1")
