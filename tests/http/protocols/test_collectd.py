"""Tests `streamd/http/protocols/collectd.py`: each answer to collectd's POST."""

import gzip

import pytest

from streamd.core.errors import DrainingError, StorageError, StreamdError, TooBusyError
from streamd.core.mapping.series import Kind
from streamd.http.protocols.collectd import CollectdRoutes
from streamd.http.requests import TransportLimits
from tests.support.agent_fixtures import read_agent_body
from tests.support.recording_collector import run_recording_daemon

BODY = read_agent_body("collectd/rates-2")


async def test_a_body_is_answered_with_200() -> None:
    async with run_recording_daemon(CollectdRoutes) as daemon:
        status, _, answer = await daemon.post("/collectd", BODY, **{"Content-Type": "application/json"})
    assert status == 200, "a 204 is an error to collectd"
    assert answer == {"taken": 23, "ignored": 0, "skipped": 2, "rejected": 0, "errors": []}
    assert [protocol for protocol, _ in daemon.collector.batches] == ["collectd"]


async def test_a_host_that_sends_rates_is_remembered_between_bodies() -> None:
    async with run_recording_daemon(CollectdRoutes) as daemon:
        await daemon.post("/collectd", BODY)
        await daemon.post("/collectd", read_agent_body("collectd-defaults/cpu-jiffies"))
    _, sink = daemon.collector.batches[1]
    assert {series.kind for series, _, _ in sink.points if series.name == "cpu/cpu"} == {Kind.GAUGE}


async def test_bad_values_are_named_and_the_good_ones_are_taken() -> None:
    body = BODY.replace(b'"time":1795898324.331', b'"time":"now"', 1)
    async with run_recording_daemon(CollectdRoutes) as daemon:
        status, _, answer = await daemon.post("/collectd", body)
    assert status == 200
    assert (answer["taken"], answer["rejected"]) == (23, 1)
    assert answer["errors"] == [{"code": "invalid_sample", "message": "[0]: Expected `float`, got `str` - at `$.time`"}]


@pytest.mark.parametrize("body", [b"", b"{", b"PUTVAL web-01/load/load N:1:2:3"])
async def test_a_body_that_is_no_json_is_answered_with_400(body: bytes) -> None:
    async with run_recording_daemon(CollectdRoutes) as daemon:
        status, headers, answer = await daemon.post("/collectd", body)
    assert (status, answer["code"]) == (400, "malformed")
    assert "Retry-After" not in headers
    assert [error.code for _, error in daemon.collector.refused] == ["malformed"]


@pytest.mark.parametrize("error", [TooBusyError("too many points"), DrainingError("the daemon is stopping")])
async def test_an_overload_is_answered_with_503_before_the_body_is_decoded(error: StreamdError) -> None:
    async with run_recording_daemon(CollectdRoutes) as daemon:
        daemon.collector.closed = error
        status, headers, answer = await daemon.post("/collectd", BODY)
    assert (status, answer["code"], headers["Retry-After"]) == (503, error.code, "1")
    assert daemon.collector.batches == []


async def test_points_that_cannot_be_stored_are_answered_with_503() -> None:
    async with run_recording_daemon(CollectdRoutes) as daemon:
        daemon.collector.broken = StorageError("the disk is full")
        status, _, answer = await daemon.post("/collectd", BODY)
    assert (status, answer["code"]) == (503, "storage")


async def test_a_body_that_is_too_large_is_answered_with_413() -> None:
    async with run_recording_daemon(CollectdRoutes, TransportLimits(max_body_bytes=1000)) as daemon:
        status, _, answer = await daemon.post("/collectd", BODY)
    assert (status, answer["code"]) == (413, "too_large")


async def test_a_compressed_body_is_taken() -> None:
    async with run_recording_daemon(CollectdRoutes) as daemon:
        status, _, answer = await daemon.post("/collectd", gzip.compress(BODY), **{"Content-Encoding": "gzip"})
    assert (status, answer["taken"]) == (200, 23)
