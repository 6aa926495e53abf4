"""Tests `streamd/http/protocols/netdata.py`: each answer to netdata, and to senders of OpenTSDB's JSON."""

import json
from typing import Any

import pytest

from streamd.core.errors import DrainingError, StreamdError, TooBusyError, TooOldError
from streamd.http.protocols.netdata import NetdataRoutes
from tests.support.agent_fixtures import read_agent_body
from tests.support.recording_collector import run_recording_daemon

GOOD = {"metric": "sys.cpu", "timestamp": 1795898481, "value": 1, "tags": {"host": "web-01"}}
BAD = {**GOOD, "value": "x"}


def pack(*items: Any) -> bytes:
    return json.dumps(items).encode()


# ---------------------------------------------------------------- netdata
@pytest.mark.parametrize(("name", "points"), [("average-1", 53), ("average-2", 53), ("empty", 0)])
async def test_netdata_is_answered_with_204(name: str, points: int) -> None:
    async with run_recording_daemon(NetdataRoutes) as daemon:
        status, _, answer = await daemon.post("/api/put", read_agent_body(f"netdata-json-average/{name}"))
    assert (status, answer) == (204, None)
    assert daemon.collector.points == points


async def test_a_bad_item_of_netdata_changes_nothing_in_the_answer() -> None:
    body = read_agent_body("netdata-json-average/average-1").replace(b"47.9113400", b'"x"', 1)
    async with run_recording_daemon(NetdataRoutes) as daemon:
        status, _, _ = await daemon.post("/api/put", body)
    assert status == 204
    assert daemon.collector.points == 52


# ---------------------------------------------------------------- OpenTSDB
async def test_good_datapoints_are_answered_with_204() -> None:
    async with run_recording_daemon(NetdataRoutes) as daemon:
        status, _, answer = await daemon.post("/api/put", pack(GOOD, GOOD))
    assert (status, answer) == (204, None)
    assert daemon.collector.points == 2


async def test_bad_datapoints_are_answered_with_400_and_the_good_ones_are_taken() -> None:
    async with run_recording_daemon(NetdataRoutes) as daemon:
        status, _, answer = await daemon.post("/api/put", pack(GOOD, BAD))
    assert status == 400
    assert answer == {
        "error": {
            "code": 400,
            "message": "One or more data points had errors",
            "details": "[1]: value is 'x', expected a number; append \"details\" to the request",
        }
    }
    assert daemon.collector.points == 1


@pytest.mark.parametrize("query", ["?details", "?details=true", "?summary&details"])
async def test_details_name_each_bad_datapoint(query: str) -> None:
    async with run_recording_daemon(NetdataRoutes) as daemon:
        status, _, answer = await daemon.post(f"/api/put{query}", pack(GOOD, BAD))
    assert status == 400
    assert answer == {
        "success": 1,
        "failed": 1,
        "errors": [{"datapoint": BAD, "error": "[1]: value is 'x', expected a number"}],
    }


async def test_details_of_good_datapoints_are_answered_with_200() -> None:
    async with run_recording_daemon(NetdataRoutes) as daemon:
        status, _, answer = await daemon.post("/api/put?details", pack(GOOD))
    assert (status, answer) == (200, {"success": 1, "failed": 0, "errors": []})


@pytest.mark.parametrize(("items", "status", "failed"), [((GOOD,), 200, 0), ((GOOD, BAD), 400, 1)])
async def test_a_summary_has_no_errors(items: tuple[Any, ...], status: int, failed: int) -> None:
    async with run_recording_daemon(NetdataRoutes) as daemon:
        got, _, answer = await daemon.post("/api/put?summary", pack(*items))
    assert (got, answer) == (status, {"success": 1, "failed": failed})


async def test_what_only_the_collector_rejects_is_in_the_details() -> None:
    async with run_recording_daemon(NetdataRoutes) as daemon:
        daemon.collector.late_errors = [TooOldError("web-01 is further on")]
        status, _, answer = await daemon.post("/api/put?details", pack(GOOD, BAD, GOOD))
    assert status == 400
    assert (answer["success"], answer["failed"]) == (1, 2)
    assert [error["error"] for error in answer["errors"]] == [
        "[1]: value is 'x', expected a number",
        "web-01 is further on",
    ]


@pytest.mark.parametrize(
    "bad", [{**BAD, "value": float("nan"), "metric": ""}, {**BAD, "tags": {"a": "\ud800"}}, {**BAD, "more": "x" * 5000}]
)
async def test_a_datapoint_that_cannot_be_shown_is_left_out(bad: Any) -> None:
    async with run_recording_daemon(NetdataRoutes) as daemon:
        status, _, answer = await daemon.post("/api/put?details", pack(GOOD, bad))
    assert (status, answer["failed"]) == (400, 1)
    assert "error" in answer["errors"][0]


# ---------------------------------------------------------------- refusals
@pytest.mark.parametrize("body", [b"", b"{", b"put sys.cpu 1 1"])
async def test_a_body_that_is_no_json_is_answered_with_400(body: bytes) -> None:
    async with run_recording_daemon(NetdataRoutes) as daemon:
        status, _, answer = await daemon.post("/api/put", body)
    assert status == 400
    assert answer["error"]["code"] == 400
    assert answer["error"]["message"]


@pytest.mark.parametrize("error", [TooBusyError("too many points"), DrainingError("the daemon is stopping")])
async def test_an_overload_is_answered_with_503(error: StreamdError) -> None:
    async with run_recording_daemon(NetdataRoutes) as daemon:
        daemon.collector.closed = error
        status, headers, answer = await daemon.post("/api/put", pack(GOOD))
    assert (status, headers["Retry-After"]) == (503, "1")
    assert answer == {"error": {"code": 503, "message": str(error)}}
