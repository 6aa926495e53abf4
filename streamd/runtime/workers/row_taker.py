"""Writes the rows that workers hand on to the owner of their servers, if nothing about them is unusual."""

import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from streamd.core.errors import TooOldError
from streamd.core.state.layout import make_scalar_view
from streamd.core.state.mixed_rows import find_whole_next_rows, write_whole_rows
from streamd.core.state.row_frames import Booleans, view_columns
from streamd.core.state.rows import PackedRow
from streamd.runtime.due_batch import DueBatch
from streamd.runtime.ingest import Ingest
from streamd.runtime.state.state import State
from streamd.runtime.workers.messages import HandOnRows
from streamd.runtime.workers.parcels import NO_STATUS

MIN_ROWS_TOGETHER = 20
"""Fewer rows are quicker one by one: 20 take 36 us, as many as the array operations for a few rows."""


class RowTaker:
    """Writes rows into the windows of a state; `checks` are the checksums of the names that are known here, by slot."""

    def __init__(
        self,
        state: State,
        ingest: Ingest,
        checks: npt.NDArray[np.uint32],
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._state = state
        self._columns = view_columns(state.windows)
        self._ingest = ingest
        self._checks = checks
        self._scalar_checks: Any = make_scalar_view(checks)
        self._due = DueBatch(ingest.rows_due)
        self._wall = wall
        self._ahead = state.ahead.contradicted_since
        self._features = len(state.contract.features)

    def take(self, message: HandOnRows) -> list[int]:
        """Write rows; returns the places of the others, which have to be taken by the names of their servers.

        That are rows whose slot has another server meanwhile, rows that are too old, and those of servers ahead of
        the clock; and all rows while nothing can be written.
        """
        count = len(message.slots) // 8
        if self._state.can_run_short and self._state.find_shortage() is not None:
            return list(range(count))
        left: Iterable[int] = range(count)
        if count >= MIN_ROWS_TOGETHER and not (message.masks or message.statuses or self._ahead):
            left = self._write_together(message)
        try:
            others = self._write_each(message, left)
        finally:
            self._due.flush()
        self._ingest.accepted += count - len(others)
        return others

    def _write_together(self, message: HandOnRows) -> list[int]:
        """Write the rows of the next steps with array operations; returns the places of the others."""
        state, slots = self._state, np.frombuffer(message.slots, np.int64)
        if not state.windows.has_mask_arrays:
            return list(range(len(slots)))
        steps = (np.frombuffer(message.times, np.float64) // state.contract.step_seconds).astype(np.int64)
        chosen = find_whole_next_rows(state.windows, slots, steps)
        chosen &= self._checks[slots] == np.frombuffer(message.checks, np.uint32)
        if len(set(slots.tolist())) < len(slots):
            chosen &= _find_first(slots)
        count = int(np.count_nonzero(chosen))
        if count < MIN_ROWS_TOGETHER:
            return list(range(len(slots)))
        rows = np.frombuffer(message.rows, np.float32).reshape(-1, self._features)
        if count < len(slots):
            others: list[int] = np.flatnonzero(~chosen).tolist()
            slots, steps, rows = slots[chosen], steps[chosen], rows[chosen]
        else:
            others = []
        due = write_whole_rows(state.windows, self._columns, slots, steps, rows)
        state.directory.touch_many(slots, self._wall())
        if len(due):
            self._ingest.rows_due.mark_due_many(due)
        return others

    def _write_each(self, message: HandOnRows, places: Iterable[int]) -> list[int]:
        """Write rows one by one, in their order; returns the places of the others."""
        wall, now, size, full = self._wall(), time.monotonic(), 4 * self._features, (1 << self._features) - 1
        state, known, ahead, masks = self._state, self._scalar_checks, self._ahead, message.masks
        write, touch, to_step = state.windows.write_sample, state.directory.touch, state.contract.to_step
        slots, checks = memoryview(message.slots).cast("q"), memoryview(message.checks).cast("I")
        times, rows, statuses, others = memoryview(message.times).cast("d"), message.rows, message.statuses, []
        for place in places:
            slot = slots[place]
            if known[slot] != checks[place] or slot in ahead:
                others.append(place)
                continue
            row = PackedRow(rows[place * size : place * size + size], masks.get(place, full))
            status = statuses.get(place, NO_STATUS)
            try:
                due = write(slot, to_step(times[place]), row, None if status == NO_STATUS else status, now)
            except TooOldError:
                others.append(place)
                continue
            touch(slot, wall)
            if due:
                self._due.add(slot, due)
        return others


def _find_first(slots: npt.NDArray[np.int64]) -> Booleans:
    """Return which slots are not among those before them."""
    is_first = np.zeros(len(slots), np.bool_)
    is_first[np.unique(slots, return_index=True)[1]] = True
    return is_first
