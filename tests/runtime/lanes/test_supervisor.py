"""Tests `streamd/runtime/lanes/supervisor.py`: lanes that are lost or hang are removed, rebuilt or replaced by the next
backend. The tests move the time by hand.
"""

import asyncio
import threading
import time
from pathlib import Path

import pytest

from streamd.core.errors import BackendUnavailableError, BatchFailedError, DeviceLostError, LaneLostError
from streamd.inference.fake import FakeLane
from tests.support.backend_chain import (
    CHAIN_LIMITS,
    LATER_SECONDS,
    BackendChain,
    find_lane_names,
    has_lanes,
    join_workers,
)
from tests.support.pipeline_rig import Caller, running


async def test_a_lost_lane_is_rebuilt(tmp_path: Path) -> None:
    async with running(tmp_path, opened_later=True) as rig:
        chain = BackendChain(rig)
        await chain.supervisor.open()
        rig.script.errors.append(LaneLostError("a sticky error"))
        rig.add_due_row("a", 100)
        await rig.wait_idle()
        assert rig.published == [("a", 100)], "its batch ran on the other lane"
        assert len(rig.pipeline.workers) == 1
        await chain.check_later()
        assert sorted(worker.lane.name for worker in rig.pipeline.workers) == ["fake-0", "fake-1"]
        assert chain.supervisor.fallbacks == []
        chain.supervisor.close()


async def test_a_lane_that_is_not_rebuilt_is_reported_with_the_reason(tmp_path: Path) -> None:
    async with running(tmp_path, opened_later=True) as rig:
        chain = BackendChain(rig)
        await chain.supervisor.open()
        rig.script.errors.append(LaneLostError("a sticky error"))
        rig.script.make_errors.append(BackendUnavailableError("model.onnx: changed since it was checked"))
        rig.add_due_row("a", 100)
        await rig.wait_idle()
        await chain.check_later()
        assert len(rig.pipeline.workers) == 1, "the other lane still runs"
        assert rig.pipeline.serving.lost[-1].endswith("was not rebuilt: model.onnx: changed since it was checked")
        await chain.check_later()
        assert len(rig.pipeline.workers) == 2, "once the file is back"
        chain.supervisor.close()


async def test_a_lane_that_hangs_is_removed_and_its_late_answer_is_ignored(tmp_path: Path) -> None:
    async with running(tmp_path, opened_later=True) as rig:
        chain = BackendChain(rig, lanes=1)
        await chain.supervisor.open()
        warmed = len(rig.script.runs)
        rig.script.hold = True
        caller = Caller(4.0)
        rig.add_due_row("a", 100)
        rig.pipeline.add_request(caller, 1)
        await rig.wait_for_runs(warmed + 1)
        hung = rig.pipeline.workers[0]
        chain.supervisor.check_lanes(time.monotonic() + 30.0)
        assert rig.pipeline.workers == [hung], "not yet"
        chain.supervisor.check_lanes(time.monotonic() + 61.0)
        assert has_lanes(rig) is False, "readiness follows the lanes"
        assert rig.pipeline.in_flight == 0
        rig.script.hold = False
        await chain.check_later()  # rebuilt
        await rig.wait_idle()
        assert rig.pipeline.is_ready
        assert rig.published == [("a", 100)]
        rig.backend.lanes[0].gate.set()
        assert hung.join(60.0)
        rig.add_due_row("a", 101)
        await rig.wait_idle()
        assert rig.published == [("a", 100), ("a", 101)], "the late answer changed nothing"
        assert rig.is_accounted()
        chain.supervisor.close()


async def test_a_permanently_lost_device_is_not_tried_again_before_the_next_backend(tmp_path: Path) -> None:
    async with running(tmp_path, opened_later=True) as rig:
        chain = BackendChain(rig, "second")
        await chain.supervisor.open()
        workers = list(rig.pipeline.workers)
        rig.script.make_errors.extend([DeviceLostError("cuda:0: lost to this process")] * chain.lanes)
        rig.backend.lose_device()
        rig.add_due_row("a", 100)
        await rig.wait_for(lambda: not rig.pipeline.is_ready)
        await join_workers(workers)
        rig.backend.restore_device()  # the next backend runs elsewhere
        await chain.check_later()
        await chain.check_later()
        assert rig.pipeline.is_ready, "one check to rebuild, one to fall back"
        assert [each.backend for each in chain.supervisor.fallbacks] == ["first"]
        await rig.wait_idle()
        assert rig.published == [("a", 100)]
        assert rig.is_accounted()
        chain.supervisor.close()


async def test_an_exhausted_backend_is_replaced_by_the_next(tmp_path: Path) -> None:
    async with running(tmp_path, opened_later=True) as rig:
        chain = BackendChain(rig, "second", "third")
        chain.unavailable["second"] = "not installed"
        await chain.supervisor.open()
        rig.script.lost = True
        rig.add_due_row("a", 100)
        rig.add_due_row("b", 100)
        await rig.wait_for(lambda: not rig.pipeline.is_ready)
        for _ in range(CHAIN_LIMITS.max_rebuilds + 1):
            await chain.check_later()
        assert rig.pipeline.is_ready
        await rig.wait_idle()
        assert [each.backend for each in chain.supervisor.fallbacks] == ["first", "second"]
        assert "the fake device is gone" in chain.supervisor.fallbacks[0].reason
        assert chain.supervisor.fallbacks[1].reason == "not installed"
        rig.add_due_row("a", 101)
        await rig.wait_idle()
        assert rig.published[-1] == ("a", 101)
        assert rig.is_accounted()
        chain.supervisor.close()


async def test_the_last_backend_is_tried_again_and_again(tmp_path: Path) -> None:
    async with running(tmp_path, opened_later=True) as rig:
        chain = BackendChain(rig)
        await chain.supervisor.open()
        rig.script.lost = True
        rig.add_due_row("a", 100)
        await rig.wait_for(lambda: len(rig.pipeline.workers) < 2)
        for step in range(101, 103):
            rig.add_due_row("a", step)
            await rig.wait_idle()
        for _ in range(10):
            await chain.check_later()
        assert has_lanes(rig) is False
        assert chain.supervisor.fallbacks == [], "no other backend replaced it"
        rig.script.lost = False
        await chain.check_later()
        await chain.check_later()
        assert rig.pipeline.is_ready
        rig.add_due_row("a", 103)
        await rig.wait_idle()
        assert rig.published[-1] == ("a", 103)
        chain.supervisor.close()


async def test_a_backend_whose_lanes_fail_while_warming_is_passed_over(tmp_path: Path) -> None:
    async with running(tmp_path, opened_later=True) as rig:
        chain = BackendChain(rig, "second")
        rig.script.lost = True
        await chain.supervisor.open()
        assert [each.backend for each in chain.supervisor.fallbacks] == ["first"]
        assert "while warming" in chain.supervisor.fallbacks[0].reason
        assert rig.pipeline.is_ready
        chain.supervisor.close()


async def test_opening_fails_with_every_reason_if_no_backend_opens(tmp_path: Path) -> None:
    async with running(tmp_path, opened_later=True) as rig:
        chain = BackendChain(rig)
        chain.unavailable["first"] = "no device"
        with pytest.raises(BackendUnavailableError, match="no device"):
            await chain.supervisor.open()


async def test_a_backend_that_failed_while_warming_is_named_if_no_other_is_left(tmp_path: Path) -> None:
    async with running(tmp_path, opened_later=True) as rig:
        chain = BackendChain(rig)
        rig.script.lost = True
        with pytest.raises(BackendUnavailableError, match=r"first: its lanes failed while warming: .* is gone"):
            await chain.supervisor.open()


# ---------------------------------------------------------------- devices
async def test_a_lost_device_loses_all_its_lanes_and_those_of_another_go_on(tmp_path: Path) -> None:
    async with running(tmp_path, devices=2, opened_later=True) as rig:
        chain = BackendChain(rig, lanes=4)
        await chain.supervisor.open()
        former = rig.pipeline.workers[0::2]
        rig.script.hold = True
        warmed = len(rig.inputs)
        for step in (100, 101, 102):  # lanes 0, 1 and 2 run; 3 is idle
            rig.add_due_row("a", step)
            await rig.wait_for_runs(warmed + step - 99)
        rig.backend.lose_device("fake:0")
        rig.release_lane(2)
        await rig.wait_for(lambda: len(rig.pipeline.workers) < 4)
        assert find_lane_names(rig) == ["fake-1", "fake-3"], "the busy lane is removed at once"
        assert has_lanes(rig)
        assert list(rig.pipeline.serving.lost) == [
            "fake-0: lane fake-2: device fake:0 is gone",
            "fake-2: lane fake-2: device fake:0 is gone",
        ]
        rig.backend.release_all()
        await rig.wait_idle()
        assert rig.published[-1] == ("a", 102), "its batch moved to the other device"
        assert rig.is_accounted()
        await join_workers(former)
        await chain.check_later()
        assert find_lane_names(rig) == ["fake-1", "fake-3"], "the device has not come back yet"
        rig.backend.restore_device("fake:0")
        await chain.check_later()
        assert find_lane_names(rig) == ["fake-0", "fake-1", "fake-2", "fake-3"]
        assert chain.supervisor.fallbacks == []
        assert [lane.closings for lane in rig.backend.lanes] == [1, 0, 1, 0, 0, 0]
        chain.supervisor.close()


async def test_a_device_that_dies_without_traffic_is_noticed(tmp_path: Path) -> None:
    async with running(tmp_path, opened_later=True) as rig:
        chain = BackendChain(rig)
        await chain.supervisor.open()
        runs = len(rig.script.runs)
        chain.supervisor.check_lanes(time.monotonic())
        assert has_lanes(rig)
        rig.backend.lose_device()
        chain.supervisor.check_lanes(time.monotonic())
        assert not has_lanes(rig)
        assert len(rig.pipeline.serving.lost) == 2
        assert len(rig.script.runs) == runs
        chain.supervisor.close()


async def test_a_device_that_former_lanes_still_hold_gets_no_lane(tmp_path: Path) -> None:
    async with running(tmp_path, opened_later=True) as rig:
        chain = BackendChain(rig)
        await chain.supervisor.open()
        warmed = len(rig.inputs)
        stuck, idle = rig.pipeline.workers
        rig.backend.lanes[0].is_hanging = True
        rig.add_due_row("a", 100)
        await rig.wait_for_runs(warmed + 1)
        rig.backend.lose_device()
        chain.supervisor.check_lanes(time.monotonic())
        assert not has_lanes(rig)
        await join_workers([idle])
        rig.backend.restore_device()
        await chain.check_later()
        assert len(rig.backend.lanes) == 2, "the memory that the lanes share is released with the last of them"
        rig.backend.release_all()
        await join_workers([stuck])
        await chain.check_later()
        assert find_lane_names(rig) == ["fake-0", "fake-1"]
        await rig.wait_idle()
        assert rig.published == [("a", 100)]
        chain.supervisor.close()


async def test_the_lanes_of_a_device_are_rebuilt_one_after_another(tmp_path: Path) -> None:
    async with running(tmp_path, opened_later=True) as rig:
        chain = BackendChain(rig, lanes=3)
        await chain.supervisor.open()
        former = list(rig.pipeline.workers)
        rig.backend.lose_device()
        chain.supervisor.check_lanes(time.monotonic())
        await join_workers(former)
        rig.backend.restore_device()
        together, making = list[int](), list[int]()
        make = rig.backend.make_lane

        def make_lane(index: int) -> FakeLane:
            making.append(index)
            together.append(len(making))
            lane = make(index)
            making.remove(index)
            return lane

        rig.backend.make_lane = make_lane  # type: ignore[method-assign]
        await chain.check_later()
        assert together == [1, 1, 1]
        assert find_lane_names(rig) == ["fake-0", "fake-1", "fake-2"]
        chain.supervisor.close()


@pytest.mark.parametrize("error", [LaneLostError("gone"), BatchFailedError("refused"), ValueError("a defect")])
async def test_a_lane_that_fails_while_warming_is_closed_once_and_tried_again(tmp_path: Path, error: Exception) -> None:
    async with running(tmp_path, opened_later=True) as rig:
        chain = BackendChain(rig, lanes=1)
        await chain.supervisor.open()
        first = rig.pipeline.workers[0]
        rig.pipeline.remove_lanes({first: LaneLostError("gone")})
        rig.script.errors.append(error)
        await chain.check_later()
        assert not has_lanes(rig)
        await chain.check_later()
        assert find_lane_names(rig) == ["fake-0"]
        await join_workers([first, *rig.pipeline.lanes.closing.workers])
        assert [lane.closings for lane in rig.backend.lanes] == [1, 1, 0]
        chain.supervisor.close()


async def test_a_device_that_is_lost_while_a_lane_is_rebuilt_loses_its_other_lanes(tmp_path: Path) -> None:
    async with running(tmp_path, devices=2, opened_later=True) as rig:
        chain = BackendChain(rig, lanes=4)
        await chain.supervisor.open()
        rig.pipeline.remove_lanes({rig.pipeline.workers[0]: LaneLostError("its stream hangs")})
        # It dies between the making of the lane and its first run.
        rig.script.on_run = lambda lane, inputs: rig.backend.lose_device("fake:0")
        await chain.check_later()
        assert find_lane_names(rig) == ["fake-1", "fake-3"]
        chain.supervisor.close()


async def test_a_lane_that_is_made_after_the_supervisor_closed_is_closed(tmp_path: Path) -> None:
    async with running(tmp_path, opened_later=True) as rig:
        chain = BackendChain(rig, lanes=1)
        await chain.supervisor.open()
        rig.pipeline.remove_lanes({rig.pipeline.workers[0]: LaneLostError("gone")})
        make, begun, go_on = rig.backend.make_lane, asyncio.Event(), threading.Event()
        loop = asyncio.get_running_loop()
        closed = asyncio.Event()

        class RecordingLane(FakeLane):
            def close(self) -> None:
                super().close()
                closed.set()

        def make_lane(index: int) -> FakeLane:
            loop.call_soon_threadsafe(begun.set)
            go_on.wait()
            lane = make(index)
            lane.__class__ = RecordingLane
            return lane

        rig.backend.make_lane = make_lane  # type: ignore[method-assign]
        chain.supervisor.check_lanes(time.monotonic() + LATER_SECONDS)
        await begun.wait()
        chain.supervisor.close()
        await chain.supervisor.wait_rebuilt()
        go_on.set()
        await closed.wait()
        assert rig.backend.lanes[-1].closings == 1
        assert not has_lanes(rig)


async def test_watching_goes_on_until_it_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamd.runtime.lanes.supervisor.WATCH_SECONDS", 0.0)
    async with running(tmp_path, opened_later=True) as rig:
        chain = BackendChain(rig)
        await chain.supervisor.open()
        checked = asyncio.Semaphore(0)
        check = chain.supervisor.check_lanes

        def check_and_count(now: float) -> None:
            check(now)
            checked.release()

        monkeypatch.setattr(chain.supervisor, "check_lanes", check_and_count)
        chain.supervisor.watch()
        for _ in range(3):
            await checked.acquire()
        chain.supervisor.close()
        await asyncio.to_thread(lambda: None)  # the loop has turned by then
        assert checked.locked()
