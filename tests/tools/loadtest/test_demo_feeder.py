"""Tests `streamd/tools/loadtest/demo_feeder.py`: rows in real time, daemons that restart, and the feeder's end."""

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from streamd.tools.fleets.fleet import RecordedFleet
from streamd.tools.loadtest.child import find_free_port
from streamd.tools.loadtest.demo_feeder import AWAY_SECONDS, DemoFeeder, start_feeder
from streamd.tools.loadtest.demo_fleet import LiveRows
from streamd.tools.loadtest.demo_folder import DemoFolder, FeederJob
from tests.support.daemon_process import ROOT
from tests.support.http_harness import BASE_SECONDS, CONTRACT, HttpDaemon, make_sample

STEP_SECONDS = CONTRACT.step_seconds
NEXT_STEP = BASE_SECONDS // STEP_SECONDS
OVER = BASE_SECONDS + STEP_SECONDS
"""The end of that step, when its rows are due soon."""
SERVERS = ("web-1", "web-2")


class Clock:
    """A clock that only sleeping moves; `at_sleep` is called then."""

    def __init__(self, now: float = OVER, at_sleep: Callable[[], None] = lambda: None) -> None:
        self.now = now
        self._at_sleep = at_sleep

    def read(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self._at_sleep()


class StoppedError(Exception):
    """Ends a feeder from within its clock."""


def make_feeder(url: str, clock: Clock) -> DemoFeeder:
    series = np.arange(16, dtype=np.float32).reshape(2, 8, 1)
    fleet = RecordedFleet(SERVERS, ("cpu_user",), NEXT_STEP, series)
    rows = LiveRows(fleet, NEXT_STEP, STEP_SECONDS)
    return DemoFeeder(url, SERVERS, rows, wall=clock.read, sleep=clock.sleep)


async def fill(daemon: HttpDaemon, *servers: str) -> None:
    await daemon.accept([make_sample(server, step, {"cpu_user": 50.0}) for server in servers for step in (-2, -1)])


async def read_newest(daemon: HttpDaemon, server: str) -> tuple[int, float]:
    """Return the step of the newest row of a server, counted from `NEXT_STEP`, and its value."""
    window = (await daemon.get(f"/v1/servers/{server}")).body
    return window["origin"] // STEP_SECONDS - NEXT_STEP - 1, window["values"][-1][0]


async def test_each_row_is_sent_when_it_is_due(daemon: HttpDaemon) -> None:
    await fill(daemon, *SERVERS)
    clock = Clock()
    feeder = make_feeder(daemon.url, clock)
    await asyncio.to_thread(feeder.send_due)
    assert await read_newest(daemon, "web-1") == (-1, 50.0)
    clock.now += STEP_SECONDS / 2
    await asyncio.to_thread(feeder.send_due)
    assert [await read_newest(daemon, server) for server in SERVERS] == [(0, 0.0), (-1, 50.0)]
    clock.now += STEP_SECONDS
    await asyncio.to_thread(feeder.send_due)
    assert [await read_newest(daemon, server) for server in SERVERS] == [(1, 1.0), (0, 8.0)]


async def test_a_server_that_was_forgotten_does_not_come_back(daemon: HttpDaemon) -> None:
    await fill(daemon, "web-2")
    clock = Clock(OVER + STEP_SECONDS)
    await asyncio.to_thread(make_feeder(daemon.url, clock).send_due)
    assert (await daemon.get("/v1/servers/web-1")).status == 404
    assert await read_newest(daemon, "web-2") == (0, 8.0)


async def test_a_daemon_without_the_servers_of_the_demo_gets_no_row(daemon: HttpDaemon) -> None:
    await fill(daemon, "db-1")
    clock = Clock(OVER + STEP_SECONDS)
    reason = await asyncio.to_thread(make_feeder(daemon.url, clock).run)
    assert reason == f"the daemon at {daemon.url} has none of the demo's servers"
    assert [entry["server"] for entry in (await daemon.get("/v1/servers")).body["servers"]] == ["db-1"]


async def test_rows_of_the_time_in_which_the_daemon_was_away_are_sent_later(daemon: HttpDaemon) -> None:
    await fill(daemon, *SERVERS)
    url = f"http://127.0.0.1:{find_free_port()}"

    def come_back() -> None:
        if clock.now > OVER + 2 * STEP_SECONDS:
            feeder.url = daemon.url
        if clock.now > OVER + 3 * STEP_SECONDS:
            raise StoppedError

    clock = Clock(OVER + STEP_SECONDS, come_back)
    feeder = make_feeder(url, clock)
    with pytest.raises(StoppedError):
        await asyncio.to_thread(feeder.run)
    assert [await read_newest(daemon, server) for server in SERVERS] == [(2, 2.0), (2, 10.0)]
    window = (await daemon.get("/v1/servers/web-1")).body
    assert [row[0] for row in window["values"][-4:]] == [50.0, 0.0, 1.0, 2.0]


def test_it_ends_when_its_daemon_does_not_come_back() -> None:
    clock = Clock(OVER + STEP_SECONDS)
    reason = make_feeder(f"http://127.0.0.1:{find_free_port()}", clock).run()
    assert reason == "the daemon did not answer for 900 s"
    assert clock.now < OVER + STEP_SECONDS + 2 * AWAY_SECONDS


async def test_it_is_a_process_that_says_why_it_ends(daemon: HttpDaemon, tmp_path: Path) -> None:
    fleet = ROOT / "examples/fleet/servers.csv.gz"
    step = int(time.time()) // 300
    job = FeederJob(url=daemon.url, recording=str(fleet), first_step=step - 660, next_step=step - 1, step_seconds=300)
    folder = DemoFolder(tmp_path)
    pid = start_feeder(folder, job)
    await asyncio.to_thread(os.waitpid, pid, 0)
    lines = folder.feeder_log.read_text().splitlines()
    assert lines[0] == f"feeder {pid} begins"
    assert lines[-1] == f"feeder {pid} ends: the daemon at {daemon.url} has none of the demo's servers"
