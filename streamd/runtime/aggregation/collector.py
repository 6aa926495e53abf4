"""Takes the points of foreign protocols: stores them, fills the rows of their servers, and closes rows that are over.

Runs on the event loop and gives way to it after each slice of points. `commit` returns when the points are stored: from
then on they survive `kill -9`.
"""

import asyncio
import heapq
import math
import struct
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import structlog

from streamd.core.contract import MAX_STATUS
from streamd.core.errors import (
    DrainingError,
    InvalidServerError,
    StorageError,
    StreamdError,
    TooBusyError,
    TooFarAheadError,
    TooOldError,
)
from streamd.core.mapping.mapping import NO_SERVER, RuleMapping
from streamd.core.state.rows import PackedRow
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
from streamd.runtime.ingest import Admission, IngestLoad, RowsDue, ServerContradicted
from streamd.runtime.state.state import State

log = structlog.get_logger(__name__)

COMMIT_SLICE_POINTS = 1_000
"""The number of points that are taken before the event loop gets its turn. Each may be of another step, and so lead to
a row, which takes a tenth of a millisecond."""

SLICE_ROWS = 100
"""The number of overdue rows that are closed before the event loop gets its turn."""

PRUNE_ROWS = 12
"""A server's series that have ended are removed after so many of its rows."""


@dataclass(frozen=True, kw_only=True)
class CollectorLimits:
    """The limits of a collector; see `config.toml`."""

    max_series: int = 2_000_000
    max_points: int = 20_000_000
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
        """What came since start, by protocol."""
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
        self._segment_servers = 0  # the servers that the present segment of the log names
        self._features = len(state.contract.features)
        self._struct = struct.Struct(f"={self._features}f")
        self._turn: asyncio.Handle | None = None
        self._is_restoring = False

    # ------------------------------------------------------------ points in
    def check_open(self) -> None:
        """Raise `DrainingError` while the daemon stops, and `TooBusyError` while too many points are kept.

        It is called before a body is read.
        """
        if self.is_draining:
            raise DrainingError("the daemon is stopping")
        if self.points_kept >= self.limits.max_points:
            raise TooBusyError(f"rows that are open may have {self.limits.max_points} points (max_points), and they do")

    def start_batch(self, protocol: str) -> PointBatch:
        """Return a batch for the points of one body."""
        counts = self.counts.setdefault(protocol, ProtocolCounts())
        counts.bodies += 1
        return PointBatch(protocol, self.table, counts)

    def find_oldest_second(self, server: str) -> float:
        """Return the epoch second from which on points of a server count; 0 if it has none."""
        known = self.table.servers.get(server)
        return 0.0 if known is None else float(max(known.find_oldest_step(), 0) * self._step_seconds)

    def count_refused(self, protocol: str, error: StreamdError) -> None:
        """Count a body that was rejected as a whole."""
        self.counts.setdefault(protocol, ProtocolCounts()).refused[error.code] += 1

    async def commit(self, batch: PointBatch) -> CommitResult:
        """Take the points of a batch; returns when they are stored.

        Raises `StorageError` if they cannot be stored. Some may be stored then; to send all of them again is harmless.
        """
        self._load.bodies += 1
        try:
            for work in _slice_points(batch):
                self._take_slice(work, batch)
                await asyncio.sleep(0)
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
        ready = [taken for taken in accepted if taken is not None]
        if not ready:
            return
        self._store(ready, wall)
        for taken in ready:
            self._fill(taken, wall)
            batch.result.taken += len(taken.times)

    def _accept(
        self, server: CollectedServer, points: Points, wall: float, batch: PointBatch
    ) -> ServerPointsTaken | None:
        """Find the slot of a server, and return those of its points that are in time; `None` if no point is."""
        self._contradict(server, points, wall)
        oldest = float(max(server.find_oldest_step(), 0) * self._step_seconds)
        newest = wall + self.limits.max_ahead_seconds
        good = [point for point in points if oldest <= point[1] <= newest]
        if len(good) < len(points):
            _reject_times(server.name, points, oldest, newest, batch)
            if not good:
                return None
        try:
            slot = self._admission.find_or_admit(server.name, wall)
        except InvalidServerError as error:
            batch.reject(error, len(good))
            return None
        server.slot = slot
        self._by_slot[slot] = server
        self.table.restore_server(server)
        entries, times, values = zip(*good, strict=True)
        return ServerPointsTaken(server, [entry.index for entry in entries], times, values)

    def _store(self, ready: list[ServerPointsTaken], wall: float) -> None:
        """Append points to the log, and before them the series that its segment lacks."""
        if self.point_log.begin_segment_if_due(wall):
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
        self._state.directory.touch(server.slot, wall)
        kept = server.count_points()
        self._write_rows(server, server.add_points(taken.series, taken.times, taken.values))
        self.points_kept += server.count_points() - kept
        self._set_deadline(server, wall)

    def _contradict(self, server: CollectedServer, points: Points, wall: float) -> None:
        """Note that a server whose newest row is ahead of the clock sent a present point.

        Its rows ahead may be dropped by that, and then its points are too: they would make the present one too old.
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
        server.mark_closed(steps[-1])  # not before all are written: it forgets the points of old steps
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
            return False  # the server sends newer rows in another way as well
        self.rows += 1
        if due and not self._is_restoring:  # `Service.begin` finds what is due after a restart
            self._rows_due.mark_due(server.slot, due)
        return True

    def _set_deadline(self, server: CollectedServer, wall: float) -> None:
        """Note when the newest step of a server is over even if no later point comes."""
        step = server.latest_step
        if step <= max(server.closed_step, server.deadline_step):
            return
        server.deadline_step = step
        left = (step + 1) * self._step_seconds - wall
        self._deadline_count += 1
        deadline = self._clock() + max(left, 0.0) + self.limits.grace_seconds
        heapq.heappush(self._deadlines, (deadline, self._deadline_count, server, step))
        if len(self._deadlines) > 4 * len(self._by_slot) + 100:
            # Most are of servers that were forgotten, or of steps that were closed by a later point.
            self._deadlines = [
                each for each in self._deadlines if self._is_collected(each[2]) and each[3] > each[2].closed_step
            ]
            heapq.heapify(self._deadlines)

    def _is_collected(self, server: CollectedServer) -> bool:
        """Whether a server has its slot still."""
        return self._by_slot.get(server.slot) is server

    def close_overdue_rows(self) -> None:
        """Close the rows whose grace is over: some now, the rest in later turns of the loop."""
        self._turn = None
        if self._state.find_shortage() is not None:
            return  # no row could be written; the next call tries again
        now = self._clock()
        for _ in range(SLICE_ROWS):
            if not self._deadlines or self._deadlines[0][0] > now:
                return
            _, _, server, step = heapq.heappop(self._deadlines)
            if self._is_collected(server):
                kept = server.count_points()
                self._write_rows(server, [each for each in server.list_open_steps() if each <= step])
                self.points_kept += server.count_points() - kept
        if self._turn is None:
            self._turn = asyncio.get_running_loop().call_soon(self.close_overdue_rows)

    # ------------------------------------------------------------ servers that leave, start and end
    def forget(self, slot: int) -> None:
        """Drop the points and series of a server whose slot gets another one."""
        server = self._by_slot.pop(slot, None)
        if server is not None:
            self.points_kept -= server.count_points()
            server.drop_points()
            self.table.remove_server(server)
            self.point_log.append_if_open(FORGET_RECORD, server.name.encode())

    def restore(self) -> None:
        """Read back the points of rows that were not final when the former process ended; before the first commit."""
        wall = self._wall()
        self._is_restoring = True
        restorer = PointRestorer(self.table, newest_second=wall + self.limits.max_ahead_seconds)
        restorer.read_log(self.point_log)
        for server, steps in restorer.add_points().items():
            slot = self._state.directory.slots.get(server.name)
            if slot is None:
                restorer.drop_server(server)
                continue
            server.slot = slot
            self._by_slot[slot] = server
            # The rows that are in the window hold all points that were acknowledged. The log may have lost the oldest
            # of these points since, so such a row is not written again.
            newest = self._state.windows.get_newest_step(slot)
            server.mark_closed(min(newest, server.latest_step))
            self._write_rows(server, [step for step in steps if step > newest])
            self.points_kept += server.count_points()
            self._set_deadline(server, wall)
        self.point_log.keep_from(restorer.find_first_segment(), wall)
        self._is_restoring = False
        self.restored_points = restorer.points
        if restorer.points or restorer.dropped:
            log.info(
                "points_restored", servers=len(self._by_slot), points=restorer.points, dropped_points=restorer.dropped
            )

    def close(self) -> None:
        """Close the log. Rows that are open stay so: the next start finds their points."""
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
        """Return the points since start by result: taken, or why not."""
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


def _slice_points(batch: PointBatch) -> Iterator[list[tuple[CollectedServer, Points]]]:
    work: list[tuple[CollectedServer, Points]] = []
    size = 0
    for server, points in batch.points.items():
        if len(points) > COMMIT_SLICE_POINTS:
            # In order of time: the points of a slice must not make those of a later slice too old.
            points.sort(key=itemgetter(1))
        for begin in range(0, len(points), COMMIT_SLICE_POINTS):
            part = points[begin : begin + COMMIT_SLICE_POINTS]
            work.append((server, part))
            size += len(part)
            if size >= COMMIT_SLICE_POINTS:
                yield work
                work, size = [], 0
    if work:
        yield work


def _reject_times(server: str, points: Points, oldest: float, newest: float, batch: PointBatch) -> None:
    """Reject the points before `oldest` and after `newest`, each sort with one error."""
    old = [time for _, time, _ in points if time < oldest]
    ahead = [time for _, time, _ in points if not time <= newest and not time < oldest]
    if old:
        message = f"{server}: time {min(old):.3f} is too old: its rows up to {oldest:.0f} are final"
        batch.reject(TooOldError(message), len(old))
    if ahead:
        message = f"{server}: time {max(ahead):.3f} is ahead of the clock, expected at most {newest:.3f}"
        batch.reject(TooFarAheadError(message), len(ahead))
