"""A week's memory of every server: the mean row of each hour, computed from the ring when the hour is over.

Touches arrays only. Rows only note that a period ended, or that a late sample changed one; `settle` computes the means
of many slots at once, always before the ring loses their rows. A mean is computed from the ring alone, so that to
compute it again changes nothing: after a kill, `memory_repairs.py` computes those that the ring still has.

The order of the writes: the place has no period while its mean changes. So a reader in another thread or process, which
reads periods first, takes no mean for that of another period.
"""

import numpy as np
import numpy.typing as npt

from streamd.core.arrays import Float32, Slots
from streamd.core.state.layout import NamedArrays
from streamd.core.state.memory_columns import NO_PERIOD
from streamd.core.state.memory_reading import read_memory
from streamd.core.state.period_means import MAX_COUNT, MeanCounts, average_periods, average_whole_rows
from streamd.core.state.seals import Words, compute_seals
from streamd.core.state.slot_ranges import make_slot_index

MAX_UNSETTLED_SLOTS = 256
"""The number of slots with means to compute from which on they are computed; fewer are dearer for each."""


class MemoryStore:
    """The means of all servers, by slot.

    `arrays` are those of `make_memory_columns`, `windows` those of the window store, whose rows have the same features.
    `period` is the number of steps of a period. `seeds (capacity,)` has a number of the server of each slot, which its
    means are sealed with; its owner changes it.
    """

    __slots__ = (
        "_pending",
        "_places",
        "_seeds",
        "_whole_periods",
        "_windows",
        "arrays",
        "context_length",
        "length",
        "period",
    )

    def __init__(self, arrays: NamedArrays, windows: NamedArrays, *, period: int, seeds: Words) -> None:
        self.arrays = arrays
        self.period = period
        self._places: int = arrays["periods"].shape[1]
        self.length = self._places - 1
        """The number of means that `gather` returns of each slot."""
        self.context_length: int = windows["values"].shape[1]
        self._windows = windows
        self._seeds = seeds
        # A ring has the rows of so many periods; of more, several would have the same place.
        self._whole_periods = min(self.context_length // period, self.length)
        self._pending: dict[int, int] = {}  # by slot: its first period whose mean is not computed from all its rows

    # ------------------------------------------------------------ rows that were written
    def note_end(self, slot: int, step: int) -> None:
        """Note that a slot's newest row is now of `step`, the last one of its period."""
        period = step // self.period
        first = self._pending.setdefault(slot, period)
        # The first test is _is_urgent without a call.
        if period - first > self._whole_periods - 2 or len(self._pending) >= MAX_UNSETTLED_SLOTS:
            self.settle()

    def note_jump(self, slot: int, newest: int, step: int) -> None:
        """Note that a row of `step` is about to follow the one of `newest`, with a gap: older rows will be lost."""
        last = newest // self.period
        if (newest + 1) % self.period and step // self.period > last:
            self._pending.setdefault(slot, last)
        first = self._pending.get(slot)
        if first is not None and self._is_urgent(first, step):
            # Only of this slot: its period is over by the row that comes, which is not among the closed ones yet.
            del self._pending[slot]
            periods = np.arange(first, last + 1)
            self.write_means(np.full(len(periods), slot), periods)

    def note_amended(self, slot: int, step: int, newest: int) -> None:
        """Note that a late sample changed the closed row of `step`; if the ring lost a part of its period, it stays."""
        period, ended = step // self.period, (newest + 1) // self.period
        is_whole = period * self.period > newest - self.context_length
        if not (is_whole and ended - self._whole_periods <= period < ended):
            return
        first = min(self._pending.get(slot, period), period)
        self._pending[slot] = first
        if self._is_urgent(first, newest):
            self.settle()

    def _is_urgent(self, first: int, step: int) -> bool:
        """Whether rows of the period `first` are lost before the period of the row after `step` is over."""
        is_urgent: bool = first + self._whole_periods < (step + 1) // self.period + 1
        return is_urgent

    # ------------------------------------------------------------ means
    def settle(self) -> None:
        """Compute all means that were noted."""
        if not self._pending:
            return
        slots = np.fromiter(self._pending.keys(), np.int64)
        first = np.fromiter(self._pending.values(), np.int64)
        self._pending.clear()
        last = self.find_last_periods(slots)
        if (first == first[0]).all() and (last == first[0]).all():  # the usual case: all of them ended the same period
            self._write_period(slots, int(first[0]))
        else:
            self.write_means(*list_periods(slots, first, last))

    def settle_ended(self, slots: Slots, period: int) -> None:
        """Compute the mean of a period of distinct slots, at least one, whose newest row is its last one."""
        self.settle()
        self._write_period(slots, period)

    def _write_period(self, slots: Slots, period: int) -> None:
        """Compute the mean of a period of distinct slots, which is over and in all of their rings as a whole."""
        means = average_whole_rows(self._windows["values"], make_slot_index(slots), period, self.period)
        is_whole = np.isfinite(means).all(axis=1)
        if not is_whole.all():
            self.write_means(slots[~is_whole], np.full(len(slots) - np.count_nonzero(is_whole), period))
            slots, means = slots[is_whole], means[is_whole]
        if len(slots):
            count = min(self.period, MAX_COUNT)
            self.store_means(slots, np.int64(period), means, np.int64(count))

    def write_means(self, slots: Slots, periods: Slots) -> None:
        """Compute the means of periods `(n,)` of slots `(n,)` from the ring, which must have them as a whole.

        A mean of more rows stays: those that the ring lacks were rows too. So does one of which it has no row.
        """
        if not len(slots):
            return
        means, counts = average_periods(self._windows, slots, periods, self.period)
        places = periods % self._places
        is_there = self.arrays["periods"][slots, places] == periods + 1
        chosen = counts > np.where(is_there, self.arrays["counts"][slots, places].astype(np.int64) - 1, 0)
        if not chosen.all():
            slots, periods, means, counts = slots[chosen], periods[chosen], means[chosen], counts[chosen]
        self.store_means(slots, periods, means, counts)

    def store_means(
        self, slots: Slots, periods: Slots | np.int64, means: Float32, counts: MeanCounts | np.int64
    ) -> None:
        """Write means `(n, features)` of slots `(n,)` to their places, of at least one.

        `periods` and `counts` are one for all of them, or of each its own.
        """
        # A slice and an array of places would be all their pairs.
        index = make_slot_index(slots) if np.ndim(periods) == 0 else slots
        places, arrays = periods % self._places, self.arrays
        arrays["periods"][index, places] = NO_PERIOD
        arrays["means"][index, places] = means
        arrays["counts"][index, places] = counts
        arrays["mean_seals"][index, places] = self.compute_mean_seals(slots, periods, means, counts)
        arrays["periods"][index, places] = periods + 1

    def compute_mean_seals(
        self, slots: Slots, periods: Slots | np.int64, means: Float32, counts: MeanCounts | np.int64
    ) -> Words:
        """Return the seals of means `(n, features)` of slots `(n,)`."""
        return compute_seals(means.view(np.uint32), self._seeds[slots].astype(np.int64), periods, counts)

    def find_last_periods(self, slots: Slots) -> Slots:
        """Return the last period of each slot that is over, -1 if none is, `(n,)`."""
        last: Slots = (self._windows["newest"][slots] + 1) // self.period - 1
        return last

    def find_first_periods(self, slots: Slots) -> Slots:
        """Return the first period of each slot that its ring has as a whole, `(n,)`; at most `length` are."""
        oldest = np.maximum(self._windows["newest"][slots] - self.context_length + 1, 0)
        first: Slots = np.maximum(-(-oldest // self.period), self.find_last_periods(slots) + 1 - self._whole_periods)
        return first

    # ------------------------------------------------------------ servers
    def reset(self, slot: int) -> None:
        """Empty a slot: it has no mean."""
        self._pending.pop(slot, None)
        self.arrays["periods"][slot] = NO_PERIOD

    def drop_after(self, slot: int, last_step: int) -> None:
        """Drop the means of periods with steps after `last_step`, whose rows are about to be dropped."""
        self.settle()
        periods = self.arrays["periods"][slot]
        periods[periods > (last_step + 1) // self.period] = NO_PERIOD

    # ------------------------------------------------------------ reading
    def gather(self, slots: Slots, steps: Slots, out: Float32) -> None:
        """Settle, then read the memory of windows as `read` does; on the thread that writes rows."""
        self.settle()
        self.read(slots, steps, out)

    def read(self, slots: Slots, steps: Slots, out: Float32, *, is_settled: bool = True) -> None:
        """Write the means of the seven days before the end of each window to `out (n, length, features)`, oldest first.

        `steps (n,)` are those of the newest rows of `slots (n,)`. An element whose hour lies in two periods is their
        mean, each with the weight of its share, over those that are known; NaN if neither is. Another thread or process
        may write meanwhile, if the newest row lies at most a period after `steps`. Without `is_settled`, it may
        have yet to compute the means of the newest rows.
        """
        read_memory(self.arrays, self.period, slots, steps, out, None if is_settled else self._windows)

    def find_overwritten(self, slots: Slots, steps: Slots) -> npt.NDArray[np.bool_]:
        """Return which memories behind the rows of `steps (n,)`, read before this call, may lack or mistake hours.

        A row closes before the mean of its period is stored. So the newest rows say which places may be taken.
        """
        overwritten: npt.NDArray[np.bool_] = self.find_last_periods(slots) > (steps + 1) // self.period
        return overwritten


def list_periods(slots: Slots, first: Slots, last: Slots) -> tuple[Slots, Slots]:
    """Return the periods from `first (n,)` to `last (n,)` of each of `slots (n,)`, and the slot of each of them."""
    counts = np.maximum(last - first + 1, 0)
    begins: npt.NDArray[np.int64] = np.cumsum(counts) - counts
    offsets = np.arange(int(counts.sum())) - np.repeat(begins, counts)
    return np.repeat(slots, counts), np.repeat(first, counts) + offsets
