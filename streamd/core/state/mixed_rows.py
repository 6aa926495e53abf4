"""Writes the next rows of several servers at once, each of its own step, as `row_frames.py` does for one step.

The usual row only: with all features, of the step after the newest row, of a server without an open row.
"""

import numpy as np

from streamd.core.arrays import Float32, Slots
from streamd.core.state.layout import NamedArrays
from streamd.core.state.row_frames import Booleans, write_cells
from streamd.core.state.seals import compute_seals
from streamd.core.state.window_columns import NO_STEP, PRESENT
from streamd.core.state.windows import WindowStore


def find_whole_next_rows(store: WindowStore, slots: Slots, steps: Slots) -> Booleans:
    """Return for which slots `write_whole_rows` may write rows with all features; distinct slots, of each its step."""
    arrays = store.arrays
    is_next: Booleans = arrays["newest"][slots] == steps - 1
    is_next &= arrays["open_step"][slots] == NO_STEP
    return is_next


def write_whole_rows(store: WindowStore, columns: NamedArrays, slots: Slots, steps: Slots, rows: Float32) -> Slots:
    """Write `rows (slots, features)` with all values as the newest closed rows; returns the slots that become due.

    `columns` are those of `view_columns(store)`. There must be at least one slot, all distinct and among those of
    `find_whole_next_rows`. The store must have its masks in arrays.
    """
    places = steps % store.context_length
    seals = compute_seals(rows, store.seeds[slots].astype(np.int64), steps, np.int64(PRESENT))
    write_cells(columns, slots, steps, places, rows, seals, masks=(1 << store.features) - 1, may_grow=True)
    if store.memory is not None:
        is_last = (steps + 1) % store.memory.period == 0
        for slot, step in zip(slots[is_last].tolist(), steps[is_last].tolist(), strict=True):
            store.memory.note_end(slot, step)
    have = columns["have"][slots]
    due = slots if have.min() >= store.need else slots[have >= store.need]
    store.count_closed(len(slots), len(due))
    return due
