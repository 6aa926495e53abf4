"""Reads the points of rows that were not final back from the log when the daemon starts. Writes no rows."""

from array import array
from collections import defaultdict
from dataclasses import dataclass, field

import msgspec
import numpy as np
import numpy.typing as npt
import structlog

from streamd.core.aggregation.points import REMOVED, ServerSeries, count_retained_steps
from streamd.core.aggregation.reduction import KIND_OF_CODE, SeriesNumbers
from streamd.core.arrays import Float64
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


_FIRST_REDUCTION = 10_000
"""The points of one server from which on those that no row needs are dropped while the log is read."""

_Indices = npt.NDArray[np.int64]


@dataclass
class _ReadPoints:
    series: "array[int]" = field(default_factory=lambda: array("I"))
    times: "array[float]" = field(default_factory=lambda: array("d"))
    values: "array[float]" = field(default_factory=lambda: array("d"))
    next_reduction: int = _FIRST_REDUCTION


class _LoggedSeries:
    """The series that one number of a segment stands for: usually those of one server."""

    def __init__(self) -> None:
        self.entries: list[ServerSeries | None] = []
        """The entries in the order of the log; `None` for a series that is not mapped any more."""
        self._places: _Indices = np.empty(0, np.int64)
        self._servers: list[CollectedServer] = []

    def clear(self) -> None:
        """Forget all series."""
        self.entries.clear()
        self._places, self._servers = np.empty(0, np.int64), []

    def find_places(self) -> tuple[_Indices, list[CollectedServer]]:
        """Return the index of each series at its server, -1 if it has none, and the servers."""
        if len(self._places) != len(self.entries):
            self._places = np.array([REMOVED if entry is None else entry.index for entry in self.entries], np.int64)
            servers = {entry.server: None for entry in self.entries if entry is not None}
            self._servers = [server for server in servers if isinstance(server, CollectedServer)]
        return self._places, self._servers

    def find_owners(self) -> _Indices:
        """Return the place of each series' server among the servers, -1 if it has none."""
        places = {server: place for place, server in enumerate(self._servers)}
        return np.array([-1 if entry is None else places[entry.server] for entry in self.entries], np.int64)  # type: ignore[index]


class PointRestorer:
    """Fills a table of series with the points of a log.

    The series are mapped again, because the rules may have changed; series that no rule wants any more are dropped.
    """

    def __init__(self, table: SeriesTable, *, step_seconds: int, newest_second: float) -> None:
        self.points = 0
        """The points that were read back."""
        self.dropped = 0
        """Points of series that are not mapped any more, and those beyond `newest_second`."""
        self._table = table
        self._step_seconds = step_seconds
        self._newest_second = newest_second
        self._segment = -1
        self._series: dict[int, _LoggedSeries] = {}  # of one segment, by the number of the server
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
        """Give the servers their points; returns for each server the steps whose rows may have to be written."""
        return {server: server.add_points(read.series, read.times, read.values) for server, read in self._read.items()}

    def drop_server(self, server: CollectedServer) -> None:
        """Drop the points of a server that has no slot any more."""
        self._table.remove_server(server)
        for newest in self._newest.values():
            newest.pop(server, None)

    def find_first_segment(self) -> int:
        """Return the oldest segment with a point that a row may still need, or the number after the last segment.

        It is called after `add_points`, and after the final rows were marked as closed.
        """
        for segment, newest in self._newest.items():
            if any(server.needs_second(second) for server, second in newest.items()):
                return segment
        return self._segment + 1

    def _read_series(self, record: SeriesRecord) -> None:
        known = self._series.setdefault(record.number, _LoggedSeries())
        if record.first == 0:
            known.clear()
        if record.first != len(known.entries) or len(record.kinds) != len(record.definitions):
            count = len(known.entries)
            raise ValueError(f"the series of {record.server} from {record.first} on do not follow {count}")
        for definition, code in zip(record.definitions, record.kinds, strict=True):
            match = self._table.mapping.match(decode_definition(definition, KIND_OF_CODE[code]))
            entry = self._table.add_series(match, definition) if isinstance(match, Match) else None
            if entry is not None and isinstance(match, Match):
                entry.server.set_kind(entry, match.kind)  # an earlier segment may have another one
            known.entries.append(entry)

    def _forget(self, name: str) -> None:
        server = self._table.servers.get(name)
        if server is not None:
            self._read.pop(server, None)

    def _read_points(self, number: int, series: SeriesNumbers, times: Float64, values: Float64) -> None:
        places, servers = self._series[number].find_places()
        if len(series) and series.max() >= len(places):
            raise ValueError(f"there is no series {series.max()} of {len(places)}")
        indices = places[series]
        good = (indices >= 0) & (times >= 0) & (times <= self._newest_second)
        self.dropped += len(series) - int(np.count_nonzero(good))
        if not good.all():
            series, indices, times, values = series[good], indices[good], times[good], values[good]
        if len(servers) == 1:
            self._keep_points(servers[0], indices, times, values)
            return
        owners = self._series[number].find_owners()[series]
        for owner, server in enumerate(servers):
            mine = owners == owner
            self._keep_points(server, indices[mine], times[mine], values[mine])

    def _keep_points(self, server: CollectedServer, indices: _Indices, times: Float64, values: Float64) -> None:
        if not len(times):
            return
        newest = self._newest.setdefault(self._segment, {})
        newest[server] = max(newest.get(server, 0.0), float(times.max()))
        read = self._read[server]
        read.series.frombytes(indices.astype(np.uint32).tobytes())
        read.times.frombytes(times.tobytes())
        read.values.frombytes(values.tobytes())
        self.points += len(times)
        if len(read.times) >= read.next_reduction:
            self._drop_old(read)

    def _drop_old(self, read: _ReadPoints) -> None:
        """Drop the points that no row needs; the log has many of them if the steps of a server passed quickly."""
        times = np.frombuffer(read.times)
        oldest_step = int(times.max() // self._step_seconds) - count_retained_steps(self._step_seconds)
        needed = times >= oldest_step * self._step_seconds
        series, values = np.frombuffer(read.series, np.uint32), np.frombuffer(read.values)
        read.series = array("I", series[needed].tobytes())
        read.values = array("d", values[needed].tobytes())
        read.times = array("d", times[needed].tobytes())
        read.next_reduction = max(2 * len(read.times), _FIRST_REDUCTION)
