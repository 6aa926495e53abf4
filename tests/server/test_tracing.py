"""Tests `streamd/server/tracing.py`: spans on the way to a real collector, from a sample to the forecast sent."""

import asyncio
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from streamd.core.errors import ConfigError
from streamd.core.mapping.rules import RuleSet
from streamd.rule_sets import MappingSettings, load_rule_sets
from streamd.runtime.span_traces import MAX_FOLLOWED_SERVERS, SpanTraces
from streamd.runtime.traces import NO_TRACES
from streamd.server.config import TracingSection
from streamd.server.tracing import open_traces
from tests.support.daemon_process import DaemonProcess
from tests.support.http_harness import JSON, NEED, HttpDaemon, HttpDaemonSettings, make_rows, pack, run_http_daemon
from tests.support.otlp_receiver import OtlpReceiver, ReceivedSpan, run_otlp_receiver

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SENDER = "00f067aa0ba902b7"
SAMPLED = {"traceparent": f"00-{TRACE}-{SENDER}-01"}
UNSAMPLED = {"traceparent": f"00-{TRACE}-{SENDER}-00"}

Traced = Callable[..., AbstractAsyncContextManager[HttpDaemon]]


@pytest.fixture
async def receiver() -> AsyncIterator[OtlpReceiver]:
    async with run_otlp_receiver() as each:
        yield each


@pytest.fixture
def run_traced(tmp_path: Path, receiver: OtlpReceiver) -> Traced:
    """Return a function that runs a daemon whose spans are at the receiver when its block ends."""

    @asynccontextmanager
    async def run(sample_ratio: float = 0.0, **settings: Any) -> AsyncIterator[HttpDaemon]:
        traces = open_traces(TracingSection(receiver.url, sample_ratio))
        async with run_http_daemon(tmp_path / "state", HttpDaemonSettings(traces=traces, **settings)) as daemon:
            yield daemon
            await asyncio.to_thread(traces.close)

    return run


async def post(daemon: HttpDaemon, steps: range, headers: dict[str, str], *servers: str) -> None:
    rows = [row for server in servers or ("web-01",) for row in make_rows(server, 1, steps)]
    reply = await daemon.call("POST", "/v1/samples", pack({"samples": rows}, JSON), {"Content-Type": JSON, **headers})
    assert reply.body["accepted"] == len(rows)


# ---------------------------------------------------------------- one sample's way, one forecast's way
async def test_a_sample_and_its_forecast_are_two_linked_traces(run_traced: Traced, receiver: OtlpReceiver) -> None:
    async with run_traced() as daemon, daemon.subscribed() as subscriber:
        await post(daemon, range(NEED), SAMPLED)
        assert (await subscriber.receive())["server"] == "web-01"
    body = receiver.find_one("POST /v1/samples")
    assert (body.trace_id, body.parent_id) == (TRACE, SENDER)
    assert body.attributes == {"streamd.accepted": NEED, "streamd.rejected": 0}
    assert receiver.children_of(body) == ["decode", "take"]
    take = receiver.find_one("take")
    assert set(receiver.children_of(take)) == {"row"}
    forecast = receiver.find_one("forecast")
    assert forecast.trace_id != TRACE
    assert forecast.parent_id == ""
    rows = receiver.find("row")
    assert set(forecast.links) <= {row.span_id for row in rows}
    assert forecast.links
    assert receiver.children_of(forecast) == ["queue", "lane", "board", "send"]
    assert_in_order(receiver, body, take, rows[0], forecast)
    assert receiver.resources[0]["service.name"] == "streamd"


def assert_in_order(
    receiver: OtlpReceiver, body: ReceivedSpan, take: ReceivedSpan, row: ReceivedSpan, forecast: ReceivedSpan
) -> None:
    """Check that times and facts fit together."""
    assert body.start <= take.start <= row.start <= row.end <= take.end <= body.end
    queue, lane, board, send = (receiver.find_one(name) for name in ("queue", "lane", "board", "send"))
    assert queue.start == forecast.start
    assert queue.end == lane.start <= lane.end == board.start <= board.end == forecast.end == send.start <= send.end
    assert lane.attributes["streamd.batch.windows"] == 1
    assert lane.attributes["streamd.version"]
    assert forecast.attributes["streamd.server"] == "web-01"


async def test_a_row_that_closes_later_belongs_to_every_body_that_filled_it(
    run_traced: Traced, receiver: OtlpReceiver
) -> None:
    async with run_traced() as daemon:
        await post(daemon, range(NEED), {})
        await daemon.service.pipeline.wait_idle()
        for name, value in (("cpu_user", 1.0), ("mem_used", 2.0), ("load_average", 3.0)):
            sample = {**make_rows("web-01", 1, [NEED])[0], "values": {name: value}}
            reply = await daemon.call(
                "POST", "/v1/samples", pack({"samples": [sample]}, JSON), {"Content-Type": JSON, **SAMPLED}
            )
            assert reply.status == 200
        await daemon.service.pipeline.wait_idle()
    takes = receiver.find("take")
    assert len(takes) == 3
    assert [receiver.children_of(take) for take in takes] == [["row"]] * 3
    rows = {row.span_id for row in receiver.find("row")}
    assert set(receiver.find_one("forecast").links) == rows
    assert len({row.end for row in receiver.find("row")}) == 1


async def test_a_socket_s_frames_belong_to_the_trace_of_its_upgrade(run_traced: Traced, receiver: OtlpReceiver) -> None:
    async with (
        run_traced() as daemon,
        daemon.session.ws_connect(f"{daemon.url}/v1/ingest", headers=SAMPLED) as socket,
    ):
        await socket.send_bytes(b"\xc1")
        assert "error" in str((await socket.receive()).data)
        await socket.send_json({"samples": make_rows("web-01", 1, range(2))})
        await socket.receive()
    first, second = receiver.find("GET /v1/ingest frame")
    assert first.trace_id == second.trace_id == TRACE
    assert first.is_error
    assert first.attributes["error.type"] == "malformed"
    assert not second.is_error


async def test_points_of_other_agents_are_followed_too(run_traced: Traced, receiver: OtlpReceiver) -> None:
    async with run_traced(rule_sets=load_collectd()) as daemon:
        body = (
            b'[{"values":[42.0],"dstypes":["gauge"],"dsnames":["value"],"time":1700000045,"interval":10,'
            b'"host":"web-01","plugin":"load","plugin_instance":"","type":"load","type_instance":""}]'
        )
        reply = await daemon.call("POST", "/collectd", body, {"Content-Type": JSON, **SAMPLED})
        assert reply.status == 200
    span = receiver.find_one("POST /collectd")
    assert (span.trace_id, span.parent_id) == (TRACE, SENDER)
    assert receiver.children_of(span) == ["decode", "take"]


def load_collectd() -> "tuple[RuleSet, ...]":
    return tuple(load_rule_sets(MappingSettings(rule_sets=("collectd",))))


async def test_a_daemon_that_is_stopped_exports_what_waits(tmp_path: Path, receiver: OtlpReceiver) -> None:
    tracing = {"STREAMD_OTLP_ENDPOINT": receiver.url, "STREAMD_SAMPLE_RATIO": "1"}

    def run_daemon() -> int:
        daemon = DaemonProcess.start(tmp_path / "state", env=tracing)
        try:
            sample = {"server": "web-01", "time": 1_700_000_100, "values": {"cpu_user": 1.0}}
            assert daemon.call("POST", "/v1/samples", {"samples": [sample]})[0] == 200
            daemon.signal(signal.SIGTERM)  # within the interval of the exports
            return daemon.wait()
        finally:
            daemon.end()

    assert await asyncio.to_thread(run_daemon) == 0
    assert receiver.children_of(receiver.find_one("POST /v1/samples")) == ["decode", "take"]


# ---------------------------------------------------------------- what is not traced
@pytest.mark.parametrize(("headers", "ratio"), [(UNSAMPLED, 1.0), ({}, 0.0), ({"traceparent": "00-nonsense"}, 0.0)])
async def test_bodies_that_are_not_chosen_cost_no_span(
    run_traced: Traced, receiver: OtlpReceiver, headers: dict[str, str], ratio: float
) -> None:
    async with run_traced(ratio) as daemon, daemon.subscribed() as subscriber:
        await post(daemon, range(NEED), headers)
        await subscriber.receive()
        assert isinstance(daemon.service.traces, SpanTraces)
        assert daemon.service.traces.count_spans() == {"exported": 0, "dropped": 0, "failed": 0}
    assert receiver.spans == []


async def test_a_rejected_sample_and_most_servers_of_a_large_body_are_not_followed(
    run_traced: Traced, receiver: OtlpReceiver
) -> None:
    servers = [f"web-{number:03d}" for number in range(MAX_FOLLOWED_SERVERS + 5)]
    async with run_traced(1.0) as daemon:
        samples = [*make_rows("far", 1, [10**7]), *(row for each in servers for row in make_rows(each, 1, range(NEED)))]
        reply = await daemon.post("/v1/samples", {"samples": samples})
        assert (reply.body["accepted"], reply.body["rejected"]) == (len(servers) * NEED, 1)
        assert isinstance(daemon.service.traces, SpanTraces)
        await daemon.service.pipeline.wait_idle()
        assert not daemon.service.traces.rows.take("far")
    # The rejected server is one of the first that are followed.
    assert {each.attributes["streamd.server"] for each in receiver.find("row")} == set(
        servers[: MAX_FOLLOWED_SERVERS - 1]
    )
    assert len(receiver.find("forecast")) == MAX_FOLLOWED_SERVERS - 1


async def test_the_rows_of_a_frame_are_followed_as_samples_are(run_traced: Traced, receiver: OtlpReceiver) -> None:
    servers = [f"web-{number:03d}" for number in range(MAX_FOLLOWED_SERVERS + 5)]
    async with run_traced(1.0) as daemon:
        for step in range(NEED):
            rows = [make_rows(server, 1, [step])[0] for server in servers]
            columns = {
                "servers": servers,
                "time": rows[0]["time"],
                "features": list(rows[0]["values"]),
                "values": [list(row["values"].values()) for row in rows],
            }
            assert (await daemon.post("/v1/samples", {"columns": columns})).body["accepted"] == len(servers)
        await daemon.service.pipeline.wait_idle()
    assert {each.attributes["streamd.server"] for each in receiver.find("row")} == set(servers[:MAX_FOLLOWED_SERVERS])
    assert len(receiver.find("forecast")) == MAX_FOLLOWED_SERVERS


async def test_spans_are_counted_and_a_collector_that_refuses_is_logged_once(
    run_traced: Traced, receiver: OtlpReceiver
) -> None:
    receiver.status = 400  # a permanent error: the exporter does not try again
    with capture_logs() as logs:
        async with run_traced(1.0) as daemon:
            await post(daemon, range(1), {})
    assert [each["event"] for each in logs if each["event"].startswith("trace")] == ["trace_export_failed"]
    text = daemon.service.metrics.render().decode()
    assert 'streamd_trace_spans_total{result="failed"} 3.0' in text


# ---------------------------------------------------------------- off
def test_without_an_endpoint_nothing_is_traced_and_nothing_is_loaded() -> None:
    code = (
        "import sys, streamd.server.daemon\n"
        "from streamd.server.tracing import open_traces\n"
        "from streamd.server.config import TracingSection\n"
        "open_traces(TracingSection())\n"
        "print([name for name in sys.modules if name.startswith(('opentelemetry.sdk', 'opentelemetry.exporter'))])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
    assert open_traces(TracingSection()) is NO_TRACES


def test_an_endpoint_without_the_extra_is_an_error_that_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(ConfigError, match=r"pip install 'streamd\[tracing\]'"):
        open_traces(TracingSection("http://localhost:4318"))
