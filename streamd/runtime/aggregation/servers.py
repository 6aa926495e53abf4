"""The servers of a collector, and the encoding of their series and points as records of the point log. No I/O."""

import struct
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from streamd.core.aggregation.points import ServerPoints, ServerSeries
from streamd.core.aggregation.reduction import SeriesNumbers
from streamd.core.arrays import Float64
from streamd.core.mapping.mapping import CompiledRule
from streamd.core.mapping.series import Kind, SourceSeries
from streamd.core.state.window_columns import NO_STEP

SERIES_RECORD, POINTS_RECORD, FORGET_RECORD = 1, 2, 3
"""The kinds of records in the point log: series of a server, points of a server, and a server that was forgotten."""

NO_SLOT = -1
"""The slot of a server that has none: no point of it was accepted, or it was forgotten."""

NO_SEGMENT = 0
"""The number of a segment that does not exist."""

_POINTS_HEAD = struct.Struct("<II")


class SeriesRecord(msgspec.Struct, array_like=True, kw_only=True):
    """A record of series of a server; item `k` of the lists is the series with the index `first + k`."""

    number: int
    """The number of the server in its segment, which records of points refer to."""
    server: str
    first: int
    definitions: list[bytes]
    """The results of `encode_definition`."""
    kinds: bytes
    """The code of the kind of each series."""


class _Definition(msgspec.Struct, array_like=True):
    name: str
    labels: dict[str, str]


_encoder = msgspec.msgpack.Encoder()
_definition_encoder = msgspec.msgpack.Encoder(order="deterministic")
_definition_decoder = msgspec.msgpack.Decoder(_Definition)
_record_decoder = msgspec.msgpack.Decoder(SeriesRecord)


def encode_definition(series: SourceSeries) -> bytes:
    """Return the name and labels of a series as bytes, which do not depend on the order of the labels."""
    return _definition_encoder.encode(_Definition(series.name, dict(series.labels)))


def decode_definition(definition: bytes, kind: Kind) -> SourceSeries:
    """Return the series that `encode_definition` encoded."""
    decoded = _definition_decoder.decode(definition)
    return SourceSeries(decoded.name, decoded.labels, kind)


def decode_series_record(record: bytes) -> SeriesRecord:
    """Return a record of series; raises `msgspec.MsgspecError` if the bytes are not one."""
    return _record_decoder.decode(record)


class CollectedServer(ServerPoints):
    """The points of a server, with the data that the collector keeps for it."""

    def __init__(self, name: str, rules: Sequence[CompiledRule], step_seconds: int) -> None:
        super().__init__(name, rules, step_seconds)
        self.slot = NO_SLOT
        self.rows = 0
        """The number of rows since the last `prune`."""
        self.deadline_step = NO_STEP
        """The step whose deadline was set last."""
        self.taken_at = 0.0
        """When the last points were taken (monotonic seconds)."""
        self.keys: dict[ServerSeries, tuple[tuple[str, Hashable], ...]] = {}
        """The protocols and keys under which each series is known."""
        self._log_segment = NO_SEGMENT
        self._log_number = 0
        self._logged_series = 0

    __hash__ = object.__hash__

    def forget_log(self) -> None:
        """Cause all series to be logged again before the next points: their numbers changed, or a write failed."""
        self._log_segment = NO_SEGMENT

    def set_kind(self, entry: ServerSeries, kind: Kind) -> None:
        """Change the kind of a series if the new kind is different."""
        if entry.kind is not kind:
            super().set_kind(entry, kind)
            self.forget_log()

    def make_series_record(self, segment: int, number: int) -> SeriesRecord | None:
        """Return the record of the series that this segment of the log lacks, or `None` if it lacks no series.

        `number` is not used in the segment yet; the server gets it if it is not in the segment.
        """
        if self._log_segment != segment:
            self._log_segment, self._log_number, self._logged_series = segment, number, 0
        first = self._logged_series
        if first == len(self.entries):
            return None
        self._logged_series = len(self.entries)
        return SeriesRecord(
            number=self._log_number,
            server=self.name,
            first=first,
            definitions=[entry.definition for entry in self.entries[first:]],
            kinds=self.encode_kinds(first),
        )

    @property
    def log_number(self) -> int:
        """The number of this server in the segment of the last `make_series_record`."""
        return self._log_number


def encode_series_record(record: SeriesRecord) -> bytes:
    """Return a record of series as bytes."""
    return _encoder.encode(record)


@dataclass(frozen=True, slots=True)
class ServerPointsTaken:
    """The accepted points of one server: the indices of their series, epoch seconds, values."""

    server: CollectedServer
    series: Sequence[int]
    times: Sequence[float]
    values: Sequence[float]

    def encode(self) -> bytes:
        """Return the points as a record of the log: number of the server, number of points, then the three columns."""
        return encode_points_record(self.server.log_number, self.series, self.times, self.values)


def encode_points_record(number: int, series: Sequence[int], times: Sequence[float], values: Sequence[float]) -> bytes:
    """Return the points of the server with a number as a record; `series` are the indices of their series."""
    return b"".join(
        (
            _POINTS_HEAD.pack(number, len(series)),
            np.array(series, "<u4").tobytes(),
            np.array(times, "<f8").tobytes(),
            np.array(values, "<f8").tobytes(),
        )
    )


def decode_points_record(record: bytes) -> tuple[int, SeriesNumbers, Float64, Float64]:
    """Return the number of the server, and the columns of its points; raises `ValueError` if it is no such record."""
    if len(record) < _POINTS_HEAD.size:
        raise ValueError("a record of points is cut off")
    number, count = _POINTS_HEAD.unpack_from(record)
    if len(record) != _POINTS_HEAD.size + 20 * count:
        raise ValueError(f"a record of {count} points has {len(record)} bytes")
    at = _POINTS_HEAD.size
    series = np.frombuffer(record, "<u4", count, at)
    times = np.frombuffer(record, "<f8", count, at + 4 * count)
    return number, series, times, np.frombuffer(record, "<f8", count, at + 12 * count)
