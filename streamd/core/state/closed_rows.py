"""The closed rows of every server: each is written to its place in the ring, or amended there.

If the process is killed in the middle of a change, `recovery.recover` repairs the arrays. The docstrings of `store_row`
and `amend_row` say what it relies on. Each row has a seal (`seals.py`), by which `rebuilding.py` finds the rows that a
power loss or a bad disk damaged.
"""

from typing import Any

import numpy as np

from streamd.core.state.layout import NamedArrays, make_scalar_view
from streamd.core.state.memory import MemoryStore
from streamd.core.state.rows import PackedRow, copy_cells
from streamd.core.state.seals import FACTOR, NO_SEAL, PRIME, Words, compute_seal
from streamd.core.state.window_columns import CHANGES_MASK, NO_STEP, PRESENT

_read_number = int.from_bytes


class ClosedRows:
    """The rings of all servers, by slot.

    `arrays` and `volatile` are those of the window store. `expected` has a mask for each slot, `seeds (capacity,)` the
    number of its server, which its rows are sealed with. A window is forecast if it really has at least `need` rows.
    `memory` hears when a period ends, and of what changes one that is over.
    """

    # Not a dictionary, from which so many attributes are read in more time.
    __slots__ = (
        "_bytes",
        "_changes",
        "_context_length",
        "_expected",
        "_flat_marks",
        "_full",
        "_have",
        "_journal",
        "_marks",
        "_memory",
        "_need",
        "_newest",
        "_newest_check",
        "_open_step",
        "_period",
        "_ring",
        "_row_bytes",
        "_seal_array",
        "_seals",
        "_seeds",
        "stored",
        "warming",
    )

    def __init__(
        self,
        arrays: NamedArrays,
        volatile: NamedArrays,
        expected: Any,
        seeds: Words,
        need: int,
        memory: MemoryStore | None = None,
    ) -> None:
        _, self._context_length, features = arrays["values"].shape
        self.stored = 0
        """The number of rows that were stored."""
        self.warming = 0
        """Stored rows whose window had too few rows for a forecast."""
        self._need = need
        self._memory = memory
        # Without a memory, a length that no step completes: one test for each row suffices.
        self._period = 2**62 if memory is None else memory.period
        self._ring, self._marks, self._seal_array = arrays["values"], arrays["marks"], arrays["seals"]
        self._bytes = make_scalar_view(self._ring).cast("B")
        self._flat_marks = make_scalar_view(self._marks)
        self._seals = make_scalar_view(self._seal_array)
        self._newest = make_scalar_view(arrays["newest"])
        self._newest_check = make_scalar_view(arrays["newest_check"])
        self._open_step = make_scalar_view(arrays["open_step"])
        self._journal = make_scalar_view(arrays["journal"])
        self._have = make_scalar_view(volatile["have"])
        self._changes = make_scalar_view(volatile["changes"])
        self._seeds = make_scalar_view(seeds)
        self._expected = expected
        self._full = (1 << features) - 1
        self._row_bytes = 4 * features

    def store_row(
        self, slot: int, step: int, newest: int, row: PackedRow, status: int, *, was_open: bool = False
    ) -> int:
        """Store a row as the newest closed one, after `newest`; returns 1 if that makes its server due, else 0.

        The order of the writes matters if the process is killed in between. The journal gets the step first.
        1. Killed before `newest` has the step: if it was the open row, that is still there, and `recover` stores it
           again; if not, its sample was not acknowledged: `recover` forgets it if nothing of it was written, keeps it
           if all was, by its seal, and else empties its place.
        2. Killed after that: the row and its seal are written, and `recover` only completes the check, the open step
           and the journal.
        """
        is_jump = step - newest != 1 and newest != NO_STEP
        if is_jump and self._memory is not None:
            # Before the journal: after a kill in the middle, the ring still has the rows of what was being computed.
            self._memory.note_jump(slot, newest, step)
        changes = self._changes[slot]
        self._changes[slot] = changes + 1
        self._journal[slot] = step
        length = self._context_length
        grown = 2
        if is_jump:
            self._clear_rows(slot, newest + 1, min(step - newest - 1, length))
            grown *= step - newest
        place = slot * length + step % length
        data, mask, mark = row.data, row.mask, status
        was_present = self._flat_marks[place] & PRESENT
        if mask:
            mark |= PRESENT
            self._expected[slot] = mask
        have = self._have[slot]
        if (mark ^ was_present) & PRESENT:
            have += 1 if mask else -1
            self._have[slot] = have
        base = place * self._row_bytes
        self._bytes[base : base + self._row_bytes] = data
        self._flat_marks[place] = mark
        # compute_seal without a call: this is the hot path. A row without a value or a status is as if never sent.
        self._seals[place] = (
            (self._seeds[slot] + (step << 8 | mark) * FACTOR + _read_number(data, "little")) % PRIME + 1
            if mark
            else NO_SEAL
        )
        self._newest[slot] = step
        self._newest_check[slot] = -2 - step  # make_step_check without a call
        if was_open:
            self._open_step[slot] = NO_STEP
        self._journal[slot] = NO_STEP
        self._changes[slot] = (changes + grown) & CHANGES_MASK
        if not (step + 1) % self._period and self._memory is not None:
            self._memory.note_end(slot, step)
        self.stored += 1
        if have >= self._need:
            return 1
        self.warming += 1
        return 0

    def amend_row(self, slot: int, step: int, row: PackedRow, status: int | None) -> None:
        """Write a late or repeated sample into a closed row: the last value of a feature wins.

        If the process is killed in between, `recover` seals the row with the cells that it has then: those that were
        acknowledged, and any of this sample.
        """
        changes = self._changes[slot]
        self._changes[slot] = changes + 1
        self._journal[slot] = step
        last_present = self._find_last_present(slot)
        place = slot * self._context_length + step % self._context_length
        mark = before = self._flat_marks[place]
        if status is not None:
            mark = (mark & PRESENT) | status
        if row.mask:
            mark |= PRESENT
        base = place * self._row_bytes
        copy_cells(row, self._bytes, base, self._full)
        self._flat_marks[place] = mark
        data = self._bytes[base : base + self._row_bytes]
        self._seals[place] = compute_seal(data, self._seeds[slot], step, mark) if mark else NO_SEAL
        self._journal[slot] = NO_STEP
        if mark & ~before & PRESENT:
            self._have[slot] += 1
        if row.mask and step > last_present:
            self._expected[slot] = row.mask
        elif step == last_present:
            self._expected[slot] |= row.mask
        self._changes[slot] = (changes + 2) & CHANGES_MASK
        if self._memory is not None:
            self._memory.note_amended(slot, step, self._newest[slot])

    def _find_last_present(self, slot: int) -> int:
        """Return the step of the newest row of the window that has a value, or `NO_STEP`."""
        newest, length = self._newest[slot], self._context_length
        steps = range(newest, newest - length, -1) if newest != NO_STEP else ()
        return next((step for step in steps if self._flat_marks[slot * length + step % length] & PRESENT), NO_STEP)

    def _clear_rows(self, slot: int, step: int, count: int) -> None:
        """Empty `count` rows from `step` on: steps of which no sample was sent."""
        places = np.arange(step, step + count) % self._context_length
        self._have[slot] -= int(np.count_nonzero(self._marks[slot, places] & PRESENT))
        self._ring[slot, places] = np.nan
        self._marks[slot, places] = 0
        self._seal_array[slot, places] = NO_SEAL
