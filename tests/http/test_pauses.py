"""Tests `streamd/http/sockets.py` and `requests.py`: time in which the daemon did not run counts for no deadline."""

import asyncio
import time

import pytest

from streamd.http.requests import TransportLimits
from streamd.runtime.service import ServiceLimits
from tests.http.conftest import Start
from tests.support.http_harness import CONTRACT, HttpDaemon, HttpDaemonSettings, make_sample, open_listener, pack
from tests.support.http_harness import JSON as JSON_TYPE
from tests.support.paused_clock import HOUR, PausableClock
from tests.support.stalled_peer import BIG, StalledReader

SECONDS = 0.02
SETUP = HttpDaemonSettings(
    limits=TransportLimits(body_timeout_seconds=SECONDS, send_timeout_seconds=SECONDS),
    service_limits=ServiceLimits(predict_timeout_seconds=SECONDS),
    lanes=1,
)


def stop_clock(daemon: HttpDaemon) -> PausableClock:
    """Stop the clock of the deadlines; from then on the test moves it."""
    now, pauses = time.monotonic(), daemon.service.pauses
    pauses.clock = clock = PausableClock(pauses)
    clock.base = lambda: now
    return clock


async def pause(clock: PausableClock) -> None:
    """Let an hour pass in which the daemon does not run, and run every timer that was due in it."""
    clock.pause(HOUR)
    over = asyncio.Event()
    asyncio.get_running_loop().call_later(3 * SECONDS, over.set)
    await over.wait()


async def test_a_body_whose_rest_arrived_during_a_pause_is_taken(start: Start) -> None:
    daemon = await start(SETUP)
    clock = stop_clock(daemon)
    body = pack({"samples": [make_sample("a", 1)]}, JSON_TYPE)
    reader, writer = await asyncio.open_connection("127.0.0.1", daemon.port)
    head = (
        "POST /v1/samples HTTP/1.1\r\nHost: localhost\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    writer.write(head.encode() + body[:10])
    await daemon.get("/healthz")
    await pause(clock)
    writer.write(body[10:])
    assert (await reader.readline()).startswith(b"HTTP/1.1 200")
    writer.close()
    await writer.wait_closed()


async def test_a_caller_gets_the_forecast_that_a_pause_delayed(start: Start) -> None:
    daemon = await start(SETUP)
    clock = stop_clock(daemon)
    daemon.backend.script.hold = True
    inputs = {
        name: [[0.5] * shape[1]] * shape[0] for name, shape in CONTRACT.input_shapes.items() if name.endswith("cont")
    }
    calling = asyncio.create_task(daemon.post("/v1/predict", inputs))
    while not daemon.service.pipeline.in_flight:
        await asyncio.sleep(0)
    await pause(clock)
    daemon.release_lanes()
    assert (await calling).status == 200
    # 2. Time in which the daemon runs does count.
    daemon.backend.script.hold = True
    calling = asyncio.create_task(daemon.post("/v1/predict", inputs))
    while not daemon.service.pipeline.in_flight:
        await asyncio.sleep(0)
    clock.run(1.0)
    assert ((reply := await calling).status, reply.code) == (429, "too_busy")


@pytest.mark.parametrize("path", ["/v1/forecasts?servers=*", "/v1/forecasts/stream"])
async def test_a_reader_is_dropped_for_time_in_which_it_could_have_read(start: Start, path: str) -> None:
    daemon = await start(HttpDaemonSettings(contract=BIG, listener=open_listener(4_096), limits=SETUP.limits))
    clock = stop_clock(daemon)
    slow = StalledReader()
    await slow.connect(daemon.port, path)
    while not daemon.has_stalled_reader():
        await daemon.accept([make_sample("x", daemon.service.ingest.accepted, {"a": 1.0, "b": 1.0})])
    await pause(clock)
    assert len(daemon.service.hub) == 1
    while len(daemon.service.hub):
        await daemon.accept([make_sample("x", daemon.service.ingest.accepted, {"a": 1.0, "b": 1.0})])
        clock.run(1.0)
    slow.close()
