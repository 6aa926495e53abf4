"""The servers of a collector: their points, and how these are written to the point log."""

import struct
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from streamd.core.aggregation.points import ServerPoints, ServerSeries
from streamd.core.mapping.mapping import CompiledRule
from streamd.core.mapping.series import Kind, SourceSeries
from streamd.core.state.windows import NO_STEP

SERIES_RECORD, POINTS_RECORD, FORGET_RECORD = 1, 2, 3
"""The kinds of records in the point log: series of a server, points of them, and that a server was forgotten."""

NO_SEGMENT = 0
"""The number of a segment that does not exist."""

_POINTS_HEAD = struct.Struct("<II")


class SeriesRecord(msgspec.Struct, array_like=True, kw_only=True):
    """Series of a server, as they are logged: the entry `k` is the series `first + k`."""

    number: int
    """The number of the server in its segment, by which points name it."""
    server: str
    first: int
    definitions: list[bytes]
    """Each the result of `encode_definition`."""
    kinds: bytes
    """The code of each kind."""


class _Definition(msgspec.Struct, array_like=True):
    name: str
    labels: dict[str, str]


_encoder = msgspec.msgpack.Encoder()
_definition_encoder = msgspec.msgpack.Encoder(order="deterministic")
_definition_decoder = msgspec.msgpack.Decoder(_Definition)
_record_decoder = msgspec.msgpack.Decoder(SeriesRecord)


def encode_definition(series: SourceSeries) -> bytes:
    """Return what a series is as bytes, the same for the same name and labels in any order."""
    return _definition_encoder.encode(_Definition(series.name, dict(series.labels)))


def decode_definition(definition: bytes, kind: Kind) -> SourceSeries:
    """Return the series that `encode_definition` encoded."""
    decoded = _definition_decoder.decode(definition)
    return SourceSeries(decoded.name, decoded.labels, kind)


def decode_series_record(record: bytes) -> SeriesRecord:
    """Return a record of series; raises `msgspec.MsgspecError` if it is none."""
    return _record_decoder.decode(record)


class CollectedServer(ServerPoints):
    """The points of a server, with what the collector notes of it."""

    def __init__(self, name: str, rules: Sequence[CompiledRule], step_seconds: int) -> None:
        super().__init__(name, rules, step_seconds)
        self.slot = -1
        self.rows = 0
        """Rows since the last `prune`."""
        self.deadline_step = NO_STEP
        """The step whose deadline was set last."""
        self.keys: dict[ServerSeries, list[tuple[str, Hashable]]] = {}
        """The protocols and keys under which each series is known."""
        self._log_segment = NO_SEGMENT
        self._log_number = 0
        self._logged_series = 0

    __hash__ = object.__hash__

    def forget_log(self) -> None:
        """Have all series written again before the next points: their numbers changed, or the write failed."""
        self._log_segment = NO_SEGMENT

    def set_kind(self, entry: ServerSeries, kind: Kind) -> None:
        """Change the kind of a series, if it is another one."""
        if self.get_kind(entry) is not kind:
            super().set_kind(entry, kind)
            self.forget_log()

    def make_series_record(self, segment: int, number: int) -> SeriesRecord | None:
        """Return the record of the series that this segment of the log lacks, or `None`; `number` is free in it."""
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
            definitions=self.definitions[first:],
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
    """Points of one server that are accepted: the numbers of their series, epoch seconds, values."""

    server: CollectedServer
    series: Sequence[int]
    times: Sequence[float]
    values: Sequence[float]

    def encode(self) -> bytes:
        """Return the points as a record of the log: number of the server, count, then the three columns."""
        return b"".join(
            (
                _POINTS_HEAD.pack(self.server.log_number, len(self.series)),
                np.array(self.series, "<u4").tobytes(),
                np.array(self.times, "<f8").tobytes(),
                np.array(self.values, "<f8").tobytes(),
            )
        )


def decode_points_record(record: bytes) -> tuple[int, list[int], list[float], list[float]]:
    """Return the number of the server, and the columns of its points; raises `ValueError` if it is no such record."""
    if len(record) < _POINTS_HEAD.size:
        raise ValueError("a record of points is cut off")
    number, count = _POINTS_HEAD.unpack_from(record)
    if len(record) != _POINTS_HEAD.size + 20 * count:
        raise ValueError(f"a record of {count} points has {len(record)} bytes")
    at = _POINTS_HEAD.size
    series: list[int] = np.frombuffer(record, "<u4", count, at).tolist()
    times: list[float] = np.frombuffer(record, "<f8", count, at + 4 * count).tolist()
    values: list[float] = np.frombuffer(record, "<f8", count, at + 12 * count).tolist()
    return number, series, times, values
