"""The daemon in this process, over fake lanes: what it tells systemd, and what it says of a drain."""

import asyncio
import gc
import os
import shutil
import socket
import tempfile
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
from streamd.server import daemon as daemons
from streamd.server.config import CandidateSection, Config, EngineSection, ServerSection, StateSection, WindowsSection
from streamd.server.daemon import Daemon
from tests.support.served_versions import CALENDAR, CONTRACT, FIRST_STEP, WINDOW, make_both, samples_of


@dataclass
class Lab:
    """Fake backends by version, and what holds their opening."""

    backends: dict[str, FakeBackend] = field(default_factory=dict)
    held: dict[str, threading.Event] = field(default_factory=dict)
    """Opening such a version waits for its event."""

    def open(
        self, versions: Sequence[EngineVersion], config: Config, exhausted: frozenset[str] = frozenset()
    ) -> OpenedBackend:
        (version,) = versions
        if version.name in self.held:
            self.held[version.name].wait()
        backend = self.backends.setdefault(version.name, FakeBackend(CONTRACT, (1, 8)))
        backend.name = "onnxruntime-cpu"
        return OpenedBackend(backend, [backend.make_lane(0)])


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    made = Lab()
    monkeypatch.setattr(daemons, "open_version", made.open)
    monkeypatch.setattr(Daemon, "_watch_signals", lambda daemon: None)  # signals are the test runner's
    monkeypatch.setattr(daemons, "configure_malloc", lambda: None)  # it changes the whole process
    yield made
    gc.unfreeze()
    for event in made.held.values():
        event.set()
    for backend in made.backends.values():
        backend.release_all()


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """What systemd hears."""
    folder = tempfile.mkdtemp(prefix="sd")  # a socket's path must be short
    monkeypatch.setenv("NOTIFY_SOCKET", f"{folder}/notify")
    monkeypatch.setenv("WATCHDOG_USEC", "20000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(f"{folder}/notify")
        yield receiver
    shutil.rmtree(folder)


def config_of(tmp_path: Path, candidate: str = "") -> Config:
    make_both(tmp_path / "engines")
    return Config(
        server=ServerSection(port=0),
        state=StateSection(state_dir=str(tmp_path / "state"), max_servers=400),
        windows=WindowsSection(min_context_rows=4),
        engine=EngineSection(engines=str(tmp_path / "engines"), warmup_seconds=0.001),
        candidate=CandidateSection(candidate),
    )


@dataclass
class Running:
    """A daemon that runs, its log, and the task in which it does."""

    daemon: Daemon
    log: list[Any]
    task: "asyncio.Task[int]"

    async def until(self, happened: Callable[[], bool]) -> None:
        """Let the loop turn until something has happened."""
        while not happened():
            assert not self.task.done() or self.task.result() == 0
            await asyncio.sleep(0)

    async def logged(self, event: str) -> Any:
        """Wait for an event in the log; the line."""
        await self.until(lambda: any(line["event"] == event for line in self.log))
        return next(line for line in self.log if line["event"] == event)

    async def stopped(self) -> Any:
        """Stop it; the last line."""
        self.daemon.stop()
        assert await self.task == 0
        return await self.logged("stopped")

    async def send(self, servers: int) -> None:
        """Let so many servers become due, in one body."""
        port = (await self.logged("listening"))["port"]
        steps = range(FIRST_STEP, FIRST_STEP + CONTRACT.context_length)
        sent = [sample for number in range(servers) for sample in samples_of(number, steps)]
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"http://127.0.0.1:{port}/v1/samples", json={"samples": sent}) as response,
        ):
            assert (await response.json())["accepted"] == len(sent)


@asynccontextmanager
async def running(config: Config) -> AsyncIterator[Running]:
    with capture_logs() as log:
        daemon = Daemon(config)
        task = asyncio.create_task(daemon.run())
        try:
            yield Running(daemon, log, task)
        finally:
            daemon.stop()
            await asyncio.gather(task, return_exceptions=True)


# ---------------------------------------------------------------- systemd
async def test_the_watchdog_is_fed_from_ready_on_however_long_a_candidate_loads(
    lab: Lab, told: socket.socket, tmp_path: Path
) -> None:
    lab.held[CALENDAR] = threading.Event()
    async with running(config_of(tmp_path, candidate=CALENDAR)) as run:
        await run.logged("ready")
        heard = [await asyncio.to_thread(told.recv, 1_024) for _ in range(5)]
        assert b"READY=1" in heard[0].split(b"\n")
        assert heard[1:] == [b"WATCHDOG=1"] * 4
        assert not any(line["event"] == "candidate_begun" for line in run.log)
        lab.held[CALENDAR].set()
        await run.logged("candidate_begun")
        assert await asyncio.to_thread(told.recv, 1_024) == b"WATCHDOG=1"


async def test_what_comes_while_lanes_load_is_written_through(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.held[WINDOW] = threading.Event()
    flushed = threading.Event()
    monkeypatch.setattr("streamd.runtime.state.state.State.flush", lambda state: flushed.set())
    config = config_of(tmp_path)
    state = msgspec.structs.replace(config.state, flush_interval_seconds=0.001)
    async with running(msgspec.structs.replace(config, state=state)) as run:
        await run.logged("listening")
        assert await asyncio.to_thread(flushed.wait, 60.0)
        lab.held[WINDOW].set()
        await run.logged("ready")


# ---------------------------------------------------------------- drain
async def test_a_drain_that_delivers_all_is_complete(lab: Lab, tmp_path: Path) -> None:
    async with running(config_of(tmp_path)) as run:
        await run.logged("ready")
        await run.send(300)
        stopped = await run.stopped()
    assert (stopped["complete"], stopped["left"]) == (True, 0)
    assert (stopped["rows"]["due"], stopped["rows"]["delivered"]) == (300, 300)


async def test_a_drain_whose_lanes_are_lost_is_not_complete(lab: Lab, tmp_path: Path) -> None:
    async with running(config_of(tmp_path)) as run:
        await run.logged("ready")
        script = lab.backends[WINDOW].script
        script.hold = True
        await run.send(300)
        await run.until(lambda: run.daemon._service is not None and run.daemon._service.pipeline.in_flight > 0)
        run.daemon.stop()
        await run.until(lambda: run.daemon._service is not None and run.daemon._service.draining)
        script.errors.append(LaneLostError("gone"))
        lab.backends[WINDOW].release_all()
        assert await run.task == 0
        stopped = await run.logged("stopped")
    rows = stopped["rows"]
    assert rows["due"] == 300
    assert stopped["left"] == 300 - rows["delivered"] > 0
    assert stopped["complete"] is False


async def test_a_stop_before_it_is_ready_says_what_was_not_forecast(lab: Lab, tmp_path: Path) -> None:
    held, config = threading.Event(), config_of(tmp_path)
    lab.held[WINDOW] = held
    async with running(config) as run:
        await run.send(5)
        stopped = await run.stopped()
        held.set()
    assert (stopped["complete"], stopped["left"]) == (False, 5)
    # 2. They are due when it starts again, and forecast.
    lab.held.clear()
    async with running(config) as again:
        await again.logged("ready")
        assert (await again.stopped())["rows"]["delivered"] == 5
