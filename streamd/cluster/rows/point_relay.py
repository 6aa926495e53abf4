"""Takes the points of other protocols at any node of a cluster: finds their servers by the rules, and appends them to
the logs of their shards. The owners of the servers collect them, and make the rows.
"""

import time
from collections.abc import Callable, Hashable

from streamd.cluster.rows.append_tickets import AppendTicket, AppendWait
from streamd.cluster.rows.point_batches import check_series_size, encode_points
from streamd.cluster.rows.row_publisher import RowPublisher
from streamd.cluster.rows.written_servers import EVERY_SERVER
from streamd.cluster.shard_finder import ShardFinder
from streamd.core.access.caller import ANYBODY, Caller
from streamd.core.access.scopes import Scope
from streamd.core.aggregation.points import ServerSeries
from streamd.core.errors import DrainingError, InvalidServerError, StreamdError, TooLargeError, UnavailableError
from streamd.core.mapping.mapping import NO_SERVER
from streamd.runtime.aggregation.acceptance import reject_times
from streamd.runtime.aggregation.batch import CommitResult, PointBatch, Points, ProtocolCounts
from streamd.runtime.aggregation.collector import Collector
from streamd.runtime.aggregation.series_table import SeriesTable
from streamd.runtime.loop_turns import LoopTurns
from streamd.runtime.write_access import ServerWriter

RELAY_SLICE_POINTS = 1_000
"""Points that are packed before the event loop gets its turn."""


class PointRelay:
    """The points that agents send to this node (a `PointIntake`).

    `collector` has the rules, and the counts of bodies and points by protocol. `wall` returns epoch seconds of the
    cluster's clock.
    """

    def __init__(
        self,
        collector: Collector,
        publisher: RowPublisher,
        finder: ShardFinder,
        *,
        max_ahead_seconds: float,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.bodies = 0
        """The number of bodies that are being taken."""
        self._collector = collector
        self._publisher = publisher
        self._finder = finder
        self._max_ahead_seconds = max_ahead_seconds
        self._wall = wall
        self._table = self._make_table()
        self._turns = LoopTurns()

    def _make_table(self) -> SeriesTable:
        """Return an empty table: which servers the series of the senders belong to. It keeps no points."""
        known = self._collector.table
        return SeriesTable(known.mapping, self._collector.step_seconds, known.max_series)

    def check_open(self) -> None:
        """Raise `DrainingError` while the daemon stops, `UnavailableError` while too much waits for the log."""
        if self._collector.is_draining:
            raise DrainingError("the daemon is stopping")
        self.check_space()

    def check_space(self) -> None:
        """Raise `UnavailableError` while too much waits for the log."""
        self._publisher.check_open()

    def start_batch(self, protocol: str, caller: Caller = ANYBODY, sender: Hashable = None) -> PointBatch:
        """Return a batch for the points of one body of a caller; turns are fair between senders."""
        if self._table.is_short:
            self._table = self._make_table()  # it only remembers, so the series come back by themselves
        counts = self._collector.counts.setdefault(protocol, ProtocolCounts())
        counts.bodies += 1
        writer = None if caller.recalls_write is None else ServerWriter(caller, EVERY_SERVER)
        return PointBatch(protocol, self._table, counts, caller, writer, None, sender)

    def count_rows(self, batch: PointBatch) -> int:
        """Return the rows that a batch counts as against the limit of its sender's token."""
        return self._collector.count_rows(batch)

    def find_oldest_second(self, server: str) -> float:
        """Return 0: which points of a server are too old is known at its owner."""
        return 0.0

    def count_refused(self, protocol: str, error: StreamdError) -> None:
        """Count a body that was rejected as a whole."""
        self._collector.count_refused(protocol, error)

    async def commit(self, batch: PointBatch) -> CommitResult:
        """Append the points of a batch; returns when they are in the log.

        Raises `UnavailableError` if the log does not take them in time. Sending the whole body again is harmless.
        """
        self.bodies += 1
        try:
            with AppendWait(self._publisher) as wait:
                taken = await self._add_points(batch, wait.ticket)
                await wait.finish()
        except UnavailableError as error:
            batch.counts.refused[error.code] += 1
            raise
        finally:
            self.bodies -= 1
        batch.reject_refused()
        result = batch.result
        result.taken += taken
        for reason, count in batch.ignored.items():
            batch.counts.ignored[reason] += count
            result.ignored += count
        result.without_server = batch.ignored[NO_SERVER]
        batch.counts.taken += taken
        return result

    async def _add_points(self, batch: PointBatch, ticket: AppendTicket) -> int:
        """Queue the points that may be taken; returns how many."""
        wall, may_evict = self._wall(), batch.caller.covers_all(Scope.ADMIN)
        taken = work = 0
        for server, points in batch.points.items():
            good = self._select_points(server.name, points, wall, batch)
            if good:
                shard = self._finder.find(server.name)
                for section in encode_points(server.name, good, may_evict=may_evict):
                    self._publisher.add_section(shard, section, ticket)
                taken += len(good)
            work += len(points)
            if work >= RELAY_SLICE_POINTS:
                work = 0
                await self._turns.wait(batch.sender)
        return taken

    def _select_points(self, server: str, points: Points, wall: float, batch: PointBatch) -> Points:
        """Return the points of a server that its sender may write and that are not ahead; the others are rejected."""
        try:
            self._finder.find(server)
            if batch.writer is not None:
                batch.writer.add_server(server)
        except InvalidServerError as error:
            batch.refuse_server(server, error, len(points))
            return []
        except StreamdError as error:
            batch.reject(error, len(points))
            return []
        newest = wall + self._max_ahead_seconds
        good = [point for point in points if 0 <= point[1] <= newest]
        if len(good) < len(points):
            reject_times(server, points, 0.0, newest, batch)
        return _drop_long_series(good, batch)


def _drop_long_series(points: Points, batch: PointBatch) -> Points:
    """Return the points without those of series that do not fit into a message, which are rejected."""
    errors: dict[ServerSeries, TooLargeError] = {}
    for entry in {entry for entry, _, _ in points}:
        try:
            check_series_size(entry)
        except TooLargeError as error:
            errors[entry] = error
    if not errors:
        return points
    for point in points:
        if point[0] in errors:
            batch.reject(errors[point[0]])
    return [point for point in points if point[0] not in errors]
