"""Tests `streamd/server/workers/part.py`, `plan.py`, `states.py` and `commands.py`: what passes between processes."""

import asyncio
import math
import os
import socket
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from streamd.server.config import Config, ServerSection, StateSection, WindowsSection
from streamd.server.systemd import Notifier
from streamd.server.workers.commands import DRAIN, LOST_WORKER, CommandReader
from streamd.server.workers.part import LAST_DELAY_SECONDS, RestartDelays, make_command
from streamd.server.workers.plan import PartPlan, decode_plan, encode_plan, read_shared_settings, share_settings
from streamd.server.workers.states import StateReceiver

PLAN = PartPlan(
    role="worker", number=1, workers=2, settings=5, block=6, bells=(7, 8, 9), folder="/x", addresses=(("::1", 80),)
)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short path: that of a socket has at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="sd") as path:
        yield Path(path)


def test_a_plan_passes_as_an_argument() -> None:
    assert decode_plan(encode_plan(PLAN)) == PLAN
    assert PLAN.name == "worker 1"
    assert PLAN.descriptors == (5, 6, 7, 8, 9)
    assert make_command(PLAN)[-2:] == ["--part", encode_plan(PLAN)]


def test_shared_settings_are_the_same_with_infinity_and_secrets() -> None:
    config = Config(
        server=ServerSection(workers=3, admin_token="hidden"),
        state=StateSection(max_servers=7),
        windows=WindowsSection(max_ahead_seconds=math.inf),
    )
    descriptor = share_settings(config)
    assert read_shared_settings(descriptor) == config
    assert "hidden" not in encode_plan(PLAN)
    share_settings(Config(), descriptor)
    assert read_shared_settings(descriptor) == Config()
    os.close(descriptor)


def test_a_process_that_ends_again_and_again_is_started_less_often() -> None:
    delays = RestartDelays()
    first = [delays.choose_delay(was_ready=False) for _ in range(12)]
    assert first == sorted(first)
    assert first[0] < 0.1
    assert first[-1] == LAST_DELAY_SECONDS
    assert delays.choose_delay(was_ready=True) == first[0]


async def test_states_are_received_as_systemd_does(folder: Path) -> None:
    got: list[Mapping[str, str]] = []
    receiver = StateReceiver(str(folder / "one.notify"), got.append)
    notifier = Notifier({"NOTIFY_SOCKET": receiver.path})
    notifier.notify(READY="1", STATUS="serving a=b")
    notifier.notify(WATCHDOG="1")
    async with asyncio.timeout(5):
        while len(got) < 2:
            await asyncio.sleep(0.001)
    assert got == [{"READY": "1", "STATUS": "serving a=b"}, {"WATCHDOG": "1"}]
    receiver.close()


async def test_commands_are_lines_and_their_end_is_the_death_of_the_supervisor() -> None:
    ours, theirs = socket.socketpair()
    got: list[str] = []
    lost = asyncio.Event()
    CommandReader(
        {DRAIN: lambda argument: got.append("drain"), LOST_WORKER: lambda argument: got.append(f"lost {argument}")},
        lost.set,
        ours.fileno(),
    )
    theirs.sendall(b"drain \nlost-wor")
    await asyncio.sleep(0.01)
    theirs.sendall(b"ker 3\nunknown\n")
    theirs.close()
    async with asyncio.timeout(5):
        await lost.wait()
    assert got == ["drain", "lost 3"]
    ours.close()
