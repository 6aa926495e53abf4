"""Tests `streamd/http/errors.py`: windows and lanes that fail, each alone, and the errors that callers get."""

import asyncio

import numpy as np
import pytest

from streamd.core.arrays import Float32
from streamd.core.errors import BatchFailedError, LaneLostError
from tests.http.conftest import Start
from tests.support.http_harness import (
    MSGPACK,
    NEED,
    HttpDaemon,
    HttpDaemonSettings,
    is_same_array,
    make_question,
    make_rows,
    make_sample,
    make_window,
    make_wire_forecast,
    origin,
    read_array,
    values_of,
)

POISON = 666.0


def is_poisoned(window: Float32) -> bool:
    return bool(np.nanmax(window[:, 0]) == POISON)


async def fill_lanes(daemon: HttpDaemon) -> None:
    """Hold both lanes, so that the next windows wait and run as one batch."""
    daemon.backend.script.hold = True
    for name in ("plug-0", "plug-1"):
        await daemon.accept(make_rows(name, 1, range(NEED)))
    while len(daemon.backend.script.runs) < 2:
        await daemon.get("/healthz")


@pytest.mark.parametrize("not_finite", [False, True])
async def test_a_poisoned_window_fails_alone(daemon: HttpDaemon, not_finite: bool) -> None:
    if not_finite:
        daemon.backend.script.not_finite = is_poisoned
    else:
        daemon.backend.script.poison = is_poisoned
    async with daemon.subscribed(servers=["s*"]) as reader:
        await fill_lanes(daemon)
        for number in range(20):
            first = {"cpu_user": POISON} if number in (3, 11) else {}
            rows = [make_sample(f"s{number}", step, values_of(number, step) | first) for step in range(NEED)]
            await daemon.accept(rows)
        good = asyncio.create_task(daemon.post("/v1/predict", make_question(1, 2, 3), MSGPACK))
        bad = asyncio.create_task(daemon.post("/v1/predict", make_question(1, POISON, 3), MSGPACK))
        while daemon.service.scheduler.waiting < 20 + 6:
            await daemon.get("/healthz")
        daemon.release_lanes()
        seen: dict[str, Float32] = {}
        while len(seen) < 18:
            message = await reader.receive()
            seen[message["server"]] = read_array(message["values"])
        reply = await good
        assert reply.status == 200
        assert read_array(reply.body["outputs"]["predictions"])[:, 0, 0, 1].tolist() == [
            np.float32(first) + np.float32(0.001) for first in (1, 2, 3)
        ]
        reply = await bad
        code = "forecast_not_finite" if not_finite else "inference_failed"
        assert (reply.status, reply.code) == (422 if not_finite else 500, code)
        assert "window 1" in reply.body["message"]
    for name, values in seen.items():
        window = make_window(make_rows(name, int(name[1:]), range(NEED)), NEED - 1)
        assert is_same_array(values, make_wire_forecast(window))
    assert {"s3", "s11"}.isdisjoint(seen)
    await daemon.service.pipeline.wait_idle()
    counts = daemon.service.row_counts()
    assert (counts["due"], counts["delivered"], counts["failed"]) == (22, 20, 2)
    assert max(count for _, count in daemon.backend.script.runs) > 2
    # 2. A server whose next row is valid is forecast again.
    async with daemon.subscribed(servers=["s3"]) as reader:
        await daemon.accept([make_sample("s3", step) for step in range(NEED, NEED + 9)])
        while (await reader.receive())["origin"] != origin(NEED + 8):
            pass


async def test_a_failed_batch_runs_again_in_halves_and_all_are_forecast(daemon: HttpDaemon) -> None:
    async with daemon.subscribed(servers=["s*"]) as reader:
        await fill_lanes(daemon)
        for number in range(8):
            await daemon.accept(make_rows(f"s{number}", number, range(NEED)))
        daemon.backend.script.errors.extend(
            [BatchFailedError("one"), BatchFailedError("two"), BatchFailedError("three")]
        )
        daemon.release_lanes()
        seen = {(await reader.receive())["server"] for _ in range(8)}
    assert seen == {f"s{number}" for number in range(8)}


async def test_the_batch_of_a_lost_lane_runs_on_another(daemon: HttpDaemon) -> None:
    daemon.backend.script.errors.append(LaneLostError("gone"))
    async with daemon.subscribed() as reader:
        await daemon.accept(make_rows("a", 7, range(NEED)))
        message = await reader.receive()
    assert is_same_array(
        read_array(message["values"]), make_wire_forecast(make_window(make_rows("a", 7, range(NEED)), NEED - 1))
    )
    status = await daemon.status()
    assert len(status["lanes"]) == 1
    assert len(status["lanes_lost"]) == 1
    assert "gone" in status["lanes_lost"][0]
    assert (await daemon.get("/readyz")).status == 200
    assert (await daemon.post("/v1/predict", make_question(1), MSGPACK)).status == 200


async def test_without_a_lane_callers_get_503_and_samples_are_taken(daemon: HttpDaemon) -> None:
    daemon.backend.script.lost = True
    reply = await daemon.post("/v1/predict", make_question(1, 2), MSGPACK)
    assert (reply.status, reply.code) == (503, "lane_lost")
    assert "Retry-After" in reply.headers
    reply = await daemon.post("/v1/predict", make_question(1), MSGPACK)
    assert (reply.status, reply.code) == (503, "unavailable")
    assert "Retry-After" in reply.headers
    await daemon.accept(make_rows("a", 1, range(NEED)))
    assert is_same_array(await daemon.window("a"), make_window(make_rows("a", 1, range(NEED)), NEED - 1))
    assert (await daemon.get("/readyz")).status == 503
    assert (await daemon.get("/healthz")).status == 200


async def test_waiting_callers_are_answered_at_once_if_the_last_lane_is_lost(start: Start) -> None:
    daemon = await start(HttpDaemonSettings(lanes=1))
    daemon.backend.script.hold = True
    calls = [asyncio.create_task(daemon.post("/v1/predict", make_question(0), MSGPACK))]
    while not daemon.backend.script.runs:
        await daemon.get("/healthz")
    calls += [asyncio.create_task(daemon.post("/v1/predict", make_question(number), MSGPACK)) for number in range(4)]
    while daemon.service.scheduler.waiting < 4:
        await daemon.get("/healthz")
    daemon.backend.script.lost = True
    daemon.release_lanes()
    for call in calls:
        reply = await call
        assert (reply.status, reply.code) == (503, "lane_lost")
    # 2. Draining does not wait for rows that no lane can run.
    await daemon.accept(make_rows("a", 1, range(NEED)))
    await daemon.service.drain()


async def test_a_defect_of_a_lane_is_a_failed_batch(daemon: HttpDaemon) -> None:
    daemon.backend.script.errors.append(ZeroDivisionError("a defect"))
    reply = await daemon.post("/v1/predict", make_question(1), MSGPACK)
    assert (reply.status, reply.code) == (500, "inference_failed")
    assert (await daemon.post("/v1/predict", make_question(1), MSGPACK)).status == 200


async def test_a_caller_that_leaves_affects_no_other_caller(daemon: HttpDaemon) -> None:
    await fill_lanes(daemon)
    leaving = asyncio.create_task(daemon.post("/v1/predict", make_question(1), MSGPACK))
    while not daemon.service.scheduler.waiting:
        await daemon.get("/healthz")
    leaving.cancel()
    await asyncio.gather(leaving, return_exceptions=True)
    daemon.release_lanes()
    assert (await daemon.post("/v1/predict", make_question(2), MSGPACK)).status == 200
