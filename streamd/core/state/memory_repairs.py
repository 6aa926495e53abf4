"""Brings a memory store into order when it is opened: drops what nothing proves, and fills in what the ring still has.

Touches arrays only. The windows are repaired before.
"""

from collections.abc import Sequence

import numpy as np

from streamd.core.state.memory import MemoryStore, list_periods
from streamd.core.state.memory_columns import NO_PERIOD
from streamd.core.state.rebuilding import SLOTS_AT_ONCE


def repair_memory(memory: MemoryStore, slots: Sequence[int], *, is_torn: bool) -> int:
    """Repair the memory of these slots; returns how many means were dropped because nothing proves them.

    A mean is proven by the seal of its server and period. With `is_torn`, any page may be older than the others. Then
    means that were dropped together with rows ahead of the clock may be there again: those after the newest row go.
    """
    dropped = 0
    for begin in range(0, len(slots), SLOTS_AT_ONCE):
        chunk = np.array(slots[begin : begin + SLOTS_AT_ONCE], np.int64)
        dropped += _drop_unproven(memory, chunk)
        if is_torn:
            _drop_later(memory, chunk)
        first, last = memory.find_first_periods(chunk), memory.find_last_periods(chunk)
        memory.write_means(*list_periods(chunk, first, last))
    return dropped


def _drop_unproven(memory: MemoryStore, slots: np.ndarray[tuple[int], np.dtype[np.int64]]) -> int:
    arrays = memory.arrays
    rows, places = np.nonzero(arrays["periods"][slots] != NO_PERIOD)
    at = (slots[rows], places)
    periods = arrays["periods"][at].astype(np.int64) - 1
    seals = memory.compute_mean_seals(at[0], periods, arrays["means"][at], arrays["counts"][at].astype(np.int64))
    wrong = (seals != arrays["mean_seals"][at]) | (periods % arrays["periods"].shape[1] != places)
    arrays["periods"][at[0][wrong], places[wrong]] = NO_PERIOD
    return int(np.count_nonzero(wrong))


def _drop_later(memory: MemoryStore, slots: np.ndarray[tuple[int], np.dtype[np.int64]]) -> None:
    periods = memory.arrays["periods"][slots]
    rows, places = np.nonzero(periods > memory.find_last_periods(slots)[:, None] + 1)
    memory.arrays["periods"][slots[rows], places] = NO_PERIOD
