"""Tests `streamd/http/routes/health.py`: `/healthz`, `/readyz`, `/metrics`, `/v1/status`, and unknown routes."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.http.conftest import Start
from tests.support.http_harness import (
    CONTRACT,
    MODEL,
    MSGPACK,
    NEED,
    HttpDaemon,
    HttpDaemonSettings,
    make_rows,
    make_sample,
)


async def test_the_daemon_is_alive_before_it_is_ready(start: Start) -> None:
    daemon = await start(HttpDaemonSettings(lanes=0))
    assert (await daemon.get("/healthz")).status == 200
    reply = await daemon.get("/readyz")
    assert (reply.status, reply.body) == (503, {"status": "starting"})
    # 2. Samples are taken meanwhile, and forecast once a lane is there.
    await daemon.accept(make_rows("a", 1, range(NEED)))
    async with daemon.subscribed() as reader:
        daemon.open_lanes(1)
        assert (await reader.receive())["server"] == "a"
    assert (await daemon.get("/readyz")).body == {"status": "ready"}


async def test_draining_is_alive_and_not_ready(daemon: HttpDaemon) -> None:
    await daemon.service.drain()
    assert (await daemon.get("/healthz")).status == 200
    reply = await daemon.get("/readyz")
    assert (reply.status, reply.body) == (503, {"status": "draining"})


async def test_without_a_lane_it_is_not_ready(daemon: HttpDaemon) -> None:
    daemon.backend.script.lost = True
    await daemon.accept(make_rows("a", 1, range(NEED)))
    while (await daemon.get("/readyz")).status == 200:
        pass
    assert (await daemon.get("/readyz")).body == {"status": "no_lane"}
    status = await daemon.status()
    assert status["ready"] is False
    assert status["lanes"] == []
    assert len(status["lanes_lost"]) == 2


async def test_status_reports_the_version_the_lanes_and_the_counts(daemon: HttpDaemon) -> None:
    async with daemon.subscribed() as reader:
        await daemon.accept([*make_rows("a", 1, range(NEED)), make_sample("b", 0, {"fan": 1.0, "cpu_user": 1.0})])
        await daemon.post("/v1/samples", {"samples": [make_sample("", 0)]})
        await reader.receive()
        status = await daemon.status()
    assert status["backend"] == "fake"
    assert status["engine"] == MODEL
    assert status["precision"] == "fp32"
    assert [lane["name"] for lane in status["lanes"]] == ["fake-0", "fake-1"]
    assert [lane["device"] for lane in status["lanes"]] == ["fake:0", "fake:0"]
    assert [lane["details"] for lane in status["lanes"]] == [{"pads": False}] * 2
    assert sum(lane["windows"] for lane in status["lanes"]) == 1
    assert status["fallbacks"] == [{"backend": "none", "reason": "a test"}]
    assert (status["servers"], status["due"]) == (2, 0)
    assert status["uptime_seconds"] > 0
    assert status["contract"]["features"] == list(CONTRACT.features)
    assert status["contract"]["targets"] == list(CONTRACT.targets)
    assert status["contract"]["units"] == dict(CONTRACT.units)
    assert status["samples"] == {
        "accepted": 4,
        "rejected": {"invalid_server": 1},
        "ignored_features": 1,
        "refused_frames": {},
    }
    assert status["subscribers"] == {"now": 1, "waiting": 0, "dropped": 0}
    rows = status["rows"]
    assert rows["due"] == rows["delivered"] == 1
    assert status["batches"]["by_reason"]["all_waiting"]["windows"] == 1
    assert status["batches"]["by_size"] == {"1": 1}
    assert status["memory"]["resident_bytes"] > 1_000_000
    assert (await daemon.get("/v1/status", MSGPACK)).body["engine"] == MODEL


async def test_due_counts_servers_that_wait(start: Start) -> None:
    daemon = await start(HttpDaemonSettings(lanes=0))
    await daemon.accept([each for name in "abc" for each in make_rows(name, 1, range(NEED + 2))])
    status = await daemon.status()
    assert status["due"] == 3
    assert status["rows"]["superseded"] == 6


async def test_metrics_parse_and_count(daemon: HttpDaemon) -> None:
    async with daemon.subscribed() as reader:
        await daemon.accept(make_rows("a", 1, range(NEED)) + make_rows("b", 1, range(NEED - 1)))
        await daemon.post("/v1/samples", {"samples": [make_sample("", 0), make_sample("a", -100)]})
        await reader.receive()
        reply = await daemon.get("/metrics")
    assert reply.status == 200
    assert reply.headers["Content-Type"].startswith("text/plain")
    families = {family.name: family for family in text_string_to_metric_families(reply.data.decode())}
    values = {(one.name, *one.labels.values()): one.value for family in families.values() for one in family.samples}
    assert all(family.documentation for family in families.values())
    assert values[("streamd_samples_total", "accepted")] == 2 * NEED - 1
    assert values[("streamd_samples_total", "invalid_server")] == 1
    assert values[("streamd_samples_total", "too_old")] == 1
    assert values[("streamd_rows_total", "closed")] == 2 * NEED - 1
    assert values[("streamd_rows_total", "delivered")] == 1
    assert values[("streamd_servers",)] == 2
    assert values[("streamd_due",)] == 0
    assert values[("streamd_lanes",)] == 2
    assert values[("streamd_batches_total", "all_waiting")] == 1
    assert values[("streamd_batches_total", "lane_lost")] == 0
    assert values[("streamd_subscribers",)] == 1
    assert values[("streamd_ready",)] == 1
    assert values[("streamd_forecasts_dropped_total",)] == 0
    for histogram in ("batch_size", "queue_delay_seconds", "inference_seconds", "forecast_age_seconds"):
        assert families[f"streamd_{histogram}"].type == "histogram"
        assert values[(f"streamd_{histogram}_count",)] == 1
        assert values[(f"streamd_{histogram}_sum",)] >= 0


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing", 404, "not_found"),
        ("GET", "/v1", 404, "not_found"),
        ("GET", "/v9/samples", 404, "not_found"),
        ("POST", "/v1/nothing", 404, "not_found"),
        ("GET", "/v1/samples", 405, "method_not_allowed"),
        ("PUT", "/v1/samples", 405, "method_not_allowed"),
        ("PUT", "/v1/servers/a", 405, "method_not_allowed"),
        ("POST", "/v1/status", 405, "method_not_allowed"),
        ("GET", "/v1/predict", 405, "method_not_allowed"),
        ("GET", "/predict", 405, "method_not_allowed"),
        ("PATCH", "/healthz", 405, "method_not_allowed"),
    ],
)
async def test_an_unknown_route_or_method_is_404_or_405(
    daemon: HttpDaemon, method: str, path: str, status: int, code: str
) -> None:
    reply = await daemon.call(method, path)
    assert (reply.status, reply.code) == (status, code)
    assert ("Allow" in reply.headers) == (status == 405)


async def test_errors_are_in_the_encoding_of_the_caller(daemon: HttpDaemon) -> None:
    reply = await daemon.get("/v1/servers/nobody", MSGPACK)
    assert reply.headers["Content-Type"].startswith(MSGPACK)
    assert reply.code == "unknown_server"
    reply = await daemon.post_bytes("/v1/samples", b"\xc1", MSGPACK)
    assert reply.headers["Content-Type"].startswith(MSGPACK)
    assert reply.code == "malformed"
