"""Rows of several slots that are written at once, and what a store has after that."""

from typing import Any

import numpy as np
from hypothesis import strategies as st

from streamd.core.arrays import Float32
from streamd.core.state.rows import PackedRow
from streamd.core.state.windows import WindowStore
from tests.support.fleet_scripts import FEATURES, row_of, window_of

FULL = (1 << FEATURES) - 1
LISTS = st.sampled_from([[0, 1, 2], [1, 2], [2, 0, 1], [0, 2], [0], [1]])


def make_rows(slots: int, first: float, masks: int | list[int] = FULL) -> Float32:
    """Return rows in which no two values are the same, NaN where the mask has no bit."""
    rows = np.arange(slots * FEATURES, dtype=np.float32).reshape(slots, FEATURES) + np.float32(first)
    each = [masks] * slots if isinstance(masks, int) else masks
    for row, mask in zip(rows, each, strict=True):
        row[[not mask >> feature & 1 for feature in range(FEATURES)]] = np.nan
    return rows


def pack(row: Float32) -> PackedRow:
    return row_of({feature: float(value) for feature, value in enumerate(row) if value == value})


def snapshot(store: WindowStore) -> dict[str, Any]:
    return {
        "counts": [store.closed_rows, store.warming_rows],
        **{name: array.tolist() for name, array in store.volatile.items()},
        **{name: array.tobytes() for name, array in store.arrays.items()},
    }


def check_whole_or_absent(
    store: WindowStore, slot: int, step: int, before: tuple[Float32, list[int]], row: Float32 | None
) -> None:
    values, statuses = window_of(store, slot)
    if row is None or store.get_newest_step(slot) != step:
        np.testing.assert_array_equal(values, before[0])
        assert statuses == before[1]
        return
    np.testing.assert_array_equal(values[:-1], before[0][1:])
    assert np.array_equal(values[-1], row) or np.isnan(values[-1]).all(), "a row is whole or absent"
