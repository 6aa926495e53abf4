"""Lanes that are lost or hang: taken out, rebuilt, or replaced by the next backend; time is moved by hand."""

import asyncio
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from streamd.core.errors import BackendUnavailableError, BatchFailedError, DeviceLostError, LaneLostError
from streamd.core.scheduling.lane_health import LaneLimits
from streamd.inference.fake import FakeBackend, FakeLane
from streamd.inference.opening import OpenedBackend, SkippedBackend, join_reasons
from streamd.runtime.lanes.deployment import Deployment
from streamd.runtime.lanes.supervisor import LaneSupervisor
from streamd.runtime.lanes.worker import LaneWorker
from tests.support.pipeline_rig import SERVER_IDS, Caller, Rig, running, spec_of

LIMITS = LaneLimits(hang_seconds=60.0, rebuild_seconds=1.0, max_rebuilds=2)
LATER = 3_600.0


class Chain:
    """A chain of fake backends; the rig's is the first."""

    def __init__(self, rig: Rig, *more: str, lanes: int = 2) -> None:
        self.backends = {"first": rig.backend, **{name: FakeBackend(rig.state.contract, (1, 8)) for name in more}}
        for name, backend in self.backends.items():
            backend.name = name
        self.lanes = lanes
        self.unavailable: dict[str, str] = {}
        self.changes: list[Deployment] = []
        deployment = Deployment(spec_of("model_20260101_000000", self.open, server_ids=SERVER_IDS, limits=LIMITS))
        rig.pipeline.switch(deployment)
        self.supervisor = LaneSupervisor(rig.pipeline, deployment, self)

    def backend_changed(self, deployment: Deployment) -> None:
        self.changes.append(deployment)

    def open(self, exhausted: frozenset[str]) -> OpenedBackend:
        passed_over: list[SkippedBackend] = []
        for name, backend in self.backends.items():
            if name in exhausted:
                continue
            if name in self.unavailable:
                passed_over.append(SkippedBackend(name, self.unavailable[name]))
                continue
            return OpenedBackend(backend, [backend.make_lane(index) for index in range(self.lanes)], tuple(passed_over))
        raise BackendUnavailableError(f"nothing left: {join_reasons(passed_over)}")

    async def later(self, seconds: float = LATER) -> None:
        """Look as if so much time had gone by, and wait for what is mended by it."""
        self.supervisor.check_lanes(time.monotonic() + seconds)
        await self.supervisor.wait_rebuilt()


def ready(rig: Rig) -> bool:
    return rig.pipeline.ready


def lanes_of(rig: Rig) -> list[str]:
    return sorted(worker.lane.name for worker in rig.pipeline.workers)


async def ended(workers: Sequence[LaneWorker]) -> None:
    for worker in workers:
        assert await asyncio.to_thread(worker.join, 60.0)


async def test_a_lost_lane_is_rebuilt(tmp_path: Path) -> None:
    async with running(tmp_path, opened_later=True) as rig:
        chain = Chain(rig)
        await chain.supervisor.open()
        rig.script.errors.append(LaneLostError("a sticky error"))
        rig.due("a", 100)
        await rig.settled()
        assert rig.published == [("a", 100)], "its batch ran on the other lane"
        assert len(rig.pipeline.workers) == 1
        await chain.later()
        assert sorted(worker.lane.name for worker in rig.pipeline.workers) == ["fake-0", "fake-1"]
        assert chain.supervisor.fallbacks == []
        chain.supervisor.close()


async def test_a_lane_that_is_not_rebuilt_is_told_with_the_reason(tmp_path: Path) -> None:
    async with running(tmp_path, opened_later=True) as rig:
        chain = Chain(rig)
        await chain.supervisor.open()
        rig.script.errors.append(LaneLostError("a sticky error"))
        rig.script.make_errors.append(BackendUnavailableError("model.onnx: changed since it was checked"))
        rig.due("a", 100)
        await rig.settled()
        await chain.later()
        assert len(rig.pipeline.workers) == 1, "the other lane goes on"
        assert rig.pipeline.serving.lost[-1].endswith("was not rebuilt: model.onnx: changed since it was checked")
        await chain.later()
        assert len(rig.pipeline.workers) == 2, "once the file is back"
        chain.supervisor.close()


async def test_a_lane_that_hangs_is_given_up_and_what_it_says_later_is_not_heard(tmp_path: Path) -> None:
    async with running(tmp_path, opened_later=True) as rig:
        chain = Chain(rig, lanes=1)
        await chain.supervisor.open()
        warmed = len(rig.script.runs)
        rig.script.hold = True
        caller = Caller(4.0)
        rig.due("a", 100)
        rig.pipeline.add_request(caller, 1)
        await rig.begun(warmed + 1)
        hung = rig.pipeline.workers[0]
        chain.supervisor.check_lanes(time.monotonic() + 30.0)
        assert rig.pipeline.workers == [hung], "not yet"
        chain.supervisor.check_lanes(time.monotonic() + 61.0)
        assert ready(rig) is False, "readiness tells the truth"
        assert rig.pipeline.in_flight == 0
        rig.script.hold = False
        await chain.later()  # rebuilt
        await rig.settled()
        assert rig.pipeline.ready
        assert rig.published == [("a", 100)]
        rig.backend.lanes[0].gate.set()
        assert hung.join(60.0)
        rig.due("a", 101)
        await rig.settled()
        assert rig.published == [("a", 100), ("a", 101)], "the late answer changed nothing"
        assert rig.accounted()
        chain.supervisor.close()


async def test_a_device_that_is_lost_for_good_is_not_tried_again_before_the_next_backend(tmp_path: Path) -> None:
    async with running(tmp_path, opened_later=True) as rig:
        chain = Chain(rig, "second")
        await chain.supervisor.open()
        workers = list(rig.pipeline.workers)
        rig.script.make_errors.extend([DeviceLostError("cuda:0: lost to this process")] * chain.lanes)
        rig.backend.lose_device()
        rig.due("a", 100)
        await rig.until(lambda: not rig.pipeline.ready)
        await ended(workers)
        rig.backend.restore_device()  # the next backend runs elsewhere
        await chain.later()
        await chain.later()
        assert rig.pipeline.ready, "one look to rebuild, one to fall back"
        assert [each.backend for each in chain.supervisor.fallbacks] == ["first"]
        await rig.settled()
        assert rig.published == [("a", 100)]
        assert rig.accounted()
        chain.supervisor.close()


async def test_a_spent_backend_gives_way_to_the_next(tmp_path: Path) -> None:
    async with running(tmp_path, opened_later=True) as rig:
        chain = Chain(rig, "second", "third")
        chain.unavailable["second"] = "not installed"
        await chain.supervisor.open()
        rig.script.lost = True
        rig.due("a", 100)
        rig.due("b", 100)
        await rig.until(lambda: not rig.pipeline.ready)
        for _ in range(LIMITS.max_rebuilds + 1):
            await chain.later()
        assert rig.pipeline.ready
        await rig.settled()
        assert [each.backend for each in chain.supervisor.fallbacks] == ["first", "second"]
        assert "the fake device is gone" in chain.supervisor.fallbacks[0].reason
        assert chain.supervisor.fallbacks[1].reason == "not installed"
        rig.due("a", 101)
        await rig.settled()
        assert rig.published[-1] == ("a", 101)
        assert rig.accounted()
        chain.supervisor.close()


async def test_the_last_backend_is_tried_again_and_again(tmp_path: Path) -> None:
    async with running(tmp_path, opened_later=True) as rig:
        chain = Chain(rig)
        await chain.supervisor.open()
        rig.script.lost = True
        rig.due("a", 100)
        await rig.until(lambda: len(rig.pipeline.workers) < 2)
        for step in range(101, 103):
            rig.due("a", step)
            await rig.settled()
        for _ in range(10):
            await chain.later()
        assert ready(rig) is False
        assert chain.supervisor.fallbacks == [], "nothing took its place"
        rig.script.lost = False
        await chain.later()
        await chain.later()
        assert rig.pipeline.ready
        rig.due("a", 103)
        await rig.settled()
        assert rig.published[-1] == ("a", 103)
        chain.supervisor.close()


async def test_a_backend_whose_lanes_fail_while_warming_is_passed_over(tmp_path: Path) -> None:
    async with running(tmp_path, opened_later=True) as rig:
        chain = Chain(rig, "second")
        rig.script.lost = True
        await chain.supervisor.open()
        assert [each.backend for each in chain.supervisor.fallbacks] == ["first"]
        assert "while warming" in chain.supervisor.fallbacks[0].reason
        assert rig.pipeline.ready
        chain.supervisor.close()


async def test_without_any_backend_opening_fails_with_every_reason(tmp_path: Path) -> None:
    async with running(tmp_path, opened_later=True) as rig:
        chain = Chain(rig)
        chain.unavailable["first"] = "no device"
        with pytest.raises(BackendUnavailableError, match="no device"):
            await chain.supervisor.open()


async def test_a_backend_that_failed_while_warming_is_named_when_no_other_is_left(tmp_path: Path) -> None:
    async with running(tmp_path, opened_later=True) as rig:
        chain = Chain(rig)
        rig.script.lost = True
        with pytest.raises(BackendUnavailableError, match=r"first: its lanes failed while warming: .* is gone"):
            await chain.supervisor.open()


# ---------------------------------------------------------------- devices
async def test_a_device_takes_all_its_lanes_with_it_and_another_s_go_on(tmp_path: Path) -> None:
    async with running(tmp_path, devices=2, opened_later=True) as rig:
        chain = Chain(rig, lanes=4)
        await chain.supervisor.open()
        former = rig.pipeline.workers[0::2]
        rig.script.hold = True
        warmed = len(rig.inputs)
        for step in (100, 101, 102):  # lanes 0, 1 and 2 run; 3 is idle
            rig.due("a", step)
            await rig.begun(warmed + step - 99)
        rig.backend.lose_device("fake:0")
        rig.let_go(2)
        await rig.until(lambda: len(rig.pipeline.workers) < 4)
        assert lanes_of(rig) == ["fake-1", "fake-3"], "the one that was busy is not waited for"
        assert ready(rig)
        assert list(rig.pipeline.serving.lost) == [
            "fake-0: lane fake-2: device fake:0 is gone",
            "fake-2: lane fake-2: device fake:0 is gone",
        ]
        rig.backend.release_all()
        await rig.settled()
        assert rig.published[-1] == ("a", 102), "its batch moved to the other device"
        assert rig.accounted()
        await ended(former)
        await chain.later()
        assert lanes_of(rig) == ["fake-1", "fake-3"], "it is not back yet"
        rig.backend.restore_device("fake:0")
        await chain.later()
        assert lanes_of(rig) == ["fake-0", "fake-1", "fake-2", "fake-3"]
        assert chain.supervisor.fallbacks == []
        assert [lane.closings for lane in rig.backend.lanes] == [1, 0, 1, 0, 0, 0]
        chain.supervisor.close()


async def test_a_device_that_dies_without_traffic_is_noticed(tmp_path: Path) -> None:
    async with running(tmp_path, opened_later=True) as rig:
        chain = Chain(rig)
        await chain.supervisor.open()
        runs = len(rig.script.runs)
        chain.supervisor.check_lanes(time.monotonic())
        assert ready(rig)
        rig.backend.lose_device()
        chain.supervisor.check_lanes(time.monotonic())
        assert not ready(rig)
        assert len(rig.pipeline.serving.lost) == 2
        assert len(rig.script.runs) == runs
        chain.supervisor.close()


async def test_a_device_that_lanes_did_not_let_go_of_gets_none(tmp_path: Path) -> None:
    async with running(tmp_path, opened_later=True) as rig:
        chain = Chain(rig)
        await chain.supervisor.open()
        warmed = len(rig.inputs)
        stuck, idle = rig.pipeline.workers
        rig.backend.lanes[0].hangs = True
        rig.due("a", 100)
        await rig.begun(warmed + 1)
        rig.backend.lose_device()
        chain.supervisor.check_lanes(time.monotonic())
        assert not ready(rig)
        await ended([idle])
        rig.backend.restore_device()
        await chain.later()
        assert len(rig.backend.lanes) == 2, "what the lanes share is not released before the last of them is"
        rig.backend.release_all()
        await ended([stuck])
        await chain.later()
        assert lanes_of(rig) == ["fake-0", "fake-1"]
        await rig.settled()
        assert rig.published == [("a", 100)]
        chain.supervisor.close()


async def test_a_device_s_lanes_are_rebuilt_one_after_another(tmp_path: Path) -> None:
    async with running(tmp_path, opened_later=True) as rig:
        chain = Chain(rig, lanes=3)
        await chain.supervisor.open()
        former = list(rig.pipeline.workers)
        rig.backend.lose_device()
        chain.supervisor.check_lanes(time.monotonic())
        await ended(former)
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
        await chain.later()
        assert together == [1, 1, 1]
        assert lanes_of(rig) == ["fake-0", "fake-1", "fake-2"]
        chain.supervisor.close()


@pytest.mark.parametrize("error", [LaneLostError("gone"), BatchFailedError("refused"), ValueError("a defect")])
async def test_a_lane_that_fails_while_warming_is_closed_once_and_tried_again(tmp_path: Path, error: Exception) -> None:
    async with running(tmp_path, opened_later=True) as rig:
        chain = Chain(rig, lanes=1)
        await chain.supervisor.open()
        first = rig.pipeline.workers[0]
        rig.pipeline.remove_lanes({first: LaneLostError("gone")})
        rig.script.errors.append(error)
        await chain.later()
        assert not ready(rig)
        await chain.later()
        assert lanes_of(rig) == ["fake-0"]
        await ended([first, *rig.pipeline.lanes.closing.workers])
        assert [lane.closings for lane in rig.backend.lanes] == [1, 1, 0]
        chain.supervisor.close()


async def test_a_device_that_turns_out_gone_while_a_lane_is_rebuilt_loses_the_others_too(tmp_path: Path) -> None:
    async with running(tmp_path, devices=2, opened_later=True) as rig:
        chain = Chain(rig, lanes=4)
        await chain.supervisor.open()
        rig.pipeline.remove_lanes({rig.pipeline.workers[0]: LaneLostError("its stream hangs")})
        # It dies between the making of the lane and its first run.
        rig.script.on_run = lambda lane, inputs: rig.backend.lose_device("fake:0")
        await chain.later()
        assert lanes_of(rig) == ["fake-1", "fake-3"]
        chain.supervisor.close()


async def test_what_is_made_when_nobody_waits_any_more_is_closed(tmp_path: Path) -> None:
    async with running(tmp_path, opened_later=True) as rig:
        chain = Chain(rig, lanes=1)
        await chain.supervisor.open()
        rig.pipeline.remove_lanes({rig.pipeline.workers[0]: LaneLostError("gone")})
        make, begun, go_on = rig.backend.make_lane, asyncio.Event(), threading.Event()
        loop = asyncio.get_running_loop()
        closed = asyncio.Event()

        class Noted(FakeLane):
            def close(self) -> None:
                super().close()
                closed.set()

        def make_lane(index: int) -> FakeLane:
            loop.call_soon_threadsafe(begun.set)
            go_on.wait()
            lane = make(index)
            lane.__class__ = Noted
            return lane

        rig.backend.make_lane = make_lane  # type: ignore[method-assign]
        chain.supervisor.check_lanes(time.monotonic() + LATER)
        await begun.wait()
        chain.supervisor.close()
        await chain.supervisor.wait_rebuilt()
        go_on.set()
        await closed.wait()
        assert rig.backend.lanes[-1].closings == 1
        assert not ready(rig)


async def test_watching_goes_on_until_it_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamd.runtime.lanes.supervisor.WATCH_SECONDS", 0.0)
    async with running(tmp_path, opened_later=True) as rig:
        chain = Chain(rig)
        await chain.supervisor.open()
        looked = asyncio.Semaphore(0)
        look = chain.supervisor.check_lanes

        def noted(now: float) -> None:
            look(now)
            looked.release()

        monkeypatch.setattr(chain.supervisor, "check_lanes", noted)
        chain.supervisor.watch()
        for _ in range(3):
            await looked.acquire()
        chain.supervisor.close()
        await asyncio.to_thread(lambda: None)  # the loop has had its turns by then
        assert looked.locked()
