"""Tests `streamd/runtime/lanes/gather.py`.

Each row of a lane's inputs depends on its own window only, for any number of servers' and callers' windows.
"""

from pathlib import Path

import numpy as np
import pytest

from streamd.core.calendar import compute_known_future
from streamd.core.scheduling.scheduler import Item, RequestItem, ServerItem
from streamd.inference.lane import Inputs
from streamd.runtime.lanes.gather import FEW_WINDOWS, gather
from streamd.runtime.state.state import State, WindowLimits
from tests.support.contracts import make_contract
from tests.support.pipeline_rig import Caller
from tests.support.state_files import opened, send, whole

CONTRACT = make_contract()
MANY = FEW_WINDOWS + 4
SERVER_IDS = {"3": 30, "5": 50}


def make_items(state: State, count: int) -> list[Item]:
    """Make servers whose values, statuses and newest steps all differ, in an irregular order."""
    for number in range(count):
        for step in range(100 + number // 2, 104 + number // 2 + number % 3):
            send(state, str(number), step, whole(float(100 * number + step % 7)), status=(number + step) % 16)
    windows, slots = state.windows, sorted(range(count), key=lambda number: 5 * number % 11)
    return [ServerItem(slot, 0, windows.get_newest_step(slot), windows.have[slot], 0.0) for slot in slots]


def gather_items(state: State, items: list[Item]) -> dict[str, object]:
    """Return a lane's inputs after `gather`; they were full of other numbers before."""
    inputs = Inputs.allocate(CONTRACT, MANY + 1)
    for buffer in inputs.view_first(MANY + 1).values():
        buffer[:] = 99
    gather(state, SERVER_IDS, items, inputs)
    for buffer in inputs.view_first(MANY + 1).values():
        assert (buffer[len(items) :] == 99).all(), "rows beyond the batch are unchanged"
    return {name: buffer.copy() for name, buffer in inputs.view_first(len(items)).items()}


@pytest.mark.parametrize("requested", [(), (0,), (2, 5)])
@pytest.mark.parametrize("count", [1, FEW_WINDOWS, FEW_WINDOWS + 1, MANY - 2])
def test_each_row_depends_on_its_own_window_only(tmp_path: Path, count: int, requested: tuple[int, ...]) -> None:
    with opened(tmp_path, CONTRACT, WindowLimits(capacity=MANY, need=2, late_steps=8, grace_seconds=10.0)) as state:
        items = make_items(state, count)
        for index, place in enumerate(requested):
            items.insert(place, RequestItem(Caller(1.0, 2.0), index, 0.0))
        together = gather_items(state, items)
        for row, item in enumerate(items):
            alone = gather_items(state, [item])
            for name, buffer in together.items():
                np.testing.assert_array_equal(buffer[row], alone[name][0])  # type: ignore[index]
        assert len({row.tobytes() for row in together["encoder_cont"]}) == len(items)  # type: ignore[attr-defined]


def test_items_are_sorted_into_the_order_of_the_rows_those_of_a_step_together(tmp_path: Path) -> None:
    with opened(tmp_path, CONTRACT, WindowLimits(capacity=MANY, need=2, late_steps=8, grace_seconds=10.0)) as state:
        steps = [102, 101, 102, 103, 101, 102]
        for slot, step in enumerate(steps):
            send(state, str(slot), step, whole(float(slot)))
        caller = Caller(1.0, 2.0)
        items: list[Item] = [ServerItem(slot, 0, step, 1, float(slot)) for slot, step in enumerate(steps)]
        items[4:4], items[1:1] = [RequestItem(caller, 1, 0.0)], [RequestItem(caller, 0, 0.0)]
        before = list(items)
        gather_items(state, items)
        assert [item.slot for item in items if isinstance(item, ServerItem)] == [0, 2, 5, 1, 4, 3]
        assert [item.index for item in items[6:] if isinstance(item, RequestItem)] == [0, 1]
        assert sorted(map(id, items)) == sorted(map(id, before))


def test_an_empty_batch_changes_no_input(tmp_path: Path) -> None:
    with opened(tmp_path, CONTRACT) as state:
        assert all(not len(rows) for rows in gather_items(state, []).values())  # type: ignore[arg-type]


def test_the_calendar_of_a_step_is_that_of_its_servers_only(tmp_path: Path) -> None:
    with opened(tmp_path, CONTRACT, WindowLimits(capacity=MANY, need=2, late_steps=8, grace_seconds=10.0)) as state:
        steps = [100 + number % 2 for number in range(MANY)]
        for slot, step in enumerate(steps):
            send(state, str(slot), step, whole(float(slot)))
        items: list[Item] = [ServerItem(slot, 0, step, 1, 0.0) for slot, step in enumerate(steps)]
        calendars = gather_items(state, items)["decoder_cont"]
        for row, item in enumerate(items):
            assert isinstance(item, ServerItem)
            expected = compute_known_future(item.step, CONTRACT.horizon, CONTRACT.step_seconds)
            np.testing.assert_array_equal(calendars[row], expected)  # type: ignore[index]
