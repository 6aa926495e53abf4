"""Tests `streamd/runtime/lanes/filling.py`.

A lane whose device keeps windows runs the same inputs as one that is given copies.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from streamd.core.arrays import Float32
from streamd.core.contract import MEMORY_INPUT
from streamd.core.scheduling.batches import Batch, RequestItem, ServerRows
from streamd.core.state.forecast_seals import compute_checks
from streamd.core.unknown_targets import read_unknown
from streamd.inference.fake import FakeBackend, FakeLane
from streamd.runtime.lanes.filling import fill_lane
from streamd.runtime.lanes.server_numbers import ServerNumbers
from streamd.runtime.lanes.shared_gather import NO_GENERATION
from streamd.runtime.lanes.worker import run_finished
from streamd.runtime.state.state import State, WindowLimits
from tests.support.contracts import make_contract
from tests.support.memory_version import compute_naive_memory, make_memory_contract
from tests.support.pipeline_rig import Caller
from tests.support.state_files import opened, send, whole, window_of

CONTRACT = make_contract()
SERVERS = 7
LIMITS = WindowLimits(capacity=SERVERS, need=2, late_steps=8, grace_seconds=10.0)


def report(state: State, count: int, step: int) -> ServerRows:
    """Let servers report rows, and return their rows of a batch."""
    for number in range(count):
        for at in range(step, step + 1 + number % 3):
            send(state, str(number), at, whole(float(100 * number + at % 7)), status=(number + at) % 16)
    slots = np.arange(count)
    generations, steps, contexts = state.snapshot_many(slots)
    return ServerRows(slots=slots, generations=generations, steps=steps, contexts=contexts, since=np.zeros(count))


def make_lane(capacity: int) -> FakeLane:
    return FakeBackend(CONTRACT, (1, 16), capacity=capacity).make_lane(0)


@pytest.mark.parametrize("numbers", [{}, {"2": 20}])
def test_staged_windows_are_those_that_would_be_copied(tmp_path: Path, numbers: dict[str, int]) -> None:
    resident, plain = make_lane(SERVERS), make_lane(0)
    on_device = resident.resident
    assert on_device is not None
    with opened(tmp_path, CONTRACT, LIMITS) as state:
        server_numbers = ServerNumbers(numbers, state.directory)
        for turn in range(4):
            servers = report(state, SERVERS - turn, 100 + 4 * turn).sort_by_step()
            requests = [RequestItem(Caller(1.0, 2.0), index, 0.0) for index in range(turn % 3)]
            for lane in (resident, plain):
                fill_lane(state, server_numbers, Batch(servers, requests), lane)
            count = len(servers) + len(requests)
            on_device.run(count)
            expected = plain.inputs.view_first(count)
            for name, buffer in on_device.inputs.view_first(count).items():
                np.testing.assert_array_equal(buffer, expected[name])
        assert on_device.describe()["whole_windows"] == SERVERS


@pytest.mark.parametrize("capacity", [0, SERVERS], ids=["copied", "resident"])
def test_a_target_that_a_window_lacks_is_unknown_in_its_forecast(tmp_path: Path, capacity: int) -> None:
    lane = make_lane(capacity)
    targets = [CONTRACT.feature_index[target] for target in CONTRACT.targets]
    random = np.random.default_rng(5)
    with opened(tmp_path, CONTRACT, LIMITS) as state:
        server_numbers = ServerNumbers({}, state.directory)
        for step in range(100, 130):  # of each server, some targets are missing for long
            for number in range(SERVERS):
                full = whole(float(10 * number + step))
                mem = None if number % 3 == 1 or step > 110 else full["mem"]
                send(state, str(number), step, {**full, "mem": mem, "cpu": full["cpu"] if number % 3 == 0 else None})
            slots = np.flatnonzero(random.random(SERVERS) < 0.6)
            generations, steps, contexts = state.snapshot_many(slots)
            servers = ServerRows(slots=slots, generations=generations, steps=steps, contexts=contexts)
            batch = Batch(servers, [RequestItem(Caller(1.0), 0, 0.0)])
            fill_lane(state, server_numbers, batch, lane)
            lane.inputs.encoder_cont[len(slots), :, 0] = np.nan  # the caller has no cpu
            forecasts, checks, bad_rows = run_finished(lane, batch)
            windows = [*(window_of(state, str(slot)) for slot in slots), lane.inputs.encoder_cont[len(slots)]]
            expected = np.array([[np.isnan(window[:, target]).all() for target in targets] for window in windows])
            assert np.isnan(forecasts).all(axis=(2, 3)).tolist() == expected.tolist()
            assert np.isnan(forecasts).any(axis=(2, 3)).tolist() == expected.tolist()
            assert checks.tolist() == compute_checks(forecasts[: len(slots)]).tolist()
            assert bad_rows == ()
        assert read_unknown(forecasts).any(axis=0).all()


# ---------------------------------------------------------------- memories
MEMORY_CONTRACT = make_memory_contract(context_length=12)


def run_memories(state: State, batch: Batch, capacity: int) -> Float32:
    """Fill a lane that asks for memories, and return those that it ran; they were others before."""
    lane = FakeBackend(MEMORY_CONTRACT, (1, 16), capacity=capacity).make_lane(0)
    assert lane.inputs.memory_cont is not None
    lane.inputs.memory_cont[:] = 99
    ran: list[Float32] = []
    lane._script.on_run = lambda name, inputs: ran.append(inputs[MEMORY_INPUT])
    fill_lane(state, ServerNumbers({}, state.directory), batch, lane)
    run_finished(lane, batch)
    assert (lane.inputs.memory_cont[len(batch) :] == 99).all(), "rows beyond the batch are unchanged"
    return ran[0]


@pytest.mark.parametrize("capacity", [0, SERVERS], ids=["copied", "resident"])
def test_a_model_that_remembers_gets_the_memory_of_each_server_behind_its_own_row(
    tmp_path: Path, capacity: int
) -> None:
    with opened(tmp_path, replace(MEMORY_CONTRACT, memory_length=0), replace(LIMITS, late_steps=0)) as state:
        rows = [{step: whole(float(number + step % 7)) for step in range(120, 160 + 5 * number)} for number in range(3)]
        for number, own in enumerate(rows):
            for step, values in own.items():
                send(state, str(number), step, values)
        slots = np.array([2, 0, 1])
        generations, steps, contexts = state.snapshot_many(slots)
        servers = ServerRows(slots=slots, generations=generations, steps=steps, contexts=contexts)
        found = run_memories(state, Batch(servers, [RequestItem(Caller(1.0), 0, 0.0)]), capacity)
        for row, number in enumerate(slots.tolist()):
            listed = {step: [values[name] for name in CONTRACT.features] for step, values in rows[number].items()}
            expected = compute_naive_memory(listed, max(listed) + 1, 12, 3)
            np.testing.assert_allclose(found[row], expected, rtol=1e-6)
            assert np.isfinite(expected).any()
        assert np.isnan(found[3]).all(), "the caller has sent none"


def test_a_row_that_comes_before_the_lane_reads_does_not_change_what_it_reads(tmp_path: Path) -> None:
    with opened(tmp_path, MEMORY_CONTRACT, LIMITS) as state:
        for step in range(120, 155):
            send(state, "0", step, whole(float(step)))
        generations, steps, contexts = state.snapshot_many(np.arange(1))
        lane = FakeBackend(MEMORY_CONTRACT, (1,)).make_lane(0)
        batch = Batch(ServerRows(slots=np.arange(1), generations=generations, steps=steps, contexts=contexts))
        fill_lane(state, ServerNumbers({}, state.directory), batch, lane)
        for step in range(155, 160):  # with it, one more hour is complete
            send(state, "0", step, whole(float(step)))
        run_finished(lane, batch)
        assert lane.inputs.memory_cont is not None
        rows = {step: [step, step + 0.25, step + 0.5] for step in range(120, 155)}
        np.testing.assert_allclose(lane.inputs.memory_cont[0], compute_naive_memory(rows, 155, 12, 3), rtol=1e-6)


@pytest.mark.parametrize(("last", "is_kept"), [(167, True), (168, False), (2400, False)])
def test_a_memory_that_hours_of_rows_overtake_before_the_lane_reads_is_missing(
    tmp_path: Path, last: int, is_kept: bool
) -> None:
    with opened(tmp_path, MEMORY_CONTRACT, LIMITS) as state:
        for server in ("0", "1"):
            for step in range(120, 145):
                send(state, server, step, whole(float(step)))
        generations, steps, contexts = state.snapshot_many(np.arange(2))
        lane = FakeBackend(MEMORY_CONTRACT, (2,)).make_lane(0)
        batch = Batch(ServerRows(slots=np.arange(2), generations=generations, steps=steps, contexts=contexts))
        fill_lane(state, ServerNumbers({}, state.directory), batch, lane)
        for step in range(145, last):
            send(state, "1", step, whole(float(step)))
        assert state.memory is not None
        state.memory.settle()
        run_finished(lane, batch)
        memories = lane.inputs.memory_cont
        assert memories is not None
        assert np.isfinite(memories[0]).any()
        np.testing.assert_array_equal(memories[1], memories[0] if is_kept else np.full_like(memories[0], np.nan))


@pytest.mark.parametrize("capacity", [0, SERVERS], ids=["copied", "resident"])
def test_without_a_memory_in_the_state_nothing_is_remembered(tmp_path: Path, capacity: int) -> None:
    with opened(tmp_path, MEMORY_CONTRACT, replace(LIMITS, has_memory=False)) as state:
        servers = report(state, SERVERS, 120)
        assert np.isnan(run_memories(state, Batch(servers, [RequestItem(Caller(1.0), 0, 0.0)]), capacity)).all()


def test_a_batch_of_callers_stages_nothing(tmp_path: Path) -> None:
    lane = make_lane(SERVERS)
    assert lane.resident is not None
    with opened(tmp_path, CONTRACT, LIMITS) as state:
        batch = Batch(requests=[RequestItem(Caller(1.0), 0, 0.0)])
        fill_lane(state, ServerNumbers({}, state.directory), batch, lane)
        assert len(lane.resident.run(1).forecasts) == 1
        assert lane.resident.describe()["uploaded_rows"] == 0


def test_windows_that_others_write_are_taken_as_they_are_or_not_at_all(tmp_path: Path) -> None:
    lane = make_lane(SERVERS)
    with opened(tmp_path, CONTRACT, LIMITS) as state:
        servers = report(state, 3, 100)
        report(state, 1, 101)  # before the batch is staged, a newer row comes
        generations = servers.generations.tolist()
        state.windows.begin_change(1)
        state.windows.volatile["have"][2] = 1  # too few
        shared = replace(state, is_shared=True)
        batch = Batch(servers)
        fill_lane(shared, ServerNumbers({}, state.directory), batch, lane)
        assert batch.servers.steps[0] == 101
        assert batch.servers.generations.tolist() == [generations[0], NO_GENERATION, NO_GENERATION]
