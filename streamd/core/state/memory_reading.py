"""Reads the memory of many windows: the means of the hours that end where the windows end.

Touches arrays only. The periods are whole hours of the clock, and a window ends anywhere in one. With P steps a period
and r steps of the last one in the window, each element has P - r steps of one period and r of the next one.
"""

import numpy as np

from streamd.core.arrays import Float32, Slots
from streamd.core.state.layout import NamedArrays
from streamd.core.state.period_means import average_periods
from streamd.core.state.slot_ranges import make_slot_index

MEMORIES_AT_ONCE = 32
"""The windows whose means are in memory at once: 0.3 MB with 14 features, which stay in the processor's cache."""


def read_memory(
    arrays: NamedArrays,
    steps_per_period: int,
    slots: Slots,
    steps: Slots,
    out: Float32,
    windows: NamedArrays | None = None,
) -> None:
    """Write the memory of windows to `out (n, length, features)`; see `MemoryStore.read`.

    Windows that end at one step are read together; the servers of a batch usually all do. With the arrays of the
    `windows`, means that are not stored yet are computed from them.
    """
    ends = steps + 1
    for end in set(ends.tolist()):
        chosen = np.flatnonzero(ends == end)
        period, remainder = divmod(end, steps_per_period)
        for begin in range(0, len(chosen), MEMORIES_AT_ONCE):
            some = make_slot_index(chosen[begin : begin + MEMORIES_AT_ONCE])
            means = out[some]  # a view of neighbours, a copy of others
            _read_means(arrays, slots[some], period, means)
            if windows is not None:
                _add_newest(means, windows, slots[some], period, steps_per_period)
            if remainder:
                _blend(means, np.float32(remainder / steps_per_period))
            if not isinstance(some, slice):
                out[some] = means


def _read_means(arrays: NamedArrays, slots: Slots, end: int, means: Float32) -> None:
    """Write the means of the periods before `end` to `means (n, length, features)`, NaN for a missing one."""
    places = arrays["means"].shape[1]
    length, index = places - 1, make_slot_index(slots)
    first = end - length
    cut = places - first % places  # the number of periods up to the last place
    wanted = np.arange(first + 1, end + 1)
    if first < 0:
        wanted[:-first] = -1  # before 1970: as if never written
    is_missing = np.empty((len(slots), length), np.bool_)
    for to, place in ((slice(0, cut), first % places), (slice(cut, length), 0)):
        part = slice(place, place + len(wanted[to]))
        # The periods first: a mean whose period was there before it is read is not that of an older one.
        np.not_equal(arrays["periods"][index, part], wanted[to], out=is_missing[:, to])
        means[:, to] = arrays["means"][index, part]
    if is_missing.any():
        means[is_missing] = np.nan


def _add_newest(means: Float32, windows: NamedArrays, slots: Slots, end: int, steps_per_period: int) -> None:
    """Compute the means before the period `end` that are missing, from the rings, of slots whose newest one is."""
    rows = np.flatnonzero(np.isnan(means[:, -1]).all(axis=1))
    if not len(rows):
        return
    context_length = windows["values"].shape[1]
    count = min(context_length // steps_per_period, means.shape[1], end)
    row, element = np.nonzero(np.isnan(means[rows, means.shape[1] - count :]).all(axis=2))
    row, periods = rows[row], element + (end - count)
    found, counts = average_periods(windows, slots[row], periods, steps_per_period)
    # After the rows were read: a ring may have lost some meanwhile.
    is_whole = periods * steps_per_period > windows["newest"][slots[row]] - context_length
    chosen = is_whole & (counts > 0)
    means[row[chosen], (periods - end)[chosen]] = found[chosen]


def _blend(means: Float32, share: np.float32) -> None:
    """Make each mean that of itself and the next one, which has the positive `share`, over those that are known.

    The last one has no next one: its period is not over.
    """
    if np.isnan(means.min()):  # NaN is the least of all, and this takes a third of the time of a search
        own, nexts = means[:, :-1], means[:, 1:]
        blended = own * (1 - share)
        blended += nexts * share
        np.fmax(own, nexts, out=own)  # where one of both is missing, this is the other one
        np.copyto(own, blended, where=~np.isnan(blended))
    else:  # The usual case, in half the time: whole arrays are contiguous, and these parts of them are not.
        last = means[:, -1].copy()
        weighted = means * share
        means *= 1 - share
        means[:, :-1] += weighted[:, 1:]
        means[:, -1] = last
