"""The window of recent rows of every server: rows fill, close, are amended late, and are gathered for a batch.

Touches neither files nor the clock: it is given arrays, and time is a parameter.

The ring of closed rows is `(slot, 2 x context_length, feature)`. Each row is written twice, `context_length` apart, so
that every window is one contiguous slice. With a context length of 4 and step 9 the newest, a slot's ring is:

    place    0   1   2   3 | 4   5   6   7
    step     8   9   6   7 | 8   9   6   7      place of a step: step % 4, and 4 further on
                     ^-----------^              the window of steps 6 to 9 begins at (9 + 1) % 4 = 2

The row that still fills lies beside the ring, so that the window that ends at the newest closed row stays whole until
the next row closes.

If the process is killed in the middle of a change, `recovery.recover` repairs the arrays. The docstrings of
`_store_closed` and `_amend_closed` say what it relies on. Each row has a seal (`seals.py`), by which `rebuilding.py`
finds the rows that a power loss or a bad disk damaged.
"""

from zlib import crc32

import numpy as np
import numpy.typing as npt

from streamd.core.arrays import Float32
from streamd.core.contract import MAX_STATUS
from streamd.core.errors import TooOldError
from streamd.core.state.layout import Column, NamedArrays, make_scalar_view
from streamd.core.state.rings import WindowReader
from streamd.core.state.rows import PackedRow, iterate_columns
from streamd.core.state.seals import NO_SEAL, mix_seed

NO_STEP = -1
"""The step of a row that does not exist; steps are counted from 1970 and are never negative."""

PRESENT = 0x80
"""The bit of a row's mark that is set if the row has a value of at least one feature; the low bits are its status."""

SEALED_STATUSES = tuple(status | (5 * status + 3) % 16 << 4 for status in range(MAX_STATUS + 1))
"""The stored form of each status of an open row: the low bits are the status, the high bits a number that belongs to
it. Any other byte is damage."""


def make_step_check(step: int) -> int:
    """Return the second stored form of a step, by which damage of the first is detected.

    It is never 0: that is in files of earlier versions, which had no such column.
    """
    return -2 - step


def make_window_columns(context_length: int, features: int) -> tuple[Column, ...]:
    """Return the columns of a window store."""
    return (
        Column("newest", "<i8"),  # step of the newest closed row, or NO_STEP
        Column("open_step", "<i8"),  # step of the row that fills, or NO_STEP
        Column("journal", "<i8"),  # step of the closed row that is being written, or NO_STEP
        Column("open_values", "<f4", (features,)),
        Column("open_status", "u1"),  # one of SEALED_STATUSES
        Column("marks", "u1", (2 * context_length,)),  # the status of each row, and PRESENT
        Column("values", "<f4", (2 * context_length, features)),
        Column("newest_check", "<i8", added=1),  # make_step_check(newest)
        Column("open_check", "<i8", added=1),  # make_step_check(the step that was opened last)
        Column("seals", "<u4", (context_length,), added=2),  # the seal of each closed row, or NO_SEAL
        Column("open_seal", "<u4", added=2),  # the seal of the open row; NO_SEAL while it is being changed
    )


class WindowStore:
    """The windows of all servers, by slot.

    A window is forecast if it really has at least `need` rows. A sample may lie `late_steps` behind its server's newest
    row. A row may stay open for `grace_seconds` after its first sample. `need` and `have` are the words of the wire.
    `seeds` has a number of the server of each slot, which its rows are sealed with; its owner changes it.
    """

    def __init__(
        self,
        arrays: NamedArrays,
        *,
        need: int,
        late_steps: int,
        grace_seconds: float,
        seeds: list[int] | None = None,
    ) -> None:
        self.capacity, twice, self.features = arrays["values"].shape
        self.context_length = twice // 2
        self.need = need
        self.late_steps = min(late_steps, self.context_length - 1)
        self.grace_seconds = grace_seconds
        self.arrays = arrays
        self.seeds = [0] * self.capacity if seeds is None else seeds
        self.have = [0] * self.capacity
        """The number of rows that each window really has."""
        self.closed_rows = 0
        self.warming_rows = 0
        """Closed rows whose window had too few rows for a forecast."""
        self._ring = arrays["values"]
        self._marks = arrays["marks"]
        self._rings = WindowReader(self._ring, self._marks)
        self._bytes = make_scalar_view(self._ring).cast("B")
        self._flat_marks = make_scalar_view(self._marks)
        self._newest = make_scalar_view(arrays["newest"])
        self._open_step = make_scalar_view(arrays["open_step"])
        self._journal = make_scalar_view(arrays["journal"])
        self._newest_check = make_scalar_view(arrays["newest_check"])
        self._open_check = make_scalar_view(arrays["open_check"])
        self._open_bytes = make_scalar_view(arrays["open_values"]).cast("B")
        self._open_status = make_scalar_view(arrays["open_status"])
        self._seals = make_scalar_view(arrays["seals"])
        self._open_seal = make_scalar_view(arrays["open_seal"])
        self._open_mask = [0] * self.capacity
        self._opened: dict[int, float] = {}  # when each open row got its first sample, oldest first
        self._expected = [0] * self.capacity  # mask of the newest row that had any feature
        self._expected_step = [NO_STEP] * self.capacity
        self._full = (1 << self.features) - 1
        self._row_bytes = 4 * self.features

    # ------------------------------------------------------------ servers
    def reset(self, slot: int) -> None:
        """Empty a slot: no row is closed, none is open, and every value is missing."""
        self._newest[slot] = self._open_step[slot] = self._journal[slot] = NO_STEP
        self._newest_check[slot] = self._open_check[slot] = make_step_check(NO_STEP)
        self._ring[slot] = np.nan
        self._marks[slot] = 0
        self.arrays["seals"][slot] = NO_SEAL
        self._open_seal[slot] = NO_SEAL
        self.restore_slot(slot, have=0, expected=0, expected_step=NO_STEP)
        self._opened.pop(slot, None)
        self._open_mask[slot] = 0

    def restore_slot(self, slot: int, *, have: int, expected: int, expected_step: int) -> None:
        """Set what is kept in memory only, as it was derived from the arrays of a slot after a restart."""
        self.have[slot] = have
        self._expected[slot] = expected
        self._expected_step[slot] = expected_step

    def restore_open_row(self, slot: int, mask: int, now: float) -> None:
        """Continue to fill a row that a restart found open; its grace begins again at `now`."""
        self._open_mask[slot] = mask
        self._opened[slot] = now

    def drop_open_row(self, slot: int) -> None:
        """Forget the open row; the caller removes its step from the arrays."""
        self._opened.pop(slot, None)
        self._open_mask[slot] = 0

    def get_newest_step(self, slot: int) -> int:
        """Return the step of the newest closed row, or `NO_STEP`."""
        return int(self._newest[slot])

    def get_latest_step(self, slot: int) -> int:
        """Return the step of the newest row, closed or open, or `NO_STEP`. It decides which samples are too old."""
        open_step = int(self._open_step[slot])
        return self.get_newest_step(slot) if open_step == NO_STEP else open_step

    def read_row(self, slot: int, step: int) -> Float32:
        """Return a view of a closed row, `(features,)`; the step must be one of the slot's window."""
        row: Float32 = self._ring[slot, step % self.context_length]
        return row

    def is_ready(self, slot: int) -> bool:
        """Whether the window has enough rows for a forecast."""
        return self.have[slot] >= self.need

    # ------------------------------------------------------------ samples in
    def write_sample(self, slot: int, step: int, row: PackedRow, status: int | None, now: float) -> int:
        """Write the row of one sample at monotonic seconds `now`.

        Returns how many rows became due by it (0, 1 or 2). Raises `TooOldError`, and changes nothing, if `step` lies
        more than `late_steps` behind the server's newest row, closed or open.
        """
        open_step = self._open_step[slot]
        newest = self._newest[slot]
        latest = newest if open_step == NO_STEP else open_step
        if step <= latest:
            if latest - step > self.late_steps:
                raise TooOldError(f"step {step} is {latest - step} behind {latest}, expected at most {self.late_steps}")
            if step <= newest:
                self._amend_closed(slot, step, row, status)
                return 0
            if step < open_step:
                # A row before the open one is closed at once: a sample of a later step is already there.
                return self._store_closed(slot, step, row.data, row.mask, status or 0)
        due = 0
        if open_step != NO_STEP and step > open_step:
            due = self._close_row(slot)
            open_step = NO_STEP
        expected = self._expected[slot] or self._full
        if open_step == NO_STEP:
            if row.mask & expected == expected:  # the usual sample: a complete row
                return due + self._store_closed(slot, step, row.data, row.mask, status or 0)
            self._open_row(slot, step, now)
        self._fill_open_row(slot, row, status)
        if self._open_mask[slot] & expected == expected:
            due += self._close_row(slot)
        return due

    def write_row(self, slot: int, step: int, row: PackedRow, status: int | None = None) -> int:
        """Write a row whose step is over: it closes at once, or amends the row that is closed already.

        Returns how many rows became due by it. Raises `TooOldError` as `write_sample` does.
        """
        open_step, newest = self._open_step[slot], self._newest[slot]
        latest = newest if open_step == NO_STEP else open_step
        if latest - step > self.late_steps:
            raise TooOldError(f"step {step} is {latest - step} behind {latest}, expected at most {self.late_steps}")
        if step <= newest:
            self._amend_closed(slot, step, row, status)
            return 0
        if open_step == step:
            self._fill_open_row(slot, row, status)
            return self._close_row(slot)
        due = self._close_row(slot) if NO_STEP != open_step < step else 0
        return due + self._store_closed(slot, step, row.data, row.mask, status or 0)

    def close_overdue_rows(self, now: float) -> list[int]:
        """Close the rows whose grace is over; returns the slots that became due by it."""
        due = []
        while self._opened:
            slot, opened = next(iter(self._opened.items()))
            if now - opened < self.grace_seconds:
                break
            if self._close_row(slot):
                due.append(slot)
        return due

    def get_next_deadline(self) -> float | None:
        """Return when the grace of the next open row is over (monotonic seconds), or None if no row is open."""
        opened = next(iter(self._opened.values()), None)
        return None if opened is None else opened + self.grace_seconds

    def _open_row(self, slot: int, step: int, now: float) -> None:
        # The values are emptied before the step is set: a row that a restart finds open has none of an older row.
        self._open_seal[slot] = NO_SEAL
        self.arrays["open_values"][slot] = np.nan
        self._open_status[slot] = SEALED_STATUSES[0]
        self._open_check[slot] = make_step_check(step)
        self._open_step[slot] = step
        self._open_mask[slot] = 0
        self._opened[slot] = now

    def _fill_open_row(self, slot: int, row: PackedRow, status: int | None) -> None:
        # Without a seal while it changes: after a kill in between, the row has some of the cells, and no false seal.
        self._open_seal[slot] = NO_SEAL
        base = slot * self._row_bytes
        self._copy_cells(row, self._open_bytes, base)
        if status is not None:
            self._open_status[slot] = SEALED_STATUSES[status]
        self._open_mask[slot] |= row.mask
        start = mix_seed(self.seeds[slot], self._open_step[slot], self._open_status[slot])
        self._open_seal[slot] = crc32(self._open_bytes[base : base + self._row_bytes], start) or 1

    def _close_row(self, slot: int) -> int:
        base = slot * self._row_bytes
        data = self._open_bytes[base : base + self._row_bytes]
        step, status = self._open_step[slot], self._open_status[slot] & MAX_STATUS
        del self._opened[slot]
        return self._store_closed(slot, step, data, self._open_mask[slot], status)

    def _store_closed(self, slot: int, step: int, data: bytes | memoryview, mask: int, status: int) -> int:
        """Store `data` as the newest closed row; returns 1 if that makes its server due, else 0.

        The order of the writes matters if the process is killed in between. The journal gets the step first.
        1. Killed before `newest` has the step: if it was the open row, that is still there, and `recover` stores it
           again; if not, its sample was not acknowledged, and `recover` empties its place.
        2. Killed after that: both copies are written, and `recover` only completes the checks, the open step and the
           journal.
        """
        self._journal[slot] = step
        length = self.context_length
        newest = self._newest[slot]
        if newest != NO_STEP and step - newest > 1:
            self._clear_rows(slot, newest + 1, min(step - newest - 1, length))
        place_of_seal = slot * length + step % length
        first = place_of_seal + slot * length
        if self._flat_marks[first] & PRESENT:
            self.have[slot] -= 1
        mark = status | PRESENT if mask else status
        for place in (first, first + length):
            base = place * self._row_bytes
            self._bytes[base : base + self._row_bytes] = data
            self._flat_marks[place] = mark
        # mix_seed without a call, as below. A row without a value or a status is as if it was never sent.
        self._seals[place_of_seal] = (crc32(data, self.seeds[slot] ^ step ^ mark << 24) or 1) if mark else NO_SEAL
        self._newest[slot] = step
        self._newest_check[slot] = -2 - step  # make_step_check without a call: this is the hot path
        if self._open_step[slot] == step:
            self._open_step[slot] = NO_STEP
        self._journal[slot] = NO_STEP
        if mask:
            self.have[slot] += 1
            self._expected[slot] = mask
            self._expected_step[slot] = step
        self.closed_rows += 1
        if self.have[slot] >= self.need:
            return 1
        self.warming_rows += 1
        return 0

    def _amend_closed(self, slot: int, step: int, row: PackedRow, status: int | None) -> None:
        """Write a late or repeated sample into a closed row: the last value of a feature wins.

        The first copy in the ring is written before the second. If the process is killed between them, `recover`
        copies the first over the second.
        """
        self._journal[slot] = step
        length = self.context_length
        first = slot * 2 * length + step % length
        mark = before = self._flat_marks[first]
        if status is not None:
            mark = (mark & PRESENT) | status
        if row.mask:
            mark |= PRESENT
        for place in (first, first + length):
            self._copy_cells(row, self._bytes, place * self._row_bytes)
            self._flat_marks[place] = mark
        base = first * self._row_bytes
        start = mix_seed(self.seeds[slot], step, mark)
        seal = (crc32(self._bytes[base : base + self._row_bytes], start) or 1) if mark else NO_SEAL
        self._seals[slot * length + step % length] = seal
        self._journal[slot] = NO_STEP
        if mark & ~before & PRESENT:
            self.have[slot] += 1
        if row.mask and step > self._expected_step[slot]:
            self._expected[slot], self._expected_step[slot] = row.mask, step
        elif step == self._expected_step[slot]:
            self._expected[slot] |= row.mask

    def _clear_rows(self, slot: int, step: int, count: int) -> None:
        """Empty `count` rows from `step` on: steps of which no sample was sent."""
        places = np.arange(step, step + count) % self.context_length
        self.have[slot] -= int(np.count_nonzero(self._marks[slot, places] & PRESENT))
        for copy in (places, places + self.context_length):
            self._ring[slot, copy] = np.nan
            self._marks[slot, copy] = 0
        self.arrays["seals"][slot, places] = NO_SEAL

    def _copy_cells(self, row: PackedRow, to: memoryview, base: int) -> None:
        """Copy the values that a row has over the row that begins at byte `base` of `to`."""
        if row.mask == self._full:
            to[base : base + self._row_bytes] = row.data
            return
        for column in iterate_columns(row.mask):
            at = 4 * column
            to[base + at : base + at + 4] = row.data[at : at + 4]

    # ------------------------------------------------------------ windows out
    def gather_window(self, slot: int, values: Float32, status: npt.NDArray[np.int32]) -> None:
        """Copy a window, oldest row first.

        Writes all of `values (context_length, features) float32`, with NaN for a missing value, and the status of each
        row to `status (context_length,) int32`.
        """
        length = self.context_length
        start = (self._newest[slot] + 1) % length
        values[:] = self._ring[slot, start : start + length]
        np.bitwise_and(self._marks[slot, start : start + length], MAX_STATUS, out=status)

    def gather_windows(self, slots: npt.NDArray[np.int64], values: Float32, status: npt.NDArray[np.int32]) -> None:
        """Copy the windows of `slots (n,)`, each as `gather_window` does.

        Writes all of `values (n, context_length, features) float32`, which must be contiguous, and of `status
        (n, context_length) int32`. From about seven windows on this is quicker than one by one, and much more so
        among busy threads: the GIL is released a few times, not once a window. It is quickest if slots with the same
        newest step are neighbours.
        """
        places = (self.arrays["newest"][slots] + 1) % self.context_length
        marks = self._rings.read_windows(slots, places, values)
        # Masked in place, then widened: this takes a third of the time of one step through numpy's casting buffer.
        np.bitwise_and(marks, MAX_STATUS, out=marks)
        status[:] = marks
