"""Reads the points of rows that were not final back from the log, when the daemon starts."""

from collections import defaultdict
from dataclasses import dataclass, field

import msgspec
import structlog

from streamd.core.aggregation.points import ServerSeries
from streamd.core.aggregation.reduction import KIND_OF_CODE
from streamd.core.mapping.mapping import Match
from streamd.runtime.aggregation.point_log import PointLog
from streamd.runtime.aggregation.series_table import SeriesTable
from streamd.runtime.aggregation.servers import (
    FORGET_RECORD,
    POINTS_RECORD,
    SERIES_RECORD,
    CollectedServer,
    SeriesRecord,
    decode_definition,
    decode_points_record,
    decode_series_record,
)

log = structlog.get_logger(__name__)


@dataclass
class _ReadPoints:
    series: list[int] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)


class PointRestorer:
    """Fills a table of series with the points of a log.

    The series are mapped anew: those that no rule wants any more are dropped.
    """

    def __init__(self, table: SeriesTable, *, newest_second: float) -> None:
        self.points = 0
        """The points that were read back."""
        self.dropped = 0
        """Points of series that are not mapped any more, and those beyond `newest_second`."""
        self._table = table
        self._newest_second = newest_second
        self._segment = -1
        self._series: dict[int, list[ServerSeries | None]] = {}  # of the servers of one segment, by number
        self._newest: dict[int, dict[CollectedServer, float]] = {}  # by segment: the newest time of each server
        self._read: defaultdict[CollectedServer, _ReadPoints] = defaultdict(_ReadPoints)

    def read_log(self, point_log: PointLog) -> None:
        """Read all records of a log."""
        for segment, kind, record in point_log.read_records():
            if segment != self._segment:
                self._segment, self._series = segment, {}
            try:
                if kind == SERIES_RECORD:
                    self._read_series(decode_series_record(record))
                elif kind == POINTS_RECORD:
                    self._read_points(*decode_points_record(record))
                elif kind == FORGET_RECORD:
                    self._forget(record.decode())
            except (msgspec.MsgspecError, ValueError, LookupError) as exc:
                log.warning("point_log_record_unreadable", segment=segment, reason=str(exc))

    def add_points(self) -> dict[CollectedServer, list[int]]:
        """Give the servers their points; returns of each the steps whose rows may have to be written."""
        return {server: server.add_points(read.series, read.times, read.values) for server, read in self._read.items()}

    def drop_server(self, server: CollectedServer) -> None:
        """Forget the points of a server that was forgotten meanwhile."""
        self._table.remove_server(server)
        for newest in self._newest.values():
            newest.pop(server, None)

    def find_first_segment(self) -> int:
        """Return the oldest segment with a point that a row may still need; the one after the last if no row needs any.

        Called after `add_points`, and after the rows that are final were marked as closed.
        """
        for segment, newest in self._newest.items():
            if any(server.needs_second(second) for server, second in newest.items()):
                return segment
        return self._segment + 1

    def _read_series(self, record: SeriesRecord) -> None:
        known = self._series.setdefault(record.number, [])
        if record.first == 0:
            known.clear()
        if record.first != len(known) or len(record.kinds) != len(record.definitions):
            raise ValueError(f"the series of {record.server} from {record.first} on do not follow {len(known)}")
        for definition, code in zip(record.definitions, record.kinds, strict=True):
            match = self._table.mapping.match(decode_definition(definition, KIND_OF_CODE[code]))
            entry = self._table.add_series(match, definition) if isinstance(match, Match) else None
            known.append(entry)

    def _forget(self, name: str) -> None:
        server = self._table.servers.get(name)
        if server is not None:
            self._read.pop(server, None)

    def _read_points(self, number: int, series: list[int], times: list[float], values: list[float]) -> None:
        known = self._series[number]
        newest = self._newest.setdefault(self._segment, {})
        for index, time, value in zip(series, times, values, strict=True):
            entry = known[index]
            if entry is None or time > self._newest_second:
                self.dropped += 1
                continue
            server = entry.server
            assert isinstance(server, CollectedServer)
            newest[server] = max(newest.get(server, 0.0), time)
            read = self._read[server]
            read.series.append(entry.index)
            read.times.append(time)
            read.values.append(value)
            self.points += 1
