"""Tests `streamd/core/state/closed_rows.py`. Whole histories are in `test_windows.py`, kills in `test_recovery.py`."""

import numpy as np

from streamd.core.state.closed_rows import ClosedRows
from streamd.core.state.layout import NamedArrays, make_zeros
from streamd.core.state.rows import PackedRow
from streamd.core.state.window_columns import NO_STEP, make_volatile_columns, make_window_columns

FULL = 0b11


def make_rows(need: int = 2) -> tuple[ClosedRows, NamedArrays]:
    arrays = make_zeros(make_window_columns(4, 2), 1)
    volatile = make_zeros(make_volatile_columns(), 1)
    arrays["newest"][:] = arrays["open_step"][:] = arrays["journal"][:] = NO_STEP
    return ClosedRows(arrays, volatile, [0], np.array([9], np.uint32), need), {**arrays, **volatile}


def row(value: float = 1.0) -> PackedRow:
    return PackedRow(np.full(2, value, np.float32).tobytes(), FULL)


def test_a_server_is_due_from_the_row_on_that_makes_its_window_large_enough() -> None:
    rows, arrays = make_rows(need=2)
    assert rows.store_row(0, 5, NO_STEP, row(), 0) == 0
    assert rows.store_row(0, 6, 5, row(), 0) == 1
    assert (rows.stored, rows.warming, arrays["have"][0]) == (2, 1, 2)


def test_changes_grow_by_two_for_each_step_and_for_each_amendment() -> None:
    rows, arrays = make_rows()
    grown = []
    for write in (
        lambda: rows.store_row(0, 5, NO_STEP, row(), 0),
        lambda: rows.store_row(0, 6, 5, row(), 0),
        lambda: rows.store_row(0, 9, 6, row(), 0),
        lambda: rows.amend_row(0, 6, row(2.0), None),
    ):
        before = int(arrays["changes"][0])
        write()
        grown.append(int(arrays["changes"][0]) - before)
    assert grown == [2, 2, 6, 2]


def test_steps_without_a_sample_are_emptied() -> None:
    rows, arrays = make_rows()
    for step in range(4, 8):
        rows.store_row(0, step, step - 1 if step > 4 else NO_STEP, row(), 0)
    rows.store_row(0, 10, 7, row(), 0)
    assert arrays["have"][0] == 2
    assert np.isnan(arrays["values"][0, [0, 1], 0]).all(), "the places of the steps 8 and 9"
