"""Tests `streamd/runtime/versions/manager.py`.

Versions change while batches run: no forecast is lost, doubled or mixed, and retired versions are released.
"""

import asyncio
import gc
import time
import weakref
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest

from streamd.core.errors import BackendUnavailableError, LaneLostError
from streamd.core.scheduling.lane_health import LaneLimits
from streamd.runtime.lanes.deployment import Deployment
from streamd.runtime.lanes.worker import LaneWorker
from streamd.runtime.versions.manager import DeploymentManager
from tests.support.fake_versions import (
    VERSION_NAMES,
    VersionBackend,
    Versions,
    compute_version_forecast,
    find_lane_threads,
    join_other_lanes,
)
from tests.support.frozen_garbage import frozen_garbage
from tests.support.pipeline_rig import Caller, Rig, running
from tests.support.state_files import window_of

LIMITS = LaneLimits(hang_seconds=60.0, rebuild_seconds=1.0, max_rebuilds=2)
FIRST, SECOND, THIRD = VERSION_NAMES


class ManagerRig:
    """A rig whose lanes are those of versions."""

    def __init__(self, rig: Rig, keep_warm_seconds: float) -> None:
        self.rig = rig
        self.versions = Versions(rig.state.contract, LIMITS)
        self.changes = 0
        self.lost_devices: list[str] = []
        self.manager = DeploymentManager(rig.pipeline, keep_warm_seconds=keep_warm_seconds, listener=self)

    def device_lost(self, reason: str) -> None:
        self.lost_devices.append(reason)

    def serving_changed(self) -> None:
        self.changes += 1

    async def load(self, name: str) -> Deployment:
        return await self.manager.load(self.versions.make_spec(name))

    async def change(self, name: str) -> None:
        self.manager.switch(await self.load(name))

    async def load_held(self, name: str) -> tuple[VersionBackend, int]:
        """Let a version serve whose runs are held; returns its backend, and the number of runs while warming."""
        await self.change(name)
        backend = self.backend
        backend.script.hold = True
        return backend, len(backend.script.runs)

    @property
    def backend(self) -> VersionBackend:
        """The backend of the version that was loaded last."""
        return self.versions.backends[-1]

    async def wait_for_runs(self, backend: VersionBackend, runs: int) -> None:
        """Wait until `runs` runs have begun on a backend."""
        while len(backend.script.runs) < runs:
            await asyncio.sleep(0)

    def check_model(self, server: str) -> str:
        """Return the version of a server's latest forecast, whose values must be that version's."""
        forecast = self.rig.state.board.get_forecast(self.rig.state.directory.slots[server])
        assert forecast is not None
        window = window_of(self.rig.state, server)
        np.testing.assert_array_equal(
            forecast.values, compute_version_forecast(self.rig.state.contract, window, forecast.model)
        )
        return forecast.model

    async def wait_retired(self) -> None:
        for backend in self.versions.backends:
            backend.release_all()
        await self.manager.wait_retired()


@asynccontextmanager
async def running_manager(folder: Path, keep_warm_seconds: float = 3_600.0) -> AsyncIterator[ManagerRig]:
    async with running(folder, opened_later=True) as rig:
        threads = find_lane_threads()
        world = ManagerRig(rig, keep_warm_seconds)
        try:
            yield world
        finally:
            await world.wait_retired()
            world.manager.close()
            workers = [*rig.pipeline.lanes.all_workers, *rig.pipeline.lanes.closing.workers]
            rig.pipeline.stop()
            for worker in workers:
                assert await asyncio.to_thread(worker.join, 60.0)
        assert world.versions.live == []
        assert await join_other_lanes(threads)


async def test_a_running_batch_is_posted_under_the_version_that_made_it(tmp_path: Path) -> None:
    async with running_manager(tmp_path) as world:
        rig = world.rig
        old, warmed = await world.load_held(FIRST)
        rig.add_due_row("a", 100)
        await world.wait_for_runs(old, warmed + 1)
        await world.change(SECOND)
        rig.add_due_row("b", 100)
        await rig.wait_for(lambda: rig.published == [("b", 100)])
        assert world.check_model("b") == SECOND
        old.release_all()
        await rig.wait_idle()
        assert rig.published == [("b", 100), ("a", 100)]
        assert world.check_model("a") == FIRST
        assert rig.is_accounted()


async def test_a_newer_forecast_is_not_overwritten_by_the_former_version(tmp_path: Path) -> None:
    async with running_manager(tmp_path) as world:
        rig = world.rig
        old, warmed = await world.load_held(FIRST)
        rig.add_due_row("a", 100)
        await world.wait_for_runs(old, warmed + 1)
        await world.change(SECOND)
        rig.add_due_row("a", 101)
        await rig.wait_for(lambda: rig.published == [("a", 101)])
        old.release_all()
        await rig.wait_idle()
        assert rig.published == [("a", 101)]
        assert world.check_model("a") == SECOND
        assert (rig.scheduler.counts.delivered, rig.scheduler.superseded) == (1, 1)


async def test_the_batch_of_a_lost_former_version_runs_on_the_one_that_serves(tmp_path: Path) -> None:
    async with running_manager(tmp_path) as world:
        rig = world.rig
        old, warmed = await world.load_held(FIRST)
        caller = Caller(4.0)
        rig.add_due_row("a", 100)
        rig.pipeline.add_request(caller, 1)
        await world.wait_for_runs(old, warmed + 1)
        await world.change(SECOND)
        old.script.errors.extend([LaneLostError("gone")] * 2)  # on one lane together, or on two
        old.release_all()
        await rig.wait_idle()
        assert world.check_model("a") == SECOND
        assert caller.models == {0: SECOND}
        assert caller.failures == {}


async def test_a_load_that_fails_changes_nothing(tmp_path: Path) -> None:
    async with running_manager(tmp_path) as world:
        rig = world.rig
        await world.change(FIRST)
        serving, changes, threads = rig.pipeline.serving, world.changes, find_lane_threads()
        for prepare, reason in (
            (_fail_second_lane, "no memory"),
            (_lose_lanes_while_warming, "while warming"),
        ):
            with pytest.raises(BackendUnavailableError, match=reason):
                await world.manager.load(world.versions.make_spec(SECOND, prepare))
            assert rig.pipeline.serving is serving
            assert world.manager.previous is None
        assert world.changes == changes
        assert world.versions.released == [SECOND, SECOND]
        assert await join_other_lanes(threads)
        assert len(world.versions.live) == 2
        rig.add_due_row("a", 100)
        await rig.wait_idle()
        assert world.check_model("a") == FIRST


def _fail_second_lane(backend: VersionBackend) -> None:
    backend.script.make_errors.extend([None, BackendUnavailableError("no memory")])


def _lose_lanes_while_warming(backend: VersionBackend) -> None:
    backend.script.lost = True


async def test_a_cancelled_load_closes_its_lanes(tmp_path: Path) -> None:
    async with running_manager(tmp_path) as world:
        await world.change(FIRST)
        loading = asyncio.create_task(world.manager.load(world.versions.make_spec(SECOND, _hold_runs)))
        while len(world.versions.backends) < 2 or not world.backend.script.runs:
            await asyncio.sleep(0)
        loading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await loading
        world.backend.release_all()
        for worker in list(world.rig.pipeline.lanes.closing.workers):
            assert await asyncio.to_thread(worker.join, 60.0)
        assert len(world.versions.live) == 2
        assert world.versions.released == [SECOND]


def _hold_runs(backend: VersionBackend) -> None:
    backend.script.hold = True


async def test_a_switch_back_loads_nothing(tmp_path: Path) -> None:
    async with running_manager(tmp_path) as world:
        await world.change(FIRST)
        await world.change(SECOND)
        former = world.manager.previous
        assert former is not None
        made = [len(backend.lanes) for backend in world.versions.backends]
        world.manager.switch(former)
        world.rig.add_due_row("a", 100)
        await world.rig.wait_idle()
        assert world.check_model("a") == FIRST
        assert [len(backend.lanes) for backend in world.versions.backends] == made
        assert world.manager.previous is not None
        assert world.manager.previous.name == SECOND
        assert world.versions.released == []
        # 2. A third version replaces the second: at most two are loaded.
        await world.change(THIRD)
        await world.manager.wait_retired()
        assert world.versions.released == [SECOND]
        assert len(world.versions.live) == 4


async def test_a_version_that_is_not_kept_warm_retires_at_once(tmp_path: Path) -> None:
    async with running_manager(tmp_path, keep_warm_seconds=0.0) as world:
        await world.change(FIRST)
        await world.change(SECOND)
        await world.manager.wait_retired()
        assert world.manager.previous is None
        assert world.versions.released == [FIRST]
        assert [lane.closings for lane in world.versions.backends[0].lanes] == [1, 1]


async def test_a_warm_version_retires_when_its_time_is_over(tmp_path: Path) -> None:
    async with running_manager(tmp_path, keep_warm_seconds=0.001) as world:
        await world.change(FIRST)
        await world.change(SECOND)
        while world.manager.previous is not None:
            await asyncio.sleep(0)
        await world.manager.wait_retired()
        assert world.versions.released == [FIRST]


async def test_a_version_retires_without_waiting_for_a_lane_that_hangs(tmp_path: Path) -> None:
    async with running_manager(tmp_path) as world:
        rig = world.rig
        old, warmed = await world.load_held(FIRST)
        former = world.manager.current
        assert former is not None
        rig.add_due_row("a", 100)
        await world.wait_for_runs(old, warmed + 1)
        await world.change(SECOND)
        supervisor = world.manager.supervisor_of(former)
        retiring = asyncio.create_task(supervisor.retire())
        while not former.is_retiring:
            await asyncio.sleep(0)
        supervisor.check_lanes(time.monotonic() + 61.0)
        await retiring
        await rig.wait_idle()
        assert world.check_model("a") == SECOND, "it ran on the version that serves"
        assert rig.published == [("a", 100)]
        world.manager.previous = None


async def test_the_lanes_of_a_warm_version_are_rebuilt(tmp_path: Path) -> None:
    async with running_manager(tmp_path) as world:
        await world.change(FIRST)
        await world.change(SECOND)
        warm = world.manager.previous
        assert warm is not None
        world.rig.pipeline.remove_lanes({warm.workers[0]: LaneLostError("gone")})
        assert len(warm.workers) == 1
        assert len(world.rig.pipeline.workers) == 2, "the version that serves has all its lanes"
        supervisor = world.manager.supervisor_of(warm)
        supervisor.check_lanes(time.monotonic() + 3_600.0)
        await supervisor.wait_rebuilt()
        assert len(warm.workers) == 2


async def join_workers(ending: list[LaneWorker]) -> None:
    """Wait until the threads of lanes that were closed have ended; the list is emptied, and nothing holds a worker."""
    with ThreadPoolExecutor(1) as pool:  # its end joins its thread, which may still hold what it called last
        while ending:
            assert await asyncio.get_running_loop().run_in_executor(pool, ending.pop().join, 60.0)


async def test_ten_reloads_leak_no_lane_thread_or_object(tmp_path: Path) -> None:
    async with running_manager(tmp_path, keep_warm_seconds=0.0) as world:
        await world.change(FIRST)
        rig, threads = world.rig, len(find_lane_threads())
        references: list[weakref.ref[object]] = []
        for number in range(10):
            former = world.manager.current
            assert former is not None
            references += [weakref.ref(former), weakref.ref(world.manager.supervisor_of(former))]
            ending = list(former.workers)
            references += [weakref.ref(worker) for worker in ending]
            del former
            await world.change(VERSION_NAMES[(number + 1) % 3])
            await world.manager.wait_retired()
            rig.add_due_row("a", 100 + number)
            await rig.wait_idle()
            assert world.check_model("a") == VERSION_NAMES[(number + 1) % 3]
            assert len(world.versions.live) == 2
            await join_workers(ending)
            assert len(find_lane_threads()) == threads
        assert len(world.versions.released) == 10
        assert [lane.closings for backend in world.versions.backends[:-1] for lane in backend.lanes] == [1] * 20
        gc.collect()
        assert [each() for each in references if each() is not None] == []


async def test_a_retired_version_is_freed_although_it_was_frozen(tmp_path: Path) -> None:
    """The daemon freezes its objects once many series are new, and reference counts have to free them then."""
    async with running_manager(tmp_path, keep_warm_seconds=0.0) as world:
        await world.change(FIRST)
        world.rig.add_due_row("a", 100)
        await world.rig.wait_idle()
        former = world.manager.current
        assert former is not None
        ending = list(former.workers)
        owned = [former, world.manager.supervisor_of(former), *former.workers]
        references: list[weakref.ref[object]] = [weakref.ref(each) for each in owned]
        del former, owned
        with frozen_garbage():
            await world.change(SECOND)
            await world.manager.wait_retired()
            world.rig.add_due_row("a", 101)
            await world.rig.wait_idle()
            await join_workers(ending)
            assert [each() for each in references if each() is not None] == []


async def test_a_claimed_warm_version_stays_until_it_serves_or_is_discarded(tmp_path: Path) -> None:
    async with running_manager(tmp_path) as world:
        await world.change(FIRST)
        await world.change(SECOND)
        warm = world.manager.previous
        assert warm is not None
        timer = world.manager._expiry
        assert timer is not None
        assert world.manager.claim(warm)
        assert timer.cancelled()
        world.manager.discard(warm)
        again = world.manager._expiry
        assert again is not None
        assert not again.cancelled(), "its time begins again"
        assert world.manager.previous is warm
        assert world.versions.released == []


async def test_a_warm_version_without_a_lane_cannot_be_claimed(tmp_path: Path) -> None:
    async with running_manager(tmp_path) as world:
        await world.change(FIRST)
        await world.change(SECOND)
        warm = world.manager.previous
        assert warm is not None
        world.rig.pipeline.remove_lanes({worker: LaneLostError("gone") for worker in warm.workers})
        assert not world.manager.claim(warm)
        assert world.manager.current is not None
        assert world.manager.claim(world.manager.current)


@pytest.mark.parametrize("wait", [True, False])
async def test_a_loaded_version_can_be_discarded(tmp_path: Path, wait: bool) -> None:
    async with running_manager(tmp_path) as world:
        await world.change(FIRST)
        loaded = await world.load(SECOND)
        world.manager.discard(loaded)
        if wait:
            await world.manager.wait_retired()
            assert world.versions.released == [SECOND]
            assert len(world.versions.live) == 2
