"""A process that was stopped for a while judges nobody by that time; time is moved by hand."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from streamd.runtime.pauses import TICK_SECONDS, Pauses
from tests.runtime.lanes.test_supervisor import Chain, lanes_of, ready
from tests.support.pipeline_rig import running
from tests.support.state_files import send, whole

HOUR = 3_600.0


class Clock:
    """Seconds that go by when a test says so; `base` runs under them."""

    def __init__(self, pauses: Pauses) -> None:
        self.base: Callable[[], float] = float
        self.ahead = 0.0
        self._pauses = pauses

    def __call__(self) -> float:
        return self.base() + self.ahead

    def pause(self, seconds: float) -> None:
        """Let time go by in which the process does not run."""
        self.ahead += seconds

    def run(self, seconds: float) -> None:
        """Let time go by in which the loop turns."""
        for _ in range(round(seconds / TICK_SECONDS)):
            self.ahead += TICK_SECONDS
            self._pauses.check()


@pytest.fixture
async def pauses() -> AsyncIterator[Pauses]:
    watched = Pauses()
    yield watched
    watched.close()


@pytest.fixture
def clock(pauses: Pauses) -> Clock:
    pauses.clock = made = Clock(pauses)
    return made


async def test_a_pause_counts_for_what_began_before_it(pauses: Pauses, clock: Clock) -> None:
    pauses.watch()
    clock.run(10.0)
    assert (pauses.count_paused_seconds(0.0), pauses.count_running_seconds(4.0)) == (0.0, 6.0)
    clock.pause(HOUR)
    assert pauses.count_paused_seconds(4.0) == HOUR, "whoever asks first learns of it"
    assert pauses.count_running_seconds(4.0) == 6.0
    now = clock()
    clock.run(2.0)
    assert (pauses.count_paused_seconds(now), pauses.count_running_seconds(now)) == (0.0, 2.0)
    clock.pause(HOUR)
    assert (pauses.count_paused_seconds(4.0), pauses.count_paused_seconds(now)) == (2 * HOUR, HOUR)
    assert pauses.count_running_seconds(4.0) == 8.0


async def test_without_a_watch_there_are_no_pauses(pauses: Pauses, clock: Clock) -> None:
    clock.pause(HOUR)
    assert pauses.count_running_seconds(0.0) == HOUR
    pauses.watch()
    pauses.close()
    clock.pause(HOUR)
    assert pauses.count_running_seconds(0.0) == 2 * HOUR


async def test_a_timeout_leaves_pauses_out_and_no_more(pauses: Pauses, clock: Clock) -> None:
    pauses.watch()
    begun, done = asyncio.Event(), asyncio.Event()

    async def work(seconds: float) -> None:
        async with pauses.timeout(seconds):
            begun.set()
            await done.wait()

    patient = asyncio.create_task(work(0.001))
    await begun.wait()
    for _ in range(3):
        clock.pause(HOUR)
        looked = asyncio.Event()
        asyncio.get_running_loop().call_later(0.01, looked.set)  # its own timer has gone off by then
        await looked.wait()
        assert not patient.done()
    clock.run(1.0)
    with pytest.raises(TimeoutError):
        await patient
    # 2. What is done in time ends without it.
    done.set()
    await work(0.001)


async def test_lanes_are_not_judged_by_a_pause(tmp_path: Path, pauses: Pauses, clock: Clock) -> None:
    clock.base = time.monotonic
    async with running(tmp_path, opened_later=True) as rig:
        rig.pipeline.pauses = pauses
        chain = Chain(rig)
        await chain.supervisor.open()
        warmed = len(rig.inputs)
        rig.script.hold = True
        rig.due("a", 100)
        await rig.begun(warmed + 1)
        pauses.watch()
        clock.pause(HOUR)
        chain.supervisor.check_lanes(clock())
        assert lanes_of(rig) == ["fake-0", "fake-1"], "the watch itself was late"
        clock.run(59.0)
        chain.supervisor.check_lanes(clock())
        assert lanes_of(rig) == ["fake-0", "fake-1"]
        clock.run(2.0)
        chain.supervisor.check_lanes(clock())
        assert lanes_of(rig) == ["fake-1"], "it hangs by time in which it could have answered"
        rig.backend.release_all()
        await rig.settled()
        assert ready(rig)
        assert rig.published == [("a", 100)]
        chain.supervisor.close()


async def test_an_open_row_waits_for_what_lies_in_the_sockets_after_a_pause(
    tmp_path: Path, pauses: Pauses, clock: Clock
) -> None:
    async with running(tmp_path, opened_later=True) as rig:
        rig.pipeline.pauses, rig.pipeline._clock = pauses, clock
        grace = rig.state.windows.grace_seconds
        rig.due("a", 100)
        first, *rest = whole(3.0).items()
        send(rig.state, "a", 101, dict([first]), now=clock())
        pauses.watch()
        clock.pause(grace + HOUR)
        rig.pipeline.watch_grace()
        assert rig.pipeline.scheduler.counts.due == 1, "it is not closed for want of what nobody has read"
        rows = send(rig.state, "a", 101, dict(rest), now=clock())
        assert rows == 1
        # 2. Time in which the process runs counts as ever.
        send(rig.state, "a", 102, dict([first]), now=clock())
        clock.run(grace + 2 * TICK_SECONDS)
        rig.pipeline.watch_grace()
        assert rig.pipeline.scheduler.counts.due == 2
