"""Tests `streamd/runtime/lanes/gather.py`.

Each row of a lane's inputs depends on its own window only, for any number of servers' and callers' windows.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from streamd.core.calendar import compute_known_future
from streamd.core.scheduling.batches import Batch, RequestItem, ServerRows
from streamd.inference.lane import Inputs
from streamd.runtime.lanes.gather import FEW_WINDOWS, gather
from streamd.runtime.lanes.server_numbers import ServerNumbers
from streamd.runtime.state.state import State, WindowLimits
from tests.support.contracts import make_contract
from tests.support.pipeline_rig import Caller
from tests.support.state_files import opened, send, whole

CONTRACT = make_contract()
MANY = FEW_WINDOWS + 4
LIMITS = WindowLimits(capacity=MANY, need=2, late_steps=8, grace_seconds=10.0)
NUMBERS = {"3": 30, "5": 50}


def make_rows(state: State, slots: list[int]) -> ServerRows:
    index = np.array(slots, np.int64)
    generations, steps, contexts = state.snapshot_many(index)
    return ServerRows(slots=index, generations=generations, steps=steps, contexts=contexts, since=np.zeros(len(slots)))


def make_servers(state: State, count: int) -> ServerRows:
    """Make servers whose values, statuses and newest steps all differ, in an irregular order."""
    for number in range(count):
        for step in range(100 + number // 2, 104 + number // 2 + number % 3):
            send(state, str(number), step, whole(float(100 * number + step % 7)), status=(number + step) % 16)
    return make_rows(state, sorted(range(count), key=lambda number: 5 * number % 11))


def gather_batch(state: State, batch: Batch, numbers: Mapping[str, int] = NUMBERS) -> dict[str, npt.NDArray[Any]]:
    """Return a lane's inputs after `gather`; they were full of other numbers before."""
    inputs = Inputs.allocate(CONTRACT, MANY + 1)
    for buffer in inputs.view_first(MANY + 1).values():
        buffer[:] = 99
    gather(state, ServerNumbers(numbers, state.directory), batch, inputs)
    for buffer in inputs.view_first(MANY + 1).values():
        assert (buffer[len(batch) :] == 99).all(), "rows beyond the batch are unchanged"
    return {name: buffer.copy() for name, buffer in inputs.view_first(len(batch)).items()}


@pytest.mark.parametrize("requested", [0, 1, 2])
@pytest.mark.parametrize("count", [1, FEW_WINDOWS, FEW_WINDOWS + 1, MANY - 2])
@pytest.mark.parametrize("is_sorted", [True, False])
def test_each_row_depends_on_its_own_window_only(tmp_path: Path, count: int, requested: int, is_sorted: bool) -> None:
    with opened(tmp_path, CONTRACT, LIMITS) as state:
        servers = make_servers(state, count)
        requests = [RequestItem(Caller(1.0, 2.0), index, 0.0) for index in range(requested)]
        batch = Batch(servers.sort_by_step() if is_sorted else servers, requests)
        together = gather_batch(state, batch)
        alone = [
            *(Batch(batch.servers.select(slice(row, row + 1))) for row in range(count)),
            *(Batch(requests=[request]) for request in requests),
        ]
        for row, each in enumerate(alone):
            for name, buffer in gather_batch(state, each).items():
                np.testing.assert_array_equal(together[name][row], buffer[0])
        assert len({row.tobytes() for row in together["encoder_cont"]}) == len(batch)


def test_a_window_is_that_of_its_server(tmp_path: Path) -> None:
    with opened(tmp_path, CONTRACT, LIMITS) as state:
        servers = make_servers(state, MANY)
        found = gather_batch(state, Batch(servers))
        length = CONTRACT.context_length
        for row, slot in enumerate(servers.slots.tolist()):
            values = np.empty(CONTRACT.input_shapes["encoder_cont"], np.float32)
            statuses = np.empty(length, np.int32)
            state.windows.gather_window(slot, values, statuses)
            number = NUMBERS.get(str(state.directory.names[slot]), 0)
            np.testing.assert_array_equal(found["encoder_cont"][row], values)
            np.testing.assert_array_equal(found["encoder_cat"][row], np.stack([np.full(length, number), statuses], 1))
            assert (found["decoder_cat"][row] == [number, statuses[-1]]).all()


def test_an_empty_batch_changes_no_input(tmp_path: Path) -> None:
    with opened(tmp_path, CONTRACT) as state:
        assert all(not len(rows) for rows in gather_batch(state, Batch()).values())


@pytest.mark.parametrize("is_sorted", [True, False])
def test_the_calendar_of_a_step_is_that_of_its_servers_only(tmp_path: Path, is_sorted: bool) -> None:
    with opened(tmp_path, CONTRACT, LIMITS) as state:
        for slot in range(MANY):
            send(state, str(slot), 100 + slot % 3, whole(float(slot)))
        servers = make_rows(state, list(range(MANY)))
        servers = servers.sort_by_step() if is_sorted else servers
        calendars = gather_batch(state, Batch(servers))["decoder_cont"]
        for row, step in enumerate(servers.steps.tolist()):
            expected = compute_known_future(step, CONTRACT.horizon, CONTRACT.step_seconds)
            np.testing.assert_array_equal(calendars[row], expected)
