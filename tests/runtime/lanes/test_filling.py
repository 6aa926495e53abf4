"""Tests `streamd/runtime/lanes/filling.py`.

A lane whose device keeps windows runs the same inputs as one that is given copies.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from streamd.core.scheduling.batches import Batch, RequestItem, ServerRows
from streamd.inference.fake import FakeBackend, FakeLane
from streamd.runtime.lanes.filling import fill_lane
from streamd.runtime.lanes.server_numbers import ServerNumbers
from streamd.runtime.lanes.shared_gather import NO_GENERATION
from streamd.runtime.state.state import State, WindowLimits
from tests.support.contracts import make_contract
from tests.support.pipeline_rig import Caller
from tests.support.state_files import opened, send, whole

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
