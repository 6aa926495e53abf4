"""Every server's window of recent rows: rows fill, close, are amended late, and are gathered for a batch.

One structure of arrays. The ring of closed rows is `(slot, 2 x context_length, feature)`, each row written
twice, `context_length` apart, so that any window is one contiguous slice. The row that is still filling lies
beside the ring, so that the window that ends at the newest closed row stays whole until the next one closes.

Every change leaves the arrays such that `recovery.recover` can put them in order if the process is killed in
the middle of it; the comments at `_put` and `_amend` say how.
"""

import numpy as np
import numpy.typing as npt

from streamd.core.arrays import Float32
from streamd.core.contract import MAX_STATUS
from streamd.core.errors import TooOldError
from streamd.core.state.layout import Column, NamedArrays, make_scalar_view
from streamd.core.state.rings import WindowReader
from streamd.core.state.rows import PackedRow, list_columns

NO_STEP = -1
"""No step: steps are counted from 1970 and never negative."""

PRESENT = 0x80
"""In a row's mark, beside its status: at least one feature is there."""

SEALED_STATUSES = tuple(status | (5 * status + 3) % 16 << 4 for status in range(MAX_STATUS + 1))
"""An open row's status as it is stored: beside a number of its own, by which damage is seen."""


def make_step_check(step: int) -> int:
    """What is kept of a step a second time; never 0, which is what files of former versions have there."""
    return -2 - step


def make_window_columns(context_length: int, features: int) -> tuple[Column, ...]:
    """The arrays of a window store."""
    return (
        Column("newest", "<i8"),  # step of the newest closed row
        Column("open_step", "<i8"),  # step of the row that is filling
        Column("journal", "<i8"),  # step of the closed row that is being written this moment
        Column("open_values", "<f4", (features,)),
        Column("open_status", "u1"),  # one of `SEALED_STATUSES`
        Column("marks", "u1", (2 * context_length,)),  # status, and PRESENT
        Column("values", "<f4", (2 * context_length, features)),
        Column("newest_check", "<i8", added=True),  # `make_step_check` the newest step, by which damage of it is seen
        Column("open_check", "<i8", added=True),  # of the step that was opened last
    )


class WindowStore:
    """The windows of all servers, by slot.

    `need` is how many rows a window must really have to be forecast; `late_steps` how far behind its server's
    newest row a sample may lie; `grace_seconds` how long a row may stay open after its first sample.
    """

    def __init__(self, arrays: NamedArrays, *, need: int, late_steps: int, grace_seconds: float) -> None:
        self.capacity, twice, self.features = arrays["values"].shape
        self.context_length = twice // 2
        self.need = need
        self.late_steps = min(late_steps, self.context_length - 1)
        self.grace_seconds = grace_seconds
        self.arrays = arrays
        self.have = [0] * self.capacity
        """Rows that each window really has."""
        self.closed_rows = 0
        self.warming_rows = 0
        """Closed rows whose window had too few rows to be forecast."""
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
        self._open_mask = [0] * self.capacity
        self._opened: dict[int, float] = {}  # open rows, the first opened first
        self._expected = [0] * self.capacity  # features of the previous row that had any
        self._expected_step = [NO_STEP] * self.capacity
        self._full = (1 << self.features) - 1
        self._row_bytes = 4 * self.features

    # ------------------------------------------------------------ servers
    def reset(self, slot: int) -> None:
        """Empty a slot: nothing is closed, nothing open, every value missing."""
        self._newest[slot] = self._open_step[slot] = self._journal[slot] = NO_STEP
        self._newest_check[slot] = self._open_check[slot] = make_step_check(NO_STEP)
        self._ring[slot] = np.nan
        self._marks[slot] = 0
        self.restore_slot(slot, have=0, expected=0, expected_step=NO_STEP)
        self._opened.pop(slot, None)
        self._open_mask[slot] = 0

    def restore_slot(self, slot: int, *, have: int, expected: int, expected_step: int) -> None:
        """Take what was derived from a slot's arrays after a restart."""
        self.have[slot] = have
        self._expected[slot] = expected
        self._expected_step[slot] = expected_step

    def restore_open_row(self, slot: int, mask: int, now: float) -> None:
        """Go on filling a row that a restart found open; its grace begins anew."""
        self._open_mask[slot] = mask
        self._opened[slot] = now

    def drop_open_row(self, slot: int) -> None:
        """Forget the row that was filling (its step is taken from the arrays by the caller)."""
        self._opened.pop(slot, None)
        self._open_mask[slot] = 0

    def get_newest_step(self, slot: int) -> int:
        """The step of the newest closed row, or NONE."""
        return int(self._newest[slot])

    def get_latest_step(self, slot: int) -> int:
        """The step of the newest row, closed or still filling, or NONE: what is too old is judged by it."""
        open_step = int(self._open_step[slot])
        return self.get_newest_step(slot) if open_step == NO_STEP else open_step

    def is_ready(self, slot: int) -> bool:
        """Whether the window has enough rows to be forecast."""
        return self.have[slot] >= self.need

    # ------------------------------------------------------------ samples in
    def write_sample(self, slot: int, step: int, row: PackedRow, status: int | None, now: float) -> int:
        """Take one sample's row at monotonic seconds `now`.

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
                self._amend(slot, step, row, status)
                return 0
            if step < open_step:
                # A row of a step before the open row's is closed as it comes: a later step's sample is here.
                return self._put(slot, step, row.data, row.mask, status or 0)
        due = 0
        if open_step != NO_STEP and step > open_step:
            due = self._close(slot)
            open_step = NO_STEP
        expected = self._expected[slot] or self._full
        if open_step == NO_STEP:
            if row.mask & expected == expected:  # the usual sample: a whole row at once
                return due + self._put(slot, step, row.data, row.mask, status or 0)
            self._open(slot, step, now)
        self._fill(slot, row, status)
        if self._open_mask[slot] & expected == expected:
            due += self._close(slot)
        return due

    def close_overdue_rows(self, now: float) -> list[int]:
        """Close the rows whose grace is over; returns the slots that became due."""
        due = []
        while self._opened:
            slot, opened = next(iter(self._opened.items()))
            if now - opened < self.grace_seconds:
                break
            if self._close(slot):
                due.append(slot)
        return due

    def get_next_deadline(self) -> float | None:
        """When the next open row's grace is over (monotonic seconds); none where no row is open."""
        opened = next(iter(self._opened.values()), None)
        return None if opened is None else opened + self.grace_seconds

    def _open(self, slot: int, step: int, now: float) -> None:
        # Emptied before it has a step: what a restart finds open holds nothing of an older row.
        self.arrays["open_values"][slot] = np.nan
        self._open_status[slot] = SEALED_STATUSES[0]
        self._open_check[slot] = make_step_check(step)
        self._open_step[slot] = step
        self._open_mask[slot] = 0
        self._opened[slot] = now

    def _fill(self, slot: int, row: PackedRow, status: int | None) -> None:
        self._copy_cells(row, self._open_bytes, slot * self._row_bytes)
        if status is not None:
            self._open_status[slot] = SEALED_STATUSES[status]
        self._open_mask[slot] |= row.mask

    def _close(self, slot: int) -> int:
        base = slot * self._row_bytes
        data = self._open_bytes[base : base + self._row_bytes]
        step, status = self._open_step[slot], self._open_status[slot] & MAX_STATUS
        del self._opened[slot]
        return self._put(slot, step, data, self._open_mask[slot], status)

    def _put(self, slot: int, step: int, data: bytes | memoryview, mask: int, status: int) -> int:
        """Make a row's `data` the newest closed row; returns 1 if that makes its server due.

        The journal names the step first. Killed before `newest` moved, the open row is still there and is put
        again; a row that was not the open one was not acked, and its place is emptied.
        """
        self._journal[slot] = step
        length = self.context_length
        newest = self._newest[slot]
        if newest != NO_STEP and step - newest > 1:
            self._clear(slot, newest + 1, min(step - newest - 1, length))
        first = slot * 2 * length + step % length
        if self._flat_marks[first] & PRESENT:
            self.have[slot] -= 1
        mark = status | PRESENT if mask else status
        for place in (first, first + length):
            base = place * self._row_bytes
            self._bytes[base : base + self._row_bytes] = data
            self._flat_marks[place] = mark
        self._newest[slot] = step
        self._newest_check[slot] = -2 - step  # check_of, without the call
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

    def _amend(self, slot: int, step: int, row: PackedRow, status: int | None) -> None:
        """Write a late or repeated sample into a closed row: the last value of a feature wins.

        The first copy is written before the second. Killed between them, the first is copied over.
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
        self._journal[slot] = NO_STEP
        if mark & ~before & PRESENT:
            self.have[slot] += 1
        if row.mask and step > self._expected_step[slot]:
            self._expected[slot], self._expected_step[slot] = row.mask, step
        elif step == self._expected_step[slot]:
            self._expected[slot] |= row.mask

    def _clear(self, slot: int, step: int, count: int) -> None:
        """Empty `count` rows from `step` on: a gap."""
        places = np.arange(step, step + count) % self.context_length
        self.have[slot] -= int(np.count_nonzero(self._marks[slot, places] & PRESENT))
        for copy in (places, places + self.context_length):
            self._ring[slot, copy] = np.nan
            self._marks[slot, copy] = 0

    def _copy_cells(self, row: PackedRow, to: memoryview, base: int) -> None:
        """Copy the values that are there over the row that begins at byte `base`."""
        if row.mask == self._full:
            to[base : base + self._row_bytes] = row.data
            return
        for column in list_columns(row.mask):
            at = 4 * column
            to[base + at : base + at + 4] = row.data[at : at + 4]

    # ------------------------------------------------------------ windows out
    def gather_window(self, slot: int, values: Float32, status: npt.NDArray[np.int32]) -> None:
        """Copy a window, oldest row first.

        `values (context_length, features) float32` gets NaN where a value is missing, `status (context_length,)
        int32` the rows' statuses.
        """
        length = self.context_length
        start = (self._newest[slot] + 1) % length
        values[:] = self._ring[slot, start : start + length]
        np.bitwise_and(self._marks[slot, start : start + length], MAX_STATUS, out=status)

    def gather_windows(self, slots: npt.NDArray[np.int64], values: Float32, status: npt.NDArray[np.int32]) -> None:
        """Copy the windows of `slots (n,)`, each as `gather` does.

        `values (n, context_length, features) float32`, contiguous, and `status (n, context_length) int32` are written
        whole. From about seven windows on this is quicker than one by one, and among busy threads far more so: the GIL
        is let go of a few times, not once a window. Quickest where slots of the same newest step stand together.
        """
        places = (self.arrays["newest"][slots] + 1) % self.context_length
        marks = self._rings.read_windows(slots, places, values)
        # Masked in place and then widened: a third of the time that one step through numpy's casting buffer takes.
        np.bitwise_and(marks, MAX_STATUS, out=marks)
        status[:] = marks
