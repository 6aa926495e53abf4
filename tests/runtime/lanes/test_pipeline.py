"""Tests `streamd/runtime/lanes/pipeline.py`.

Due servers become posted forecasts, over fake lanes on a real loop; nothing here sleeps.
"""

import time
from pathlib import Path

import numpy as np
import pytest

from streamd.core.calendar import compute_known_future
from streamd.core.errors import BatchFailedError, LaneLostError, NotFiniteError, StorageError
from tests.support.pipeline_rig import Caller, running
from tests.support.state_files import send, whole, window_of

POISON = 666.0


async def test_the_forecast_of_a_due_server_is_posted_and_published(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        before = time.monotonic()
        slot = rig.add_due_row("web-01", 100)
        await rig.wait_idle()
        forecast = rig.state.board.get_forecast(slot)
        assert forecast is not None
        assert (forecast.step, forecast.context, forecast.model) == (100, 2, "model_20260101_000000")
        np.testing.assert_array_equal(forecast.values, rig.compute_forecast("web-01"))
        assert rig.published == [("web-01", 100)]
        assert before <= rig.board_sink.received[slot] <= time.monotonic()
        assert rig.is_accounted()
        assert rig.scheduler.counts.delivered == 1


async def test_a_lane_gets_the_inputs_of_the_contract(tmp_path: Path) -> None:
    async with running(tmp_path, opened_later=True) as rig:
        send(rig.state, "web-01", 99, {"cpu": 1.0}, status=2)
        rig.add_due_row("web-02", 200)
        send(rig.state, "web-01", 100, whole(5.0), status=9)
        rig.pipeline.mark_due(rig.state.directory.slots["web-01"], 1)
        rig.open_lanes()
        await rig.wait_idle()
        (inputs,) = rig.inputs
        for row, (server, step, server_id, statuses) in enumerate(
            [("web-01", 100, 7, [0] * 6 + [2, 9]), ("web-02", 200, 0, [0] * 8)]  # in the order of their steps
        ):
            np.testing.assert_array_equal(inputs["encoder_cont"][row], window_of(rig.state, server))
            assert inputs["encoder_cat"][row].tolist() == [[server_id, status] for status in statuses]
            np.testing.assert_array_equal(inputs["decoder_cont"][row], compute_known_future(step, 4, 300))
            assert inputs["decoder_cat"][row].tolist() == [[server_id, statuses[-1]]] * 4


async def test_micro_batches_form_while_lanes_are_busy(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        rig.script.hold = True
        rig.add_due_row("a", 100)
        await rig.wait_for_runs(1)
        for server in ("b", "c", "d"):
            rig.add_due_row(server, 100)
        assert rig.pipeline.in_flight == 1
        rig.release_lane(0)
        await rig.wait_for_runs(2)
        assert rig.pipeline.in_flight == 3
        rig.release_lane(0)
        await rig.wait_idle()
        assert rig.batches == [1, 3]
        assert rig.published == [(server, 100) for server in "abcd"]
        assert rig.pipeline.in_flight == 0


async def test_servers_that_become_due_in_one_turn_of_the_loop_run_together(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        for server in ("a", "b", "c"):
            rig.add_due_row(server, 100)
        await rig.wait_idle()
        assert rig.batches == [3]


async def test_the_newest_row_wins_while_a_lane_is_busy(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        rig.script.hold = True
        rig.add_due_row("a", 100)
        await rig.wait_for_runs(1)
        for step in (101, 102, 103):
            rig.add_due_row("a", step)
        rig.release_lane(0)
        await rig.wait_for_runs(2)
        rig.release_lane(0)
        await rig.wait_idle()
        assert rig.published == [("a", 100), ("a", 103)]
        assert rig.scheduler.superseded == 2
        assert rig.is_accounted()


async def test_an_older_row_whose_batch_ends_last_is_not_published(tmp_path: Path) -> None:
    async with running(tmp_path, lanes=2) as rig:
        rig.script.hold = True
        slot = rig.add_due_row("a", 100)
        await rig.wait_for_runs(1)
        rig.add_due_row("a", 101)
        await rig.wait_for_runs(2)
        rig.release_lane(1)
        await rig.wait_for(lambda: len(rig.batches) == 1)
        rig.release_lane(0)
        await rig.wait_idle()
        assert rig.published == [("a", 101)]
        assert rig.state.board.get_step(slot) == 101
        assert rig.scheduler.superseded == 1


async def test_idle_lanes_take_turns(tmp_path: Path) -> None:
    async with running(tmp_path, lanes=3) as rig:
        for step in range(100, 107):
            rig.add_due_row("a", step)
            await rig.wait_idle()
        assert [lane for lane, _ in rig.script.runs] == [f"fake-{turn % 3}" for turn in range(7)]


async def test_a_busy_lane_is_passed_over(tmp_path: Path) -> None:
    async with running(tmp_path, lanes=2) as rig:
        rig.script.hold = True
        rig.add_due_row("slow", 100)
        await rig.wait_for_runs(1)
        for step in range(100, 103):
            rig.add_due_row("a", step)
            await rig.wait_for_runs(len(rig.inputs) + 1)
            rig.release_lane(1)
            await rig.wait_for(lambda step=step: ("a", step) in rig.published)  # type: ignore[misc]
        assert [lane for lane, _ in rig.script.runs] == ["fake-0", "fake-1", "fake-1", "fake-1"]
        rig.release_lane(0)
        await rig.wait_idle()


async def test_work_is_held_back_while_more_rows_are_certain(tmp_path: Path) -> None:
    async with running(tmp_path, opened_later=True) as rig:
        rig.expects_rows = True
        rig.open_lanes()
        rig.add_due_row("a", 100)
        await rig.pipeline._loop.run_in_executor(None, lambda: None)  # the loop has turned by then
        assert rig.script.runs == []
        rig.expects_rows = False
        rig.add_due_row("b", 100)
        await rig.wait_idle()
        assert rig.batches == [2]


# ---------------------------------------------------------------- failures
async def test_a_forecast_that_is_not_finite_fails_alone(tmp_path: Path) -> None:
    async with running(tmp_path, opened_later=True) as rig:
        rig.script.not_finite = lambda window: bool(window[-1, 0] == POISON)
        caller = Caller(1.0, POISON, 3.0)
        for server, value in (("a", 1.0), ("bad", POISON), ("c", 3.0)):
            rig.add_due_row(server, 100, value)
        rig.pipeline.add_request(caller, 3)
        rig.open_lanes()
        await rig.wait_idle()
        assert rig.batches == [6]
        assert rig.published == [("a", 100), ("c", 100)]
        assert caller.last_values() == {0: 1.0, 2: 3.0}
        assert isinstance(caller.failures[1], NotFiniteError)
        assert rig.scheduler.counts.failed == 1
        assert rig.is_accounted()
        rig.add_due_row("bad", 101, 5.0)
        await rig.wait_idle()
        assert rig.published[-1] == ("bad", 101), "its next row is forecast"


async def test_a_window_that_makes_its_batch_fail_fails_alone(tmp_path: Path) -> None:
    async with running(tmp_path, opened_later=True) as rig:
        rig.script.poison = lambda window: bool(window[-1, 0] == POISON)
        caller = Caller(1.0, POISON, 3.0)
        for server, value in (("a", 1.0), ("bad", POISON), ("c", 3.0)):
            rig.add_due_row(server, 100, value)
        rig.pipeline.add_request(caller, 3)
        rig.open_lanes()
        await rig.wait_idle()
        assert sorted(rig.published) == [("a", 100), ("c", 100)]
        assert caller.last_values() == {0: 1.0, 2: 3.0}
        assert isinstance(caller.failures[1], BatchFailedError)
        assert rig.scheduler.counts.failed == 1
        assert rig.is_accounted()


@pytest.mark.parametrize("error", [BatchFailedError("refused"), RuntimeError("a defect")])
async def test_a_temporary_failure_loses_no_forecast(tmp_path: Path, error: Exception) -> None:
    async with running(tmp_path, opened_later=True) as rig:
        rig.script.errors.append(error)
        for server in ("a", "b", "c"):
            rig.add_due_row(server, 100)
        rig.open_lanes()
        await rig.wait_idle()
        assert sorted(rig.published) == [("a", 100), ("b", 100), ("c", 100)]
        assert rig.batches == [3, 1, 2]


async def test_the_batch_of_a_lost_lane_moves_to_another(tmp_path: Path) -> None:
    async with running(tmp_path, lanes=2) as rig:
        rig.script.errors.append(LaneLostError("gone"))
        caller = Caller(4.0)
        rig.add_due_row("a", 100)
        rig.pipeline.add_request(caller, 1)
        await rig.wait_idle()
        assert rig.published == [("a", 100)]
        assert caller.last_values() == {0: 4.0}
        assert [lane for lane, _ in rig.script.runs] == ["fake-0", "fake-1"]
        assert rig.pipeline.is_ready
        assert list(rig.pipeline.serving.lost) == ["fake-0: gone"]
        rig.add_due_row("a", 101)
        await rig.wait_idle()
        assert rig.script.runs[-1][0] == "fake-1", "a lost lane gets no batch"


async def test_a_batch_that_loses_two_lanes_fails_and_gets_no_third(tmp_path: Path) -> None:
    async with running(tmp_path, lanes=3) as rig:
        rig.script.errors.extend([LaneLostError("gone"), LaneLostError("gone too")])
        caller = Caller(4.0)
        rig.add_due_row("a", 100)
        rig.pipeline.add_request(caller, 1)
        await rig.wait_idle()
        assert rig.published == []
        assert isinstance(caller.failures[0], LaneLostError)
        assert rig.pipeline.is_ready
        assert rig.is_accounted()


async def test_without_a_lane_it_is_idle_and_not_ready(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        rig.script.lost = True
        rig.add_due_row("a", 100)
        await rig.wait_idle()
        assert not rig.pipeline.is_ready
        assert rig.scheduler.waiting == 1


# ---------------------------------------------------------------- forgotten servers
async def test_a_server_that_is_forgotten_in_flight_gets_no_forecast(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        rig.script.hold = True
        slot = rig.add_due_row("a", 100)
        rig.add_due_row("b", 100)
        await rig.wait_for_runs(1)
        rig.forget("a")
        rig.add_due_row("new", 300)
        assert rig.state.directory.slots["new"] == slot
        rig.release_lane(0)
        await rig.wait_for_runs(2)
        rig.release_lane(0)
        await rig.wait_idle()
        assert rig.published == [("b", 100), ("new", 300)]
        assert rig.scheduler.counts.forgotten == 1
        assert rig.is_accounted()


async def test_a_server_that_is_forgotten_while_it_waits_does_not_run(tmp_path: Path) -> None:
    async with running(tmp_path, opened_later=True) as rig:
        rig.add_due_row("a", 100)
        rig.add_due_row("b", 100)
        rig.forget("a")
        rig.open_lanes()
        await rig.wait_idle()
        assert rig.published == [("b", 100)]
        assert rig.is_accounted()


async def test_rows_whose_grace_period_is_over_are_forecast(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        rig.add_due_row("a", 100)
        await rig.wait_idle()
        send(rig.state, "a", 101, {"cpu": 5.0}, now=time.monotonic() - 3_600.0)
        send(rig.state, "fresh", 101, {"cpu": 5.0}, now=time.monotonic())
        rig.pipeline.watch_grace()
        await rig.wait_idle()
        assert rig.published == [("a", 100), ("a", 101)]
        assert rig.state.windows.get_next_deadline() is not None, "a new open row stays open"
        assert rig.is_accounted()


async def test_it_is_idle_without_work(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        await rig.wait_idle()
        assert rig.script.runs == []


async def test_calls_that_do_not_fit_into_the_queue_are_refused(tmp_path: Path) -> None:
    async with running(tmp_path, opened_later=True) as rig:
        assert rig.pipeline.add_request(Caller(*[1.0] * 16), 16)
        assert not rig.pipeline.add_request(Caller(1.0), 1)
        rig.open_lanes()
        await rig.wait_idle()


async def test_forecasts_wait_while_the_disk_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamd.runtime.lanes.pipeline.SHORTAGE_SECONDS", 0.0)
    async with running(tmp_path) as rig:
        checks: list[int] = []

        def find_shortage() -> StorageError | None:
            checks.append(len(rig.batches))
            return StorageError("full") if len(checks) < 5 else None

        monkeypatch.setattr(rig.state, "find_shortage", find_shortage)
        rig.add_due_row("web-01", 100)
        await rig.wait_idle()
        assert checks[:4] == [0, 0, 0, 0]
        assert rig.published == [("web-01", 100)]
