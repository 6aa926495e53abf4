"""The rows that are computed from points and may still change: writes them, and closes those whose grace is over.

Decides nothing about which points are taken, and stores no points in the log.
"""

import asyncio
import heapq
import math
import struct
from collections.abc import Callable
from typing import Protocol

from streamd.core.aggregation.points import count_retained_steps
from streamd.core.contract import MAX_STATUS
from streamd.core.errors import TooOldError
from streamd.core.state.rows import PackedRow
from streamd.core.state.window_columns import NO_STEP
from streamd.runtime.aggregation.series_table import SeriesTable
from streamd.runtime.aggregation.servers import CollectedServer, ServerPointsTaken
from streamd.runtime.aggregation.slicing import SLICE_WORK, estimate_row_work
from streamd.runtime.due_batch import RowsDue
from streamd.runtime.state.state import State

SLICE_ROWS = 100
"""The number of overdue rows that are closed in one turn of the event loop."""

SLICE_REMOVED_SERIES = 5_000
"""The series that are removed before the event loop gets its turn."""

PRUNE_ROWS = 12
"""The number of rows of a server after which its ended series are removed."""


class RowWriter(Protocol):
    """The writer of windows (`WindowStore`, or the process that writes them)."""

    def write_row(self, slot: int, step: int, row: PackedRow, status: int | None = None) -> int:
        """Write a row whose step is over; returns how many rows became due. Raises `TooOldError`."""
        ...


class OpenRows:
    """The servers that have a slot and points, and their rows that may still change.

    `clock` returns monotonic seconds.
    """

    def __init__(
        self,
        state: State,
        table: SeriesTable,
        *,
        max_points: int,
        grace_seconds: float,
        rows_due: RowsDue,
        clock: Callable[[], float],
        row_writer: RowWriter | None = None,
    ) -> None:
        self.written = 0
        """Rows that were written, amendments included."""
        self.values_by_rule = [0] * len(table.rules)
        """The values that each rule gave to rows."""
        self.points_kept = 0
        """Points of rows that may still change."""
        self._state = state
        self._row_writer = row_writer or state.windows
        self._table = table
        self._max_points = max_points
        self._grace_seconds = grace_seconds
        self._rows_due = rows_due
        self._clock = clock
        self._step_seconds = state.contract.step_seconds
        self._by_slot: dict[int, CollectedServer] = {}
        self._deadlines: list[tuple[float, int, CollectedServer, int]] = []
        self._deadline_count = 0
        self._features = len(state.contract.features)
        self._struct = struct.Struct(f"={self._features}f")
        self._turn: asyncio.Handle | None = None
        self._silent_seconds = float((count_retained_steps(self._step_seconds) + 2) * self._step_seconds)

    def __len__(self) -> int:
        return len(self._by_slot)

    # ------------------------------------------------------------ servers and their points
    def add_server(self, server: CollectedServer, slot: int) -> None:
        """Give a server its slot, unless it has it already."""
        server.slot = slot
        self._by_slot[slot] = server

    def has_slot(self, slot: int) -> bool:
        """Whether a server with this slot was added."""
        return slot in self._by_slot

    def is_collected(self, server: CollectedServer) -> bool:
        """Whether a server still has its slot."""
        return self._by_slot.get(server.slot) is server

    def is_full(self) -> bool:
        """Whether too many points are kept."""
        return self.points_kept >= self._max_points

    def add_points(self, taken: ServerPointsTaken, wall: float) -> None:
        """Add points, and write the rows that are complete with them."""
        server = taken.server
        server.taken_at = self._clock()
        kept = server.count_points()
        self._write_rows(server, server.add_points(taken.series, taken.times, taken.values))
        self.points_kept += server.count_points() - kept
        self._set_deadline(server, wall)

    def restore_server(self, server: CollectedServer, slot: int, steps: list[int], wall: float) -> None:
        """Add a server whose points were read back, and write those of the rows `steps` that its window lacks.

        None is marked as due: `Service.begin` finds what is due after a restart.
        """
        self.add_server(server, slot)
        server.taken_at = self._clock()
        newest = self._state.windows.get_newest_step(slot)
        server.mark_closed(min(newest, server.latest_step))
        self._write_rows(server, [step for step in steps if step > newest], marks_due=False)
        self.points_kept += server.count_points()
        self._set_deadline(server, wall)

    def forget(self, slot: int) -> CollectedServer | None:
        """Drop the points and series of the server of a slot, and return it, or `None` if no server was added."""
        server = self._by_slot.pop(slot, None)
        if server is not None:
            self.points_kept -= server.count_points()
            self._table.remove_server(server)
            server.deadline_step = NO_STEP
        return server

    def stop(self) -> None:
        """Close no more rows."""
        if self._turn is not None:
            self._turn.cancel()

    # ------------------------------------------------------------ writing
    def _write_rows(self, server: CollectedServer, steps: list[int], *, marks_due: bool = True) -> None:
        if not steps:
            return
        for step in steps:
            server.rows += self._write_row(server, step, marks_due)
        server.mark_closed(steps[-1])  # after all rows are written, because it drops the points of old steps
        if server.rows >= PRUNE_ROWS:
            server.rows = 0
            self._table.prune(server)

    def _write_row(self, server: CollectedServer, step: int, marks_due: bool) -> bool:
        """Write one row; returns whether there was anything to write."""
        features = server.compute_row(step)
        if not features:
            return False
        cells, mask, status = [math.nan] * self._features, 0, None
        for column, (value, rule) in features.items():
            self.values_by_rule[rule] += 1
            if column < self._features:
                cells[column] = value
                mask |= 1 << column
            else:
                status = min(max(int(value), 0), MAX_STATUS)
        row = PackedRow(self._struct.pack(*cells), mask)
        try:
            due = self._row_writer.write_row(server.slot, step, row, status)
        except TooOldError:
            return False  # the server also sends newer rows by another route
        self.written += 1
        if due and marks_due:
            self._rows_due.mark_due(server.slot, due)
        return True

    # ------------------------------------------------------------ closing
    def _set_deadline(self, server: CollectedServer, wall: float) -> None:
        """Note when to close the newest step of a server if no later point comes."""
        step = server.latest_step
        if step <= max(server.closed_step, server.deadline_step):
            return
        server.deadline_step = step
        left = (step + 1) * self._step_seconds - wall
        self._deadline_count += 1
        deadline = self._clock() + max(left, 0.0) + self._grace_seconds
        heapq.heappush(self._deadlines, (deadline, self._deadline_count, server, step))
        if len(self._deadlines) > 2 * len(self._by_slot) + 100:
            # Most deadlines belong to forgotten servers, or to steps that a later point closed.
            self._deadlines = [
                each for each in self._deadlines if self.is_collected(each[2]) and each[3] > each[2].closed_step
            ]
            heapq.heapify(self._deadlines)

    def close_overdue(self) -> None:
        """Close the rows whose grace time is over: some now, the rest in later turns of the loop.

        Also remove what servers without rows have left, and without space what silent servers keep.
        """
        self._table.begin_sweep()
        self._sweep()

    def _sweep(self) -> None:
        if self._turn is not None:
            self._turn.cancel()
            self._turn = None
        if (
            self._close_some_rows()
            or self._table.remove_unadmitted(SLICE_REMOVED_SERIES)
            or ((self._table.is_short or self.is_full()) and self._release_silent_servers())
        ):
            self._turn = asyncio.get_running_loop().call_soon(self._sweep)
        else:
            self._table.is_short = False

    def _close_some_rows(self) -> bool:
        """Close overdue rows; returns whether there may be more."""
        if self._state.find_shortage() is not None:
            return False  # no row could be written; the next call tries again
        now, work = self._clock(), 0
        for _ in range(SLICE_ROWS):
            if not self._deadlines or self._deadlines[0][0] > now:
                return False
            _, _, server, step = heapq.heappop(self._deadlines)
            if self.is_collected(server):
                kept, work = server.count_points(), work + estimate_row_work(server)
                self._write_rows(server, [each for each in server.list_open_steps() if each <= step])
                self.points_kept += server.count_points() - kept
            if work >= SLICE_WORK:
                break
        return True

    def _release_silent_servers(self) -> bool:
        """Remove the series and points of servers that are silent for so long that the log has lost the points too.

        Their rows are final then. Returns whether there may be more.
        """
        before, removed = self._clock() - self._silent_seconds, 0
        for server in self._by_slot.values():
            if server.entries and server.taken_at < before and server.closed_step >= server.latest_step:
                if removed >= SLICE_REMOVED_SERIES:
                    return True
                removed += 1 + len(server.entries)
                self.points_kept -= server.count_points()
                self._table.release(server)
        return False
