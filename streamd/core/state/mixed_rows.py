"""Writes the next rows of several servers at once, each of its own step, as `row_frames.py` does for one step.

The usual row only: with all features, of the step after the newest row, of a server without an open row. The order of
the writes is that of `ClosedRows.store_row`, each made for all slots before the next one is begun.
"""

import numpy as np

from streamd.core.arrays import Float32, Slots
from streamd.core.state.row_frames import Booleans
from streamd.core.state.seals import compute_seals
from streamd.core.state.window_columns import NO_STEP, PRESENT
from streamd.core.state.windows import WindowStore


def find_whole_next_rows(store: WindowStore, slots: Slots, steps: Slots) -> Booleans:
    """Return for which slots `write_whole_rows` may write rows with all features; distinct slots, of each its step."""
    arrays = store.arrays
    is_next: Booleans = arrays["newest"][slots] == steps - 1
    is_next &= arrays["open_step"][slots] == NO_STEP
    return is_next


def write_whole_rows(store: WindowStore, slots: Slots, steps: Slots, rows: Float32) -> Slots:
    """Write `rows (slots, features)` with all values as the newest closed rows; returns the slots that become due.

    There must be at least one slot, all distinct and among those of `find_whole_next_rows`. The store must have its
    masks in arrays.
    """
    arrays, volatile, places = store.arrays, store.volatile, steps % store.context_length
    seals = compute_seals(rows, store.seeds[slots].astype(np.int64), steps, np.int64(PRESENT))
    changes = volatile["changes"][slots] + np.uint32(1)
    have = volatile["have"][slots] + (1 - (arrays["marks"][slots, places] >> 7))  # PRESENT is the highest bit
    volatile["changes"][slots] = changes
    arrays["journal"][slots] = steps
    volatile["have"][slots] = have
    arrays["values"][slots, places] = rows
    arrays["marks"][slots, places] = PRESENT
    arrays["seals"][slots, places] = seals
    arrays["newest"][slots] = steps
    arrays["newest_check"][slots] = -2 - steps  # make_step_check of each
    arrays["journal"][slots] = NO_STEP
    volatile["expected"][slots] = (1 << store.features) - 1
    volatile["changes"][slots] = changes + np.uint32(1)
    due = slots if have.min() >= store.need else slots[have >= store.need]
    store.count_closed(len(slots), len(due))
    return due
