"""Tests `streamd/core/state/filling_rows.py`. Whole histories of rows are in `test_windows.py`."""

import numpy as np

from streamd.core.state.filling_rows import FillingRows
from streamd.core.state.layout import NamedArrays, make_zeros
from streamd.core.state.rows import PackedRow
from streamd.core.state.seals import NO_SEAL, compute_seal
from streamd.core.state.window_columns import SEALED_STATUSES, make_window_columns

SEEDS = np.array([5, 6], np.uint32)


def make_rows() -> tuple[FillingRows, NamedArrays]:
    arrays = make_zeros(make_window_columns(4, 3), 2)
    return FillingRows(arrays, [0, 0], SEEDS), arrays


def row(*features: int, value: float) -> PackedRow:
    cells = np.full(3, np.nan, np.float32)
    cells[list(features)] = value
    return PackedRow(cells.tobytes(), sum(1 << feature for feature in features))


def test_a_row_keeps_the_last_value_of_each_feature_and_the_last_status() -> None:
    rows, arrays = make_rows()
    rows.open_row(1, 7, 10.0)
    rows.fill_row(1, row(0, 1, value=1.0), 2)
    rows.fill_row(1, row(1, value=3.0), None)
    assert rows.masks[1] == 0b011
    cells = arrays["open_values"][1]
    assert arrays["open_seal"][1] == compute_seal(cells.tobytes(), 6, 7, SEALED_STATUSES[2])
    packed, status = rows.take_row(1)
    np.testing.assert_array_equal(np.frombuffer(packed.data, np.float32), [1.0, 3.0, np.nan])
    assert (packed.mask, status) == (0b011, 2)
    assert rows.find_oldest() is None


def test_a_row_that_opens_has_nothing_of_the_former_one() -> None:
    rows, arrays = make_rows()
    rows.open_row(0, 7, 10.0)
    rows.fill_row(0, row(0, 1, 2, value=1.0), 3)
    rows.take_row(0)
    rows.open_row(0, 8, 11.0)
    assert np.isnan(arrays["open_values"][0]).all()
    assert (rows.masks[0], arrays["open_seal"][0], arrays["open_step"][0]) == (0, NO_SEAL, 8)
    assert arrays["open_status"][0] == SEALED_STATUSES[0]


def test_the_row_that_was_opened_first_is_the_oldest() -> None:
    rows, _ = make_rows()
    rows.open_row(1, 7, 10.0)
    rows.open_row(0, 7, 11.0)
    assert rows.find_oldest() == (1, 10.0)
    rows.drop_row(1)
    rows.drop_row(1)
    assert rows.find_oldest() == (0, 11.0)
