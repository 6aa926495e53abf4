"""Computes the mean row of whole periods from rings of rows. Pure: reads arrays and keeps nothing.

Sums are in float64, in which those of float32 numbers are exact or nearly so: a mean is the same whenever it is
computed, and none overflows.
"""

import numpy as np
import numpy.typing as npt

from streamd.core.arrays import Float32, Slots
from streamd.core.state.layout import NamedArrays
from streamd.core.state.slot_ranges import SlotIndex

CELLS_AT_ONCE = 2**18
"""Cells of rows that are in memory at once: 2 MB as float64."""

MAX_COUNT = 2**16 - 1
"""The largest number of rows that can be stored; a mean of more has this one."""

MeanCounts = npt.NDArray[np.int64]


def average_periods(
    arrays: NamedArrays, slots: Slots, periods: Slots, steps_per_period: int
) -> tuple[Float32, MeanCounts]:
    """Return the means `(n, features) float32` of periods `(n,)` of slots `(n,)`, and of how many rows each is.

    The mean of a feature is that of the closed rows which have it; NaN if none has. The ring of a slot must have all
    that were closed of its period.
    """
    features = arrays["values"].shape[2]
    means = np.empty((len(slots), features), np.float32)
    counts = np.empty(len(slots), np.int64)
    at_once = max(CELLS_AT_ONCE // (steps_per_period * features), 1)
    for begin in range(0, len(slots), at_once):
        some = slice(begin, begin + at_once)
        means[some], counts[some] = _compute_some(arrays, slots[some], periods[some], steps_per_period)
    return means, counts


def _compute_some(
    arrays: NamedArrays, slots: Slots, periods: Slots, steps_per_period: int
) -> tuple[Float32, MeanCounts]:
    length = arrays["values"].shape[1]
    steps = periods[:, None] * steps_per_period + np.arange(steps_per_period)
    at = (slots[:, None], steps % length)
    is_closed = steps <= arrays["newest"][slots][:, None]  # what lies at the places of later steps is older
    rows = arrays["values"][at].astype(np.float64)
    is_missing = np.isnan(rows) | ~is_closed[:, :, None]
    known = steps_per_period - is_missing.sum(axis=1)
    rows[is_missing] = 0.0
    sums = rows.sum(axis=1)
    sums[known == 0] = np.nan
    is_present = (arrays["marks"][at] >> 7) & is_closed  # PRESENT is the highest bit
    counts = is_present.sum(axis=1, dtype=np.int64)
    return (sums / np.maximum(known, 1)).astype(np.float32), np.minimum(counts, MAX_COUNT)


def average_whole_rows(values: Float32, index: SlotIndex, period: int, steps_per_period: int) -> Float32:
    """Return the means of one period of many slots, `(n, features)`; a feature that a row lacks is NaN.

    This takes a quarter of the time of `average_periods`: the rows of all slots are added place by place.
    """
    length = values.shape[1]
    first = period * steps_per_period % length
    rows = values[index, first : first + steps_per_period]  # a view of neighbouring slots, else a copy
    if first + steps_per_period > length:
        rows = np.concatenate((rows, values[index, : first + steps_per_period - length]), axis=1)
    sums = rows[:, 0].astype(np.float64)
    for place in range(1, steps_per_period):
        sums += rows[:, place]
    sums /= steps_per_period
    return sums.astype(np.float32)
