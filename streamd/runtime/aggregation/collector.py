"""Takes the points of foreign protocols: logs them, and passes them on to the rows of their servers.

Runs on the event loop, and lets other tasks run after each slice of points. When `commit` returns, the points are
stored and survive `kill -9`. `acceptance.py` decides which points are taken, `open_rows.py` writes and closes rows.
"""

import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from streamd.core.access.caller import ANYBODY, Caller
from streamd.core.errors import DrainingError, StorageError, StreamdError, TooBusyError
from streamd.core.mapping.mapping import NO_SERVER, RuleMapping
from streamd.runtime.admission import Admission
from streamd.runtime.aggregation.acceptance import PointAcceptance
from streamd.runtime.aggregation.batch import CommitResult, PointBatch, Points, ProtocolCounts
from streamd.runtime.aggregation.final_rows import FinalRows
from streamd.runtime.aggregation.open_rows import OpenRows, RowWriter
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
from streamd.runtime.aggregation.slicing import slice_points
from streamd.runtime.aggregation.slot_check import SlotCheck
from streamd.runtime.due_batch import RowsDue
from streamd.runtime.ingest import IngestLoad
from streamd.runtime.loop_turns import LoopTurns
from streamd.runtime.sample_writer import ServerContradicted
from streamd.runtime.state.state import State
from streamd.runtime.write_access import ServerWriter

log = structlog.get_logger(__name__)


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
        row_writer: RowWriter | None = None,
    ) -> None:
        self.limits = limits
        self.table = SeriesTable(mapping, state.contract.step_seconds, limits.max_series)
        self.point_log = point_log
        self.is_draining = False
        self.counts: dict[str, ProtocolCounts] = {}
        """The bodies and points since start, by protocol."""
        self.open_rows = OpenRows(
            state,
            self.table,
            max_points=limits.max_points,
            grace_seconds=limits.grace_seconds,
            rows_due=rows_due,
            clock=clock,
            row_writer=row_writer,
        )
        self.restored_points = 0
        """Points that were read back from the log at start."""
        self._state = state
        self._load = load
        self._admission = admission
        self._wall = wall
        self._clock = clock
        self.step_seconds = state.contract.step_seconds
        self._segment_servers = 0  # a number that no server in the current segment has
        self._final_rows = FinalRows(state)
        self._acceptance = PointAcceptance(
            state,
            self.table,
            self.open_rows,
            self._final_rows,
            max_ahead_seconds=limits.max_ahead_seconds,
            admission=admission,
            server_contradicted=server_contradicted,
        )
        self._turns = LoopTurns()
        self._steady_offset = wall() - clock()

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
        if self.open_rows.is_full():
            raise TooBusyError(f"open rows have {self.points_kept} points; max_points is {self.limits.max_points}")

    def start_batch(self, protocol: str, caller: Caller = ANYBODY, sender: Hashable = None) -> PointBatch:
        """Return a batch for the points of one body of a caller; turns are fair between senders."""
        counts = self.counts.setdefault(protocol, ProtocolCounts())
        counts.bodies += 1
        writer = None if caller.recalls_write is None else ServerWriter(caller, self._state.directory.slots)
        slots = SlotCheck(self._admission, self._state.directory, caller, self._wall())
        return PointBatch(protocol, self.table, counts, caller, writer, slots, sender)

    def count_rows(self, batch: PointBatch) -> int:
        """Return the rows that a batch counts as against the limit of its sender's token."""
        return batch.count_rows(self.step_seconds)

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
            for work in slice_points(batch.points, self.step_seconds):
                self._take_slice(work, batch)
                await self._turns.wait(batch.sender)
        except StorageError as error:
            batch.counts.refused[error.code] += 1
            raise
        finally:
            self._load.bodies -= 1
        batch.reject_refused()
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
        received_at = wall if batch.received_at is None else batch.received_at
        accepted = (self._acceptance.accept(server, points, received_at, batch) for server, points in work)
        # A server may be evicted by one that comes after it: its points were taken, and are forgotten with it.
        ready = []
        for taken in [each for each in accepted if each is not None]:
            batch.result.taken += len(taken.times)
            if self.open_rows.is_collected(taken.server):
                ready.append(taken)
        if not ready:
            return
        self._store(ready)
        for taken in ready:
            self.open_rows.add_points(taken, wall)

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

    # ------------------------------------------------------------ rows out
    def close_overdue_rows(self) -> None:
        """Close the rows whose grace time is over; see `OpenRows`."""
        self.open_rows.close_overdue()

    @property
    def rows(self) -> int:
        """Rows that were written, amendments included."""
        return self.open_rows.written

    @property
    def points_kept(self) -> int:
        """Points of rows that may still change."""
        return self.open_rows.points_kept

    # ------------------------------------------------------------ servers that leave, start and end
    def forget(self, slot: int) -> None:
        """Drop the points and series of a server whose slot is given to another server."""
        self._final_rows.forget(slot)
        server = self.open_rows.forget(slot)
        if server is not None:
            self.point_log.append_if_open(FORGET_RECORD, server.name.encode())

    def restore(self) -> None:
        """Read back the points of rows that were not final when the previous process ended.

        It is called before the first `commit`.
        """
        wall = self._wall()
        restorer = PointRestorer(
            self.table, step_seconds=self.step_seconds, newest_second=wall + self.limits.max_ahead_seconds
        )
        restorer.read_log(self.point_log)
        for server, steps in restorer.add_points().items():
            slot = self._state.directory.slots.get(server.name)
            if slot is None:
                restorer.drop_server(server)
                continue
            self._restore_server(server, slot, steps, wall)
        self._final_rows.note_servers(self.open_rows.has_slot)
        self.point_log.keep_from(restorer.find_first_segment(), self._find_steady_time())
        self.restored_points = restorer.points
        if restorer.points or restorer.dropped:
            servers = len(self.open_rows)
            log.info("points_restored", servers=servers, points=restorer.points, dropped_points=restorer.dropped)

    def _restore_server(self, server: CollectedServer, slot: int, steps: list[int], wall: float) -> None:
        self._final_rows.finalize_restored(server, slot)
        self.open_rows.restore_server(server, slot, steps, wall)

    def restore_window(
        self,
        slot: int,
        server: CollectedServer | None,
        series: Sequence[int],
        times: Sequence[float],
        values: Sequence[float],
    ) -> None:
        """Continue the rows of a server whose window another node had, from those of its points that are left.

        `series`, `times` and `values` are all of them, and `server` has their series; `None` if no point is left.
        Nothing is marked as due.
        """
        if server is None:
            self._final_rows.note_window(slot)
            return
        steps = server.add_points(series, times, values)
        self._restore_server(server, slot, steps, self._wall())

    def close(self) -> None:
        """Close the log. Open rows stay open: the next process finds their points."""
        self.open_rows.stop()
        self.point_log.close()

    # ------------------------------------------------------------ reports
    def describe(self) -> dict[str, Any]:
        """Return the entry `agents` of `/v1/status`."""
        return {
            "protocols": {name: counts.describe() for name, counts in sorted(self.counts.items())},
            "servers": len(self.open_rows),
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
        for rule, count in zip(self.table.rules, self.open_rows.values_by_rule, strict=True):
            yield rule.name, count
