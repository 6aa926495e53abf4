"""Tests `streamd/runtime/pauses.py`: time in which the process was stopped counts for no deadline.

The tests move the time by hand.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from streamd.runtime.pauses import TICK_SECONDS, Pauses
from tests.support.backend_chain import BackendChain, find_lane_names, has_lanes
from tests.support.paused_clock import HOUR, PausableClock
from tests.support.pipeline_rig import running
from tests.support.state_files import send, whole


@pytest.fixture
async def pauses() -> AsyncIterator[Pauses]:
    watched = Pauses()
    yield watched
    watched.close()


@pytest.fixture
def clock(pauses: Pauses) -> PausableClock:
    pauses.clock = made = PausableClock(pauses)
    return made


async def test_a_pause_counts_for_what_began_before_it(pauses: Pauses, clock: PausableClock) -> None:
    pauses.watch()
    clock.run(10.0)
    assert (pauses.count_paused_seconds(0.0), pauses.count_running_seconds(4.0)) == (0.0, 6.0)
    clock.pause(HOUR)
    assert pauses.count_paused_seconds(4.0) == HOUR, "the first call after it notices it"
    assert pauses.count_running_seconds(4.0) == 6.0
    now = clock()
    clock.run(2.0)
    assert (pauses.count_paused_seconds(now), pauses.count_running_seconds(now)) == (0.0, 2.0)
    clock.pause(HOUR)
    assert (pauses.count_paused_seconds(4.0), pauses.count_paused_seconds(now)) == (2 * HOUR, HOUR)
    assert pauses.count_running_seconds(4.0) == 8.0


async def test_no_pauses_are_noted_without_a_watch(pauses: Pauses, clock: PausableClock) -> None:
    clock.pause(HOUR)
    assert pauses.count_running_seconds(0.0) == HOUR
    pauses.watch()
    pauses.close()
    clock.pause(HOUR)
    assert pauses.count_running_seconds(0.0) == 2 * HOUR


async def test_a_timeout_leaves_pauses_out_and_no_more(pauses: Pauses, clock: PausableClock) -> None:
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
        checked = asyncio.Event()
        asyncio.get_running_loop().call_later(0.01, checked.set)  # the timer of the block has fired by then
        await checked.wait()
        assert not patient.done()
    clock.run(1.0)
    with pytest.raises(TimeoutError):
        await patient
    # 2. A block that ends in time does not raise.
    done.set()
    await work(0.001)


async def test_a_pause_does_not_count_as_a_hanging_lane(tmp_path: Path, pauses: Pauses, clock: PausableClock) -> None:
    clock.base = time.monotonic
    async with running(tmp_path, opened_later=True) as rig:
        rig.pipeline.pauses = pauses
        chain = BackendChain(rig)
        await chain.supervisor.open()
        warmed = len(rig.inputs)
        rig.script.hold = True
        rig.add_due_row("a", 100)
        await rig.wait_for_runs(warmed + 1)
        pauses.watch()
        clock.pause(HOUR)
        chain.supervisor.check_lanes(clock())
        assert find_lane_names(rig) == ["fake-0", "fake-1"], "the watch itself was late"
        clock.run(59.0)
        chain.supervisor.check_lanes(clock())
        assert find_lane_names(rig) == ["fake-0", "fake-1"]
        clock.run(2.0)
        chain.supervisor.check_lanes(clock())
        assert find_lane_names(rig) == ["fake-1"], "it hung while the process ran"
        rig.backend.release_all()
        await rig.wait_idle()
        assert has_lanes(rig)
        assert rig.published == [("a", 100)]
        chain.supervisor.close()


async def test_an_open_row_waits_after_a_pause_for_samples_that_lie_in_the_sockets(
    tmp_path: Path, pauses: Pauses, clock: PausableClock
) -> None:
    async with running(tmp_path, opened_later=True) as rig:
        rig.pipeline.pauses, rig.pipeline._clock = pauses, clock
        grace = rig.state.windows.grace_seconds
        rig.add_due_row("a", 100)
        first, *rest = whole(3.0).items()
        send(rig.state, "a", 101, dict([first]), now=clock())
        pauses.watch()
        clock.pause(grace + HOUR)
        rig.pipeline.watch_grace()
        assert rig.pipeline.scheduler.counts.due == 1, "it is not closed while its samples are unread"
        rows = send(rig.state, "a", 101, dict(rest), now=clock())
        assert rows == 1
        # 2. Time in which the process runs still counts.
        send(rig.state, "a", 102, dict([first]), now=clock())
        clock.run(grace + 2 * TICK_SECONDS)
        rig.pipeline.watch_grace()
        assert rig.pipeline.scheduler.counts.due == 2
