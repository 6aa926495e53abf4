"""Takes the points of foreign protocols: logs them, computes the rows of their servers, and closes rows that are over.

Runs on the event loop, and lets other tasks run after each slice of points. When `commit` returns, the points are
stored and survive `kill -9`.
"""

import asyncio
import heapq
import math
import struct
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import structlog

from streamd.core.aggregation.points import MAX_STEP_POINTS, count_retained_steps
from streamd.core.contract import MAX_STATUS
from streamd.core.errors import (
    DrainingError,
    InvalidServerError,
    StorageError,
    StreamdError,
    TooBusyError,
    TooFarAheadError,
    TooLargeError,
    TooOldError,
)
from streamd.core.mapping.mapping import NO_SERVER, RuleMapping
from streamd.core.state.rows import PackedRow
from streamd.core.state.windows import NO_STEP
from streamd.runtime.aggregation.batch import CommitResult, PointBatch, Points, ProtocolCounts
from streamd.runtime.aggregation.point_log import PointLog
from streamd.runtime.aggregation.restoring import PointRestorer
from streamd.runtime.aggregation.series_table import SeriesTable
from streamd.runtime.aggregation.servers import (
    FORGET_RECORD,
    POINTS_RECORD,
    SERIES_RECORD,
    CollectedServer,
    ServerPointsTaken,
    encode_series_record,
)
from streamd.runtime.aggregation.slicing import SLICE_WORK, estimate_row_work, slice_points
from streamd.runtime.aggregation.turns import LoopTurns
from streamd.runtime.ingest import Admission, IngestLoad, RowsDue, ServerContradicted
from streamd.runtime.state.state import State

log = structlog.get_logger(__name__)

SLICE_ROWS = 100
"""The number of overdue rows that are closed in one turn of the event loop."""

SLICE_REMOVED_SERIES = 5_000
"""The series that are removed before the event loop gets its turn."""

PRUNE_ROWS = 12
"""The number of rows of a server after which its ended series are removed."""


@dataclass(frozen=True, kw_only=True)
class CollectorLimits:
    """The limits of a collector; see `config.toml`."""

    max_series: int = 2_000_000
    max_points: int = 50_000_000
    grace_seconds: float = 10.0
    max_ahead_seconds: float = 300.0


class Collector:
    """The series of all servers, and their rows that may still change.

    `wall` returns epoch seconds, `clock` monotonic seconds.
    """

    def __init__(
        self,
        state: State,
        mapping: RuleMapping,
        point_log: PointLog,
        limits: CollectorLimits,
        *,
        load: IngestLoad,
        admission: Admission,
        rows_due: RowsDue,
        server_contradicted: ServerContradicted,
        wall: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limits = limits
        self.table = SeriesTable(mapping, state.contract.step_seconds, limits.max_series)
        self.point_log = point_log
        self.is_draining = False
        self.counts: dict[str, ProtocolCounts] = {}
        """The bodies and points since start, by protocol."""
        self.rows = 0
        """Rows that were written, amendments included."""
        self.values_by_rule = [0] * len(mapping.rules)
        """The values that each rule gave to rows."""
        self.points_kept = 0
        """Points of rows that may still change."""
        self.restored_points = 0
        """Points that were read back from the log at start."""
        self._state = state
        self._load = load
        self._admission = admission
        self._rows_due = rows_due
        self._server_contradicted = server_contradicted
        self._wall = wall
        self._clock = clock
        self._step_seconds = state.contract.step_seconds
        self._by_slot: dict[int, CollectedServer] = {}
        self._deadlines: list[tuple[float, int, CollectedServer, int]] = []
        self._deadline_count = 0
        self._segment_servers = 0  # a number that no server in the current segment has
        self._features = len(state.contract.features)
        self._struct = struct.Struct(f"={self._features}f")
        self._turn: asyncio.Handle | None = None
        self._is_restoring = False
        self._turns = LoopTurns()
        self._steady_offset = wall() - clock()
        self._silent_seconds = float((count_retained_steps(self._step_seconds) + 2) * self._step_seconds)

    # ------------------------------------------------------------ points in
    def check_open(self) -> None:
        """Raise `DrainingError` while the daemon stops, and `TooBusyError` while too many points are kept.

        The routes call it before they read a body.
        """
        if self.is_draining:
            raise DrainingError("the daemon is stopping")
        self.check_space()

    def check_space(self) -> None:
        """Raise `TooBusyError` while too many points are kept."""
        if self.points_kept >= self.limits.max_points:
            raise TooBusyError(f"open rows have {self.points_kept} points; max_points is {self.limits.max_points}")

    def start_batch(self, protocol: str) -> PointBatch:
        """Return a batch for the points of one body."""
        counts = self.counts.setdefault(protocol, ProtocolCounts())
        counts.bodies += 1
        return PointBatch(protocol, self.table, counts)

    def find_oldest_second(self, server: str) -> float:
        """Return the epoch second from which on the points of a server count; 0 if it has no points yet."""
        known = self.table.servers.get(server)
        return 0.0 if known is None else known.find_oldest_second()

    def count_refused(self, protocol: str, error: StreamdError) -> None:
        """Count a body that was rejected as a whole."""
        self.counts.setdefault(protocol, ProtocolCounts()).refused[error.code] += 1

    async def commit(self, batch: PointBatch) -> CommitResult:
        """Take the points of a batch; returns when they are stored.

        Raises `StorageError` if not all points can be stored. Sending the whole body again is harmless.
        """
        self._load.bodies += 1
        try:
            for work in slice_points(batch.points, self._step_seconds):
                self._take_slice(work, batch)
                await self._turns.wait()
        except StorageError as error:
            batch.counts.refused[error.code] += 1
            raise
        finally:
            self._load.bodies -= 1
        result = batch.result
        for reason, count in batch.ignored.items():
            batch.counts.ignored[reason] += count
            result.ignored += count
        result.without_server = batch.ignored[NO_SERVER]
        batch.counts.taken += result.taken
        self._admission.report_forgotten()
        return result

    def _take_slice(self, work: list[tuple[CollectedServer, Points]], batch: PointBatch) -> None:
        """Store the points of some servers, then fill their rows."""
        if (shortage := self._state.find_shortage()) is not None:
            raise shortage
        wall = self._wall()
        accepted = (self._accept(server, points, wall, batch) for server, points in work)
        # A server may be evicted by one that comes after it: its points were taken, and are forgotten with it.
        ready = []
        for taken in [each for each in accepted if each is not None]:
            batch.result.taken += len(taken.times)
            if self._is_collected(taken.server):
                ready.append(taken)
        if not ready:
            return
        self._store(ready)
        for taken in ready:
            self._fill(taken, wall)

    def _accept(
        self, server: CollectedServer, points: Points, wall: float, batch: PointBatch
    ) -> ServerPointsTaken | None:
        """Return the points that are neither too old nor too far ahead, or `None`; a new server gets a slot."""
        server = self.table.servers.get(server.name, server)  # it may have been forgotten since it was decoded
        self._contradict(server, points, wall)
        oldest = server.find_oldest_second()
        newest = wall + self.limits.max_ahead_seconds
        good = [point for point in points if oldest <= point[1] <= newest]
        if len(good) < len(points):
            _reject_times(server.name, points, oldest, newest, batch)
        if server.count_points() + len(good) > MAX_STEP_POINTS:
            good = self._limit_step_points(server, good, batch)
        if not good:
            return None
        try:
            slot = self._admission.find_or_admit(server.name, wall)
        except InvalidServerError as error:
            batch.reject(error, len(good))
            return None
        server.slot = slot
        self._by_slot[slot] = server
        self._state.directory.touch(slot, wall)
        entries, times, values = zip(*good, strict=True)
        indices = [entry.index for entry in entries]
        if min(indices) < 0:
            indices = [entry.index for entry in self.table.restore_series(server, entries)]
        return ServerPointsTaken(server, indices, times, values)

    def _limit_step_points(self, server: CollectedServer, points: Points, batch: PointBatch) -> Points:
        """Return the points without those beyond `MAX_STEP_POINTS` of their step, which are rejected."""
        left: dict[int, int] = {}
        good: Points = []
        for point in points:
            step = int(point[1] // self._step_seconds)
            if step not in left:
                left[step] = MAX_STEP_POINTS - server.count_step_points(step)
            left[step] -= 1
            if left[step] >= 0:
                good.append(point)
        if len(good) < len(points):
            message = f"{server.name}: a step has {MAX_STEP_POINTS} points of this server already, no more are taken"
            batch.reject(TooLargeError(message), len(points) - len(good))
        return good

    def _find_steady_time(self) -> float:
        """Return epoch seconds that do not step when the clock is set: a segment must not seem old by that."""
        return self._steady_offset + self._clock()

    def _store(self, ready: list[ServerPointsTaken]) -> None:
        """Append to the log the series that its segment lacks, then the points."""
        if self.point_log.begin_segment_if_due(self._find_steady_time()):
            self._segment_servers = 0
        records: list[tuple[int, bytes]] = []
        for taken in ready:
            series = taken.server.make_series_record(self.point_log.segment, self._segment_servers)
            self._segment_servers += 1
            if series is not None:
                records.append((SERIES_RECORD, encode_series_record(series)))
            records.append((POINTS_RECORD, taken.encode()))
        try:
            self.point_log.append(records)
        except StorageError:
            for taken in ready:
                taken.server.forget_log()
            raise

    def _fill(self, taken: ServerPointsTaken, wall: float) -> None:
        server = taken.server
        server.taken_at = self._clock()
        kept = server.count_points()
        self._write_rows(server, server.add_points(taken.series, taken.times, taken.values))
        self.points_kept += server.count_points() - kept
        self._set_deadline(server, wall)

    def _contradict(self, server: CollectedServer, points: Points, wall: float) -> None:
        """Report that a server whose newest row is ahead of the clock sent a present point.

        The report may drop its rows ahead. Then its points are dropped too, because they would make the present point
        too old.
        """
        if server.slot in self._state.ahead.contradicted_since and self._is_collected(server):
            present = wall - self.limits.max_ahead_seconds - 2 * self._step_seconds  # as for plain samples
            if max(time for _, time, _ in points) > present:
                self._server_contradicted.contradict(server.slot)

    # ------------------------------------------------------------ rows out
    def _write_rows(self, server: CollectedServer, steps: list[int]) -> None:
        if not steps:
            return
        for step in steps:
            server.rows += self._write_row(server, step)
        server.mark_closed(steps[-1])  # after all rows are written, because it drops the points of old steps
        if server.rows >= PRUNE_ROWS:
            server.rows = 0
            self.table.prune(server)

    def _write_row(self, server: CollectedServer, step: int) -> bool:
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
            due = self._state.windows.write_row(server.slot, step, row, status)
        except TooOldError:
            return False  # the server also sends newer rows by another route
        self.rows += 1
        if due and not self._is_restoring:  # `Service.begin` finds what is due after a restart
            self._rows_due.mark_due(server.slot, due)
        return True

    def _set_deadline(self, server: CollectedServer, wall: float) -> None:
        """Note when to close the newest step of a server if no later point comes."""
        step = server.latest_step
        if step <= max(server.closed_step, server.deadline_step):
            return
        server.deadline_step = step
        left = (step + 1) * self._step_seconds - wall
        self._deadline_count += 1
        deadline = self._clock() + max(left, 0.0) + self.limits.grace_seconds
        heapq.heappush(self._deadlines, (deadline, self._deadline_count, server, step))
        if len(self._deadlines) > 2 * len(self._by_slot) + 100:
            # Most deadlines belong to forgotten servers, or to steps that a later point closed.
            self._deadlines = [
                each for each in self._deadlines if self._is_collected(each[2]) and each[3] > each[2].closed_step
            ]
            heapq.heapify(self._deadlines)

    def _is_collected(self, server: CollectedServer) -> bool:
        """Whether a server still has its slot."""
        return self._by_slot.get(server.slot) is server

    def close_overdue_rows(self) -> None:
        """Close the rows whose grace time is over: some now, the rest in later turns of the loop.

        Also remove what servers without rows have left, and without space what silent servers keep.
        """
        self.table.begin_sweep()
        self._sweep()

    def _sweep(self) -> None:
        if self._turn is not None:
            self._turn.cancel()
            self._turn = None
        if (
            self._close_some_rows()
            or self.table.remove_unadmitted(SLICE_REMOVED_SERIES)
            or (self._is_full() and self._release_silent_servers())
        ):
            self._turn = asyncio.get_running_loop().call_soon(self._sweep)
        else:
            self.table.is_short = False

    def _close_some_rows(self) -> bool:
        """Close overdue rows; returns whether there may be more."""
        if self._state.find_shortage() is not None:
            return False  # no row could be written; the next call tries again
        now, work = self._clock(), 0
        for _ in range(SLICE_ROWS):
            if not self._deadlines or self._deadlines[0][0] > now:
                return False
            _, _, server, step = heapq.heappop(self._deadlines)
            if self._is_collected(server):
                kept, work = server.count_points(), work + estimate_row_work(server)
                self._write_rows(server, [each for each in server.list_open_steps() if each <= step])
                self.points_kept += server.count_points() - kept
            if work >= SLICE_WORK:
                break
        return True

    def _is_full(self) -> bool:
        return self.table.is_short or self.points_kept >= self.limits.max_points

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
                self.table.release(server)
        return False

    # ------------------------------------------------------------ servers that leave, start and end
    def forget(self, slot: int) -> None:
        """Drop the points and series of a server whose slot is given to another server."""
        server = self._by_slot.pop(slot, None)
        if server is not None:
            self.points_kept -= server.count_points()
            self.table.remove_server(server)
            server.deadline_step = NO_STEP
            self.point_log.append_if_open(FORGET_RECORD, server.name.encode())

    def restore(self) -> None:
        """Read back the points of rows that were not final when the previous process ended.

        It is called before the first `commit`.
        """
        wall = self._wall()
        self._is_restoring = True
        restorer = PointRestorer(
            self.table, step_seconds=self._step_seconds, newest_second=wall + self.limits.max_ahead_seconds
        )
        restorer.read_log(self.point_log)
        for server, steps in restorer.add_points().items():
            slot = self._state.directory.slots.get(server.name)
            if slot is None:
                restorer.drop_server(server)
                continue
            server.slot = slot
            server.taken_at = self._clock()
            self._by_slot[slot] = server
            # The rows in the window were computed from all acknowledged points. The oldest of these points may be
            # missing in the log by now, so such a row must not be written again.
            newest = self._state.windows.get_newest_step(slot)
            server.mark_closed(min(newest, server.latest_step))
            self._write_rows(server, [step for step in steps if step > newest])
            self.points_kept += server.count_points()
            self._set_deadline(server, wall)
        self.point_log.keep_from(restorer.find_first_segment(), self._find_steady_time())
        self._is_restoring = False
        self.restored_points = restorer.points
        if restorer.points or restorer.dropped:
            log.info(
                "points_restored", servers=len(self._by_slot), points=restorer.points, dropped_points=restorer.dropped
            )

    def close(self) -> None:
        """Close the log. Open rows stay open: the next process finds their points."""
        if self._turn is not None:
            self._turn.cancel()
        self.point_log.close()

    # ------------------------------------------------------------ reports
    def describe(self) -> dict[str, Any]:
        """Return the entry `agents` of `/v1/status`."""
        return {
            "protocols": {name: counts.describe() for name, counts in sorted(self.counts.items())},
            "servers": len(self._by_slot),
            "series": self.table.series,
            "max_series": self.table.max_series,
            "points": self.points_kept,
            "max_points": self.limits.max_points,
            "restored_points": self.restored_points,
            "rows": self.rows,
            "values": {name: count for name, count in self.iterate_rule_counts() if count},
        }

    def count_points(self) -> dict[str, int]:
        """Return the points since start by result: taken, or the reason why not."""
        counts: Counter[str] = Counter()
        for each in self.counts.values():
            counts["taken"] += each.taken
            for kind in ("ignored", "rejected", "skipped"):
                for reason, count in getattr(each, kind).items():
                    counts[f"{kind}: {reason}"] += count
        return dict(counts)

    def count_refused_bodies(self) -> dict[str, int]:
        """Return the bodies that were rejected as a whole, by error code."""
        return dict(sum((each.refused for each in self.counts.values()), Counter[str]()))

    def iterate_rule_counts(self) -> Iterator[tuple[str, int]]:
        """Yield each rule with the number of values that it gave to rows."""
        for rule, count in zip(self.table.rules, self.values_by_rule, strict=True):
            yield rule.name, count


def _reject_times(server: str, points: Points, oldest: float, newest: float, batch: PointBatch) -> None:
    """Reject the points before `oldest` with one error, and those after `newest` with another."""
    old = [time for _, time, _ in points if time < oldest]
    ahead = [time for _, time, _ in points if not time <= newest and not time < oldest]
    if old:
        message = f"{server}: time {min(old):.3f} is too old: its rows up to {oldest:.0f} are final"
        batch.reject(TooOldError(message), len(old))
    if ahead:
        message = f"{server}: time {max(ahead):.3f} is ahead of the clock, expected at most {newest:.3f}"
        batch.reject(TooFarAheadError(message), len(ahead))
