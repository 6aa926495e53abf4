"""Tests `streamd/runtime/lanes/progress.py`: what the lanes of a real pipeline do counts as progress, or as stuck."""

import time
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from streamd.core.errors import LaneLostError
from streamd.core.scheduling.costs import CostTable
from streamd.core.scheduling.lane_health import LaneLimits
from streamd.runtime.lanes.deployment import Deployment
from streamd.runtime.lanes.progress import ProgressWatch, compute_progress_limits
from tests.support.backend_chain import BackendChain
from tests.support.pipeline_rig import Rig, make_fake_spec, running


class WatchedRig:
    """The watch of a rig's pipeline, with a clock that a test moves by hand."""

    def __init__(self, rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(rig.pipeline.pauses, "clock", lambda: self.now)
        self.watch = ProgressWatch(rig.state, rig.pipeline)

    def observe_after(self, seconds: float) -> str:
        """Observe the lanes after so many seconds; returns why they are stuck."""
        self.now += seconds
        self.watch.observe()
        return self.watch.stall


async def test_a_batch_that_does_not_end_is_a_stall_until_it_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as rig:
        watched = WatchedRig(rig, monkeypatch)
        rig.script.hold = True
        rig.add_due_row("a", 100)
        await rig.wait_for_runs(1)
        with capture_logs() as log:
            assert watched.observe_after(0.0) == ""
            assert watched.observe_after(60.0) == ""
            assert watched.observe_after(1.0).startswith("1 windows wait or run, and none of 1 lanes")
            assert watched.observe_after(1.0)
            rig.backend.release_all()
            await rig.wait_idle()
            assert watched.observe_after(1.0) == ""
        assert [line["event"] for line in log if line["event"].startswith("work_")] == ["work_stuck", "work_moves"]
        assert watched.observe_after(10_000.0) == "", "idle lanes are not stuck"


async def test_work_that_no_lane_takes_is_a_stall(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(tmp_path) as rig:
        watched = WatchedRig(rig, monkeypatch)
        monkeypatch.setattr(rig.pipeline, "schedule_dispatch", lambda: None)  # a dispatch that is never called again
        rig.add_due_row("a", 100)
        assert watched.observe_after(0.0) == ""
        assert watched.observe_after(61.0)


async def test_batches_that_fail_are_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(tmp_path) as rig:
        watched = WatchedRig(rig, monkeypatch)
        watched.observe_after(0.0)
        before = rig.pipeline.steps
        rig.script.errors.append(LaneLostError("a sticky error"))
        rig.add_due_row("a", 100)
        await rig.wait_for(lambda: not rig.pipeline.workers)
        assert rig.pipeline.steps > before
        assert watched.observe_after(61.0) == ""


async def test_hanging_lanes_that_are_not_replaced_are_a_stall(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(tmp_path, opened_later=True) as rig:
        chain = BackendChain(rig, lanes=1)
        await chain.supervisor.open()
        warmed = len(rig.script.runs)
        watched = WatchedRig(rig, monkeypatch)
        rig.script.hold = True
        rig.add_due_row("a", 100)
        await rig.wait_for_runs(warmed + 1)
        chain.supervisor.check_lanes(time.monotonic() + 61.0)
        assert rig.pipeline.workers == []
        replace_seconds = compute_progress_limits(rig.pipeline.serving).replace_seconds
        assert watched.observe_after(0.0) == ""
        assert watched.observe_after(replace_seconds) == ""
        assert "1 hanging lanes were not replaced" in watched.observe_after(1.0)
        chain.supervisor.close()


async def test_a_full_disk_that_holds_the_dispatch_back_is_no_stall(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as rig:
        watched = WatchedRig(rig, monkeypatch)
        rig.script.hold = True
        rig.add_due_row("a", 100)
        await rig.wait_for_runs(1)
        watched.observe_after(0.0)
        monkeypatch.setattr(rig.state, "find_shortage", lambda: OSError("full"))
        assert watched.observe_after(1_000.0) == ""


async def test_the_limits_are_longer_than_the_supervision_of_slow_lanes() -> None:
    deployment = Deployment(make_fake_spec("slow", limits=LaneLimits(hang_seconds=30.0, hang_factor=20.0)))
    assert compute_progress_limits(deployment).batch_seconds == 60.0
    deployment.costs = CostTable({1: 1.0, 8: 4.0}, pads=False)
    assert compute_progress_limits(deployment).batch_seconds == 2 * 20.0 * 4.0
