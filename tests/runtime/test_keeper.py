"""Lanes that are lost or hang: taken out, rebuilt, or replaced by the next backend; time is moved by hand."""

import time
from pathlib import Path

import pytest

from streamd.core.errors import BackendUnavailableError, LaneLostError
from streamd.core.lanes import LaneLimits
from streamd.device.fake import FakeBackend
from streamd.runtime.keeper import LaneKeeper, Opened
from tests.runtime.rigs import Caller, Rig, running

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
        self.keeper = LaneKeeper(rig.pipeline, self.open, max_batch=8, warmup_seconds=0.001, limits=LIMITS)

    def open(self, passed_over: frozenset[str]) -> Opened:
        fallbacks = []
        for name, backend in self.backends.items():
            if name in passed_over:
                continue
            if name in self.unavailable:
                fallbacks.append({"backend": name, "reason": self.unavailable[name]})
                continue
            return Opened(backend, [backend.make_lane(index) for index in range(self.lanes)], fallbacks)
        raise BackendUnavailableError(f"nothing left: {fallbacks}")

    async def later(self, seconds: float = LATER) -> None:
        """Look as if so much time had gone by, and wait for what is mended by it."""
        self.keeper.look(time.monotonic() + seconds)
        await self.keeper.mended()


def ready(rig: Rig) -> bool:
    return rig.pipeline.ready


async def test_a_lost_lane_is_rebuilt(tmp_path: Path) -> None:
    async with running(tmp_path, opened_later=True) as rig:
        chain = Chain(rig)
        await chain.keeper.open()
        rig.script.errors.append(LaneLostError("a sticky error"))
        rig.due("a", 100)
        await rig.settled()
        assert rig.published == [("a", 100)], "its batch ran on the other lane"
        assert len(rig.pipeline.workers) == 1
        await chain.later()
        assert sorted(worker.lane.name for worker in rig.pipeline.workers) == ["fake-0", "fake-1"]
        assert chain.keeper.fallbacks == []
        chain.keeper.close()


async def test_a_lane_that_hangs_is_given_up_and_what_it_says_later_is_not_heard(tmp_path: Path) -> None:
    async with running(tmp_path, opened_later=True) as rig:
        chain = Chain(rig, lanes=1)
        await chain.keeper.open()
        warmed = len(rig.script.runs)
        rig.script.hold = True
        caller = Caller(4.0)
        rig.due("a", 100)
        rig.pipeline.add_request(caller, 1)
        await rig.begun(warmed + 1)
        hung = rig.pipeline.workers[0]
        chain.keeper.look(time.monotonic() + 30.0)
        assert rig.pipeline.workers == [hung], "not yet"
        chain.keeper.look(time.monotonic() + 61.0)
        assert ready(rig) is False, "readiness tells the truth"
        assert rig.pipeline.in_flight == 0
        rig.script.hold = False
        await chain.later()  # rebuilt
        await rig.settled()
        assert rig.pipeline.ready
        assert rig.published == [("a", 100)]
        hung.stop()
        rig.let_go(0)
        assert hung.join(60.0)
        rig.due("a", 101)
        await rig.settled()
        assert rig.published == [("a", 100), ("a", 101)], "the late answer changed nothing"
        assert rig.accounted()
        chain.keeper.close()


async def test_a_spent_backend_gives_way_to_the_next(tmp_path: Path) -> None:
    async with running(tmp_path, opened_later=True) as rig:
        chain = Chain(rig, "second", "third")
        chain.unavailable["second"] = "not installed"
        await chain.keeper.open()
        rig.script.lost = True
        rig.due("a", 100)
        rig.due("b", 100)
        await rig.until(lambda: not rig.pipeline.ready)
        for _ in range(LIMITS.max_rebuilds + 1):
            await chain.later()
        assert rig.pipeline.ready
        await rig.settled()
        assert [each["backend"] for each in chain.keeper.fallbacks] == ["first", "second"]
        assert "the fake device is gone" in chain.keeper.fallbacks[0]["reason"]
        assert chain.keeper.fallbacks[1]["reason"] == "not installed"
        rig.due("a", 101)
        await rig.settled()
        assert rig.published[-1] == ("a", 101)
        assert rig.accounted()
        chain.keeper.close()


async def test_the_last_backend_is_tried_again_and_again(tmp_path: Path) -> None:
    async with running(tmp_path, opened_later=True) as rig:
        chain = Chain(rig)
        await chain.keeper.open()
        rig.script.lost = True
        rig.due("a", 100)
        await rig.until(lambda: len(rig.pipeline.workers) < 2)
        for step in range(101, 103):
            rig.due("a", step)
            await rig.settled()
        for _ in range(10):
            await chain.later()
        assert ready(rig) is False
        assert chain.keeper.fallbacks == [], "nothing took its place"
        rig.script.lost = False
        await chain.later()
        await chain.later()
        assert rig.pipeline.ready
        rig.due("a", 103)
        await rig.settled()
        assert rig.published[-1] == ("a", 103)
        chain.keeper.close()


async def test_a_backend_whose_lanes_fail_while_warming_is_passed_over(tmp_path: Path) -> None:
    async with running(tmp_path, opened_later=True) as rig:
        chain = Chain(rig, "second")
        rig.script.lost = True
        await chain.keeper.open()
        assert [each["backend"] for each in chain.keeper.fallbacks] == ["first"]
        assert "while warming" in chain.keeper.fallbacks[0]["reason"]
        assert rig.pipeline.ready
        chain.keeper.close()


async def test_without_any_backend_opening_fails_with_every_reason(tmp_path: Path) -> None:
    async with running(tmp_path, opened_later=True) as rig:
        chain = Chain(rig)
        chain.unavailable["first"] = "no device"
        with pytest.raises(BackendUnavailableError, match="no device"):
            await chain.keeper.open()


async def test_a_backend_that_failed_while_warming_is_named_when_no_other_is_left(tmp_path: Path) -> None:
    async with running(tmp_path, opened_later=True) as rig:
        chain = Chain(rig)
        rig.script.lost = True
        with pytest.raises(BackendUnavailableError, match=r"first: its lanes failed while warming: .* is gone"):
            await chain.keeper.open()
