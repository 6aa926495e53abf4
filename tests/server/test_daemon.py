"""Tests `streamd/server/daemon.py` in this process, on fake lanes: notifications to systemd, and reports of a drain."""

import asyncio
import gc
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from structlog.testing import capture_logs

from streamd.core.errors import LaneLostError
from streamd.inference.fake import FakeBackend
from streamd.inference.opening import OpenedBackend
from streamd.repository.versions import EngineVersion
from streamd.runtime.lanes.progress import ProgressWatch
from streamd.server import daemon as daemons
from streamd.server.config import CandidateSection, Config, EngineSection, ServerSection, StateSection, WindowsSection
from streamd.server.daemon import Daemon
from tests.support.notify_states import NotifyReceiver
from tests.support.served_versions import CALENDAR, CONTRACT, FIRST_STEP, WINDOW, make_both, samples_of


@dataclass
class Lab:
    """Fake backends by version, and events that delay their opening."""

    backends: dict[str, FakeBackend] = field(default_factory=dict)
    delays: dict[str, threading.Event] = field(default_factory=dict)
    """Opening a version of this name waits for its event."""

    def open(
        self, versions: Sequence[EngineVersion], config: Config, exhausted: frozenset[str] = frozenset()
    ) -> OpenedBackend:
        (version,) = versions
        if version.name in self.delays:
            self.delays[version.name].wait()
        backend = self.backends.setdefault(version.name, FakeBackend(CONTRACT, (1, 8)))
        backend.name = "onnxruntime-cpu"
        return OpenedBackend(backend, [backend.make_lane(0)])


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    made = Lab()
    monkeypatch.setattr(daemons, "open_version", made.open)
    monkeypatch.setattr(daemons, "watch_signals", lambda on_stop, on_hangup: None)  # the test runner handles them
    monkeypatch.setattr(daemons, "configure_malloc", lambda: None)  # it would change the whole process
    yield made
    gc.unfreeze()
    for event in made.delays.values():
        event.set()
    for backend in made.backends.values():
        backend.release_all()


@pytest.fixture
def systemd(notify_socket: NotifyReceiver, monkeypatch: pytest.MonkeyPatch) -> NotifyReceiver:
    """The socket at which systemd receives, with a watchdog of 20 ms."""
    monkeypatch.setenv("NOTIFY_SOCKET", notify_socket.getsockname())
    monkeypatch.setenv("WATCHDOG_USEC", "20000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    return notify_socket


def make_config(tmp_path: Path, candidate: str = "") -> Config:
    make_both(tmp_path / "engines")
    return Config(
        server=ServerSection(port=0),
        state=StateSection(state_dir=str(tmp_path / "state"), max_servers=400),
        windows=WindowsSection(min_context_rows=4),
        engine=EngineSection(engines=str(tmp_path / "engines"), warmup_seconds=0.001),
        candidate=CandidateSection(candidate),
    )


@dataclass
class RunningDaemon:
    """A daemon that runs in a task of this loop, and its log."""

    daemon: Daemon
    log: list[Any]
    task: "asyncio.Task[int]"

    async def wait_until(self, happened: Callable[[], bool]) -> None:
        """Run the event loop until `happened` returns true."""
        while not happened():
            assert not self.task.done() or self.task.result() == 0
            await asyncio.sleep(0)

    async def wait_for_event(self, event: str) -> Any:
        """Wait for an event in the log and return its line."""
        await self.wait_until(lambda: any(line["event"] == event for line in self.log))
        return next(line for line in self.log if line["event"] == event)

    async def stop(self) -> Any:
        """Stop the daemon and return the last line of its log."""
        self.daemon.stop()
        assert await self.task == 0
        return await self.wait_for_event("stopped")

    async def send(self, servers: int) -> None:
        """Send so many rows of each server, in one body, that all servers become due."""
        port = (await self.wait_for_event("listening"))["port"]
        steps = range(FIRST_STEP, FIRST_STEP + CONTRACT.context_length)
        sent = [sample for number in range(servers) for sample in samples_of(number, steps)]
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"http://127.0.0.1:{port}/v1/samples", json={"samples": sent}) as response,
        ):
            assert (await response.json())["accepted"] == len(sent)


@asynccontextmanager
async def running(config: Config) -> AsyncIterator[RunningDaemon]:
    with capture_logs() as log:
        daemon = Daemon(config)
        task = asyncio.create_task(daemon.run())
        try:
            yield RunningDaemon(daemon, log, task)
        finally:
            daemon.stop()
            await asyncio.gather(task, return_exceptions=True)


# ---------------------------------------------------------------- systemd
async def test_the_watchdog_is_fed_from_ready_on_however_long_a_candidate_loads(
    lab: Lab, systemd: NotifyReceiver, tmp_path: Path
) -> None:
    lab.delays[CALENDAR] = threading.Event()
    async with running(make_config(tmp_path, candidate=CALENDAR)) as run:
        await run.wait_for_event("ready")
        received = [await asyncio.to_thread(systemd.recv) for _ in range(6)]
        assert received[0] == b"EXTEND_TIMEOUT_USEC=120000000", "loading has a time of its own"
        assert b"READY=1" in received[1].split(b"\n")
        assert received[2:] == [b"WATCHDOG=1"] * 4
        assert not any(line["event"] == "candidate_begun" for line in run.log)
        lab.delays[CALENDAR].set()
        await run.wait_for_event("candidate_begun")
        assert await asyncio.to_thread(systemd.recv) == b"WATCHDOG=1"


async def test_the_watchdog_starves_while_the_lanes_are_stuck_and_is_fed_once_they_move(
    lab: Lab, systemd: NotifyReceiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stall = ""
    monkeypatch.setattr(ProgressWatch, "stall", property(lambda watch: stall))
    async with running(make_config(tmp_path)) as run:
        await run.wait_for_event("ready")
        stall = "8 windows wait or run"
        await run.wait_for_event("watchdog_starves")
        stall = ""
        while b"STATUS=stuck" not in await asyncio.to_thread(systemd.recv):
            pass
        assert await asyncio.to_thread(systemd.recv) == b"WATCHDOG=1"


async def test_the_state_is_flushed_while_lanes_load(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.delays[WINDOW] = threading.Event()
    flushed = threading.Event()
    monkeypatch.setattr("streamd.runtime.state.state.State.flush", lambda state: flushed.set())
    config = make_config(tmp_path)
    state = msgspec.structs.replace(config.state, flush_interval_seconds=0.001)
    async with running(msgspec.structs.replace(config, state=state)) as run:
        await run.wait_for_event("listening")
        assert await asyncio.to_thread(flushed.wait, 60.0)
        lab.delays[WINDOW].set()
        await run.wait_for_event("ready")


# ---------------------------------------------------------------- drain
async def test_a_drain_that_delivers_all_is_complete(lab: Lab, tmp_path: Path) -> None:
    async with running(make_config(tmp_path)) as run:
        await run.wait_for_event("ready")
        await run.send(300)
        stopped = await run.stop()
    assert (stopped["complete"], stopped["left"]) == (True, 0)
    assert (stopped["rows"]["due"], stopped["rows"]["delivered"]) == (300, 300)


async def test_a_drain_whose_lanes_are_lost_is_not_complete(lab: Lab, tmp_path: Path) -> None:
    async with running(make_config(tmp_path)) as run:
        await run.wait_for_event("ready")
        script = lab.backends[WINDOW].script
        script.hold = True
        await run.send(300)
        await run.wait_until(lambda: run.daemon._service is not None and run.daemon._service.pipeline.in_flight > 0)
        run.daemon.stop()
        await run.wait_until(lambda: run.daemon._service is not None and run.daemon._service.is_draining)
        script.errors.append(LaneLostError("lost"))
        lab.backends[WINDOW].release_all()
        assert await run.task == 0
        stopped = await run.wait_for_event("stopped")
    rows = stopped["rows"]
    assert rows["due"] == 300
    assert stopped["left"] == 300 - rows["delivered"] > 0
    assert stopped["complete"] is False


async def test_a_stop_before_it_is_ready_reports_the_rows_that_were_not_forecast(lab: Lab, tmp_path: Path) -> None:
    delay, config = threading.Event(), make_config(tmp_path)
    lab.delays[WINDOW] = delay
    async with running(config) as run:
        await run.send(5)
        stopped = await run.stop()
        delay.set()
    assert (stopped["complete"], stopped["left"]) == (False, 5)
    # 2. After a restart they are due, and they are forecast.
    lab.delays.clear()
    async with running(config) as again:
        await again.wait_for_event("ready")
        assert (await again.stop())["rows"]["delivered"] == 5
