"""The window of recent rows of every server: rows fill, close, are amended late, and are gathered for a batch.

Touches neither files nor the clock: it is given arrays, and time is a parameter.

What is derived from the arrays lies in arrays too, which other processes may share. Such a process reads `changes`,
copies a window, and takes the copy only if `find_torn` says that nothing changed meanwhile.

`window_columns.py` draws the arrays, `closed_rows.py` writes the rows that are closed and says what a restart after a
kill relies on.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from streamd.core.arrays import Float32, Slots
from streamd.core.contract import MAX_STATUS
from streamd.core.errors import TooOldError
from streamd.core.state.closed_rows import ClosedRows
from streamd.core.state.filling_rows import FillingRows
from streamd.core.state.layout import NamedArrays, make_scalar_view, make_zeros
from streamd.core.state.memory import MemoryStore
from streamd.core.state.rings import WindowReader
from streamd.core.state.rows import PackedRow
from streamd.core.state.seals import NO_SEAL, Words
from streamd.core.state.window_columns import (
    CHANGES_MASK,
    MAX_MASK_FEATURES,
    NO_STEP,
    make_step_check,
    make_volatile_columns,
)

_EMPTY_CELLS = {
    "newest": NO_STEP,
    "open_step": NO_STEP,
    "journal": NO_STEP,
    "newest_check": make_step_check(NO_STEP),
    "open_check": make_step_check(NO_STEP),
    "values": np.nan,
    "marks": 0,
    "seals": NO_SEAL,
    "open_seal": NO_SEAL,
}
"""What an empty slot has in each column, in the order of the writes."""


class WindowStore:
    """The windows of all servers, by slot.

    A window is forecast if it really has at least `need` rows. A sample may lie `late_steps` behind its server's newest
    row. A row may stay open for `grace_seconds` after its first sample. `need` and `have` are the words of the wire.
    `seeds (capacity,)` has a number of the server of each slot, which its rows are sealed with; its owner changes it.
    `volatile` are arrays of `make_volatile_columns`, without them the store makes its own. `memory` keeps the means of
    what is written here.
    """

    # Not a dictionary, from which so many attributes are read in more time.
    __slots__ = (
        "_changes",
        "_closed",
        "_expected",
        "_filling",
        "_full",
        "_newest",
        "_open_step",
        "_rings",
        "arrays",
        "capacity",
        "context_length",
        "features",
        "grace_seconds",
        "have",
        "late_steps",
        "memory",
        "need",
        "seeds",
        "volatile",
    )

    def __init__(
        self,
        arrays: NamedArrays,
        *,
        need: int,
        late_steps: int,
        grace_seconds: float,
        seeds: Words | None = None,
        volatile: NamedArrays | None = None,
        memory: MemoryStore | None = None,
    ) -> None:
        self.memory = memory
        self.capacity, self.context_length, self.features = arrays["values"].shape
        self.need = need
        self.late_steps = min(late_steps, self.context_length - 1)
        self.grace_seconds = grace_seconds
        self.arrays = arrays
        self.volatile = make_zeros(make_volatile_columns(), self.capacity) if volatile is None else volatile
        self.seeds = np.zeros(self.capacity, np.uint32) if seeds is None else seeds
        self.have = make_scalar_view(self.volatile["have"])
        """The number of rows that each window really has; as an array, `volatile["have"]`."""
        self._rings = WindowReader(arrays["values"], arrays["marks"])
        self._newest = make_scalar_view(arrays["newest"])
        self._open_step = make_scalar_view(arrays["open_step"])
        self._changes = make_scalar_view(self.volatile["changes"])
        self._expected = self._make_masks("expected")
        self._full = (1 << self.features) - 1
        self._filling = FillingRows(arrays, self._make_masks("open_mask"), self.seeds)
        self._closed = ClosedRows(arrays, self.volatile, self._expected, self.seeds, need, memory)

    def _make_masks(self, name: str) -> Any:
        if self.features > MAX_MASK_FEATURES:
            return [0] * self.capacity
        return make_scalar_view(self.volatile[name])

    @property
    def has_mask_arrays(self) -> bool:
        """Whether `expected` and `open_mask` are in the volatile arrays: the masks of so many features fit."""
        return bool(self.features <= MAX_MASK_FEATURES)

    @property
    def closed_rows(self) -> int:
        """The number of rows that were closed."""
        return self._closed.stored

    @property
    def warming_rows(self) -> int:
        """Closed rows whose window had too few rows for a forecast."""
        return self._closed.warming

    def count_closed(self, rows: int, due: int) -> None:
        """Count rows that were closed together, `due` of them with enough rows for a forecast."""
        self._closed.stored += rows
        self._closed.warming += rows - due

    def reset_counts(self) -> None:
        """Begin to count closed rows anew."""
        self._closed.stored = self._closed.warming = 0

    # ------------------------------------------------------------ servers
    def reset(self, slot: int) -> None:
        """Empty a slot: no row is closed, none is open, and every value is missing."""
        self.begin_change(slot)
        for name, empty in _EMPTY_CELLS.items():
            self.arrays[name][slot] = empty
        self.restore_slot(slot, have=0, expected=0)
        self.drop_open_row(slot)
        if self.memory is not None:
            self.memory.reset(slot)

    def begin_change(self, slot: int) -> None:
        """Let readers in other processes know that a window is being changed; `restore_slot` ends it."""
        self._changes[slot] |= 1

    def restore_slot(self, slot: int, *, have: int, expected: int) -> None:
        """Set what is in memory only, as it was derived from the arrays of a slot; ends a change of its window."""
        self.have[slot] = have
        self._expected[slot] = expected
        self._changes[slot] = ((self._changes[slot] | 1) + 1) & CHANGES_MASK

    def restore_open_row(self, slot: int, mask: int, now: float) -> None:
        """Continue to fill a row that a restart found open; its grace begins again at `now`."""
        self._filling.restore_row(slot, mask, now)

    def drop_open_row(self, slot: int) -> None:
        """Forget the open row; the caller removes its step from the arrays."""
        self._filling.drop_row(slot)

    def get_newest_step(self, slot: int) -> int:
        """Return the step of the newest closed row, or `NO_STEP`."""
        return int(self._newest[slot])

    def get_latest_step(self, slot: int) -> int:
        """Return the step of the newest row, closed or open, or `NO_STEP`. It decides which samples are too old."""
        open_step = int(self._open_step[slot])
        return self.get_newest_step(slot) if open_step == NO_STEP else open_step

    def read_row(self, slot: int, step: int) -> Float32:
        """Return a view of a closed row, `(features,)`; the step must be one of the slot's window."""
        row: Float32 = self.arrays["values"][slot, step % self.context_length]
        return row

    def read_changes(self, slots: Slots) -> Words:
        """Return the number of changes of each slot, for `find_torn`."""
        changes: Words = self.volatile["changes"][slots]
        return changes

    def find_torn(self, slots: Slots, changes: Words) -> npt.NDArray[np.bool_]:
        """Return for each slot whether its window may have changed since `changes` was read.

        A reader in another process reads `changes`, gathers, and calls this. It relies on a processor that shows the
        stores of another core in their order, as x86-64 does.
        """
        torn: npt.NDArray[np.bool_] = (changes & 1 != 0) | (self.volatile["changes"][slots] != changes)
        return torn

    def is_ready(self, slot: int) -> bool:
        """Whether the window has enough rows for a forecast."""
        return bool(self.have[slot] >= self.need)

    # ------------------------------------------------------------ samples in
    def write_sample(self, slot: int, step: int, row: PackedRow, status: int | None, now: float) -> int:
        """Write the row of one sample at monotonic seconds `now`.

        Returns how many rows became due by it (0, 1 or 2). Raises `TooOldError`, and changes nothing, if `step` lies
        more than `late_steps` behind the server's newest row, closed or open.
        """
        open_step, newest = self._open_step[slot], self._newest[slot]
        if open_step == NO_STEP and step > newest:
            expected = self._expected[slot] or self._full
            if row.mask & expected == expected:  # the usual sample: a complete row, and no other is open
                return self._closed.store_row(slot, step, newest, row, status or 0)
        latest = newest if open_step == NO_STEP else open_step
        if step > latest or step == open_step:
            return self._write_latest(slot, step, row, status, now)
        self._check_age(step, latest)
        if step <= newest:
            self._closed.amend_row(slot, step, row, status)
            return 0
        # A row before the open one is closed at once: a sample of a later step is already there.
        return self._closed.store_row(slot, step, newest, row, status or 0)

    def _write_latest(self, slot: int, step: int, row: PackedRow, status: int | None, now: float) -> int:
        """Write a sample of the open row or of a later step, which closes the open one."""
        due, open_step = 0, self._open_step[slot]
        if open_step != NO_STEP and step > open_step:
            due = self._close_row(slot)
            open_step = NO_STEP
        expected = self._expected[slot] or self._full
        if open_step == NO_STEP:
            if row.mask & expected == expected:
                return due + self._closed.store_row(slot, step, self._newest[slot], row, status or 0)
            self._filling.open_row(slot, step, now)
        self._filling.fill_row(slot, row, status)
        if self._filling.masks[slot] & expected == expected:
            due += self._close_row(slot)
        return due

    def _check_age(self, step: int, latest: int) -> None:
        if latest - step > self.late_steps:
            raise TooOldError(f"step {step} is {latest - step} behind {latest}, expected at most {self.late_steps}")

    def write_row(self, slot: int, step: int, row: PackedRow, status: int | None = None) -> int:
        """Write a row whose step is over: it closes at once, or amends the row that is closed already.

        Returns how many rows became due by it. Raises `TooOldError` as `write_sample` does.
        """
        open_step, newest = self._open_step[slot], self._newest[slot]
        latest = newest if open_step == NO_STEP else open_step
        self._check_age(step, latest)
        if step <= newest:
            self._closed.amend_row(slot, step, row, status)
            return 0
        if open_step == step:
            self._filling.fill_row(slot, row, status)
            return self._close_row(slot)
        due = self._close_row(slot) if NO_STEP != open_step < step else 0
        return due + self._closed.store_row(slot, step, self._newest[slot], row, status or 0)

    def close_overdue_rows(self, now: float) -> list[int]:
        """Close the rows whose grace is over; returns the slots that became due by it."""
        due = []
        while (oldest := self._filling.find_oldest()) and now - oldest[1] >= self.grace_seconds:
            if self._close_row(oldest[0]):
                due.append(oldest[0])
        return due

    def get_next_deadline(self) -> float | None:
        """Return when the grace of the next open row is over (monotonic seconds), or None if no row is open."""
        oldest = self._filling.find_oldest()
        return None if oldest is None else oldest[1] + self.grace_seconds

    def _close_row(self, slot: int) -> int:
        row, status = self._filling.take_row(slot)
        return self._closed.store_row(slot, self._open_step[slot], self._newest[slot], row, status, was_open=True)

    # ------------------------------------------------------------ windows out
    def gather_window(self, slot: int, values: Float32, status: npt.NDArray[np.int32]) -> None:
        """Copy a window, oldest row first.

        Writes all of `values (context_length, features) float32`, with NaN for a missing value, and the status of each
        row to `status (context_length,) int32`.
        """
        start = (self._newest[slot] + 1) % self.context_length
        count = self.context_length - start
        values[:count], values[count:] = self.arrays["values"][slot, start:], self.arrays["values"][slot, :start]
        statuses = self.arrays["marks"][slot] & MAX_STATUS
        status[:count], status[count:] = statuses[start:], statuses[:start]

    def gather_windows(self, slots: Slots, values: Float32, status: npt.NDArray[np.int32]) -> None:
        """Copy the windows of `slots (n,)`, each as `gather_window` does.

        Writes all of `values (n, context_length, features) float32`, which must be contiguous, and of `status
        (n, context_length) int32`. From about seven windows on this is quicker than one by one, and most of all if
        many slots with the same newest step are neighbours.
        """
        places = (self.arrays["newest"][slots] + 1) % self.context_length
        marks = self._rings.read_windows(slots, places, values)
        # Masked in place, then widened: this takes a third of the time of one step through numpy's casting buffer.
        np.bitwise_and(marks, MAX_STATUS, out=marks)
        status[:] = marks
