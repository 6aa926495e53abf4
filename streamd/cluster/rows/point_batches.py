"""Points of other protocols as sections of a shard's row log: of each server its series and its points.

    points: flags u8, bytes of the series u32, the record of series, the record of points

The records are those of the log of one host (`runtime/aggregation/servers.py`). Each section has its series with it:
those before it in the log may be purged, and come from other nodes.
"""

import struct
from collections.abc import Iterator, Sequence

import msgspec
import numpy as np

from streamd.core.aggregation.points import ServerSeries
from streamd.core.aggregation.reduction import KIND_CODES, KIND_OF_CODE, SeriesNumbers
from streamd.core.arrays import Float64
from streamd.core.cluster.row_batches import LAST_SECOND, MAX_SECTION_BYTES, POINTS_SECTION, make_section
from streamd.core.errors import InvalidServerError, MalformedError, TooLargeError
from streamd.core.state.directory import check_server_name
from streamd.runtime.aggregation.batch import Points
from streamd.runtime.aggregation.servers import (
    SeriesRecord,
    decode_points_record,
    decode_series_record,
    encode_points_record,
    encode_series_record,
)

_HEAD = struct.Struct("<BI")
_MAY_EVICT = 1
_POINT_BYTES, _SERIES_BYTES = 20, 8


class ReceivedPoints(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """The points of one server in one section; `series (n,)` are the places in `definitions`."""

    server: str
    definitions: Sequence[bytes]
    kinds: bytes
    """The code of the kind of each series."""
    series: SeriesNumbers
    times: Float64
    values: Float64
    may_evict: bool


class _Section:
    """The points of one section while they are added."""

    def __init__(self) -> None:
        self.places: dict[ServerSeries, int] = {}
        self.series: list[int] = []
        self.times: list[float] = []
        self.values: list[float] = []
        self.bytes = 0

    def encode(self, server: str, may_evict: bool) -> bytes:
        series = encode_series_record(
            SeriesRecord(
                number=0,
                server=server,
                first=0,
                definitions=[entry.definition for entry in self.places],
                kinds=bytes(KIND_CODES[entry.kind] for entry in self.places),
            )
        )
        points = encode_points_record(0, self.series, self.times, self.values)
        head = _HEAD.pack(_MAY_EVICT if may_evict else 0, len(series))
        return make_section(POINTS_SECTION, head + series + points)


def encode_points(server: str, points: Points, *, may_evict: bool) -> Iterator[bytes]:
    """Yield the points of one server as sections, in their order."""
    section = _Section()
    for entry, time, value in points:
        place = section.places.get(entry)
        size = _POINT_BYTES + (0 if place is not None else len(entry.definition) + _SERIES_BYTES)
        if section.series and section.bytes + size > MAX_SECTION_BYTES:
            yield section.encode(server, may_evict)
            section = _Section()
            place = None
        if place is None:
            place = section.places[entry] = len(section.places)
        section.series.append(place)
        section.times.append(time)
        section.values.append(value)
        section.bytes += size
    if section.series:
        yield section.encode(server, may_evict)


def check_series_size(entry: ServerSeries) -> None:
    """Raise `TooLargeError` if the name and labels of a series do not fit into a section."""
    if len(entry.definition) > MAX_SECTION_BYTES // 2:
        size = len(entry.definition)
        raise TooLargeError(f"the name and labels of a series take {size} bytes, at most {MAX_SECTION_BYTES // 2}")


def decode_points(body: memoryview) -> ReceivedPoints:
    """Return the points of a section; raises `MalformedError` if the bytes are not one."""
    if len(body) < _HEAD.size:
        raise MalformedError(f"a section of points has {len(body)} bytes, expected at least {_HEAD.size}")
    flags, size = _HEAD.unpack_from(body)
    record, points = bytes(body[_HEAD.size : _HEAD.size + size]), bytes(body[_HEAD.size + size :])
    try:
        known = decode_series_record(record)
        check_server_name(known.server)
        _, series, times, values = decode_points_record(points)
    except (msgspec.MsgspecError, UnicodeDecodeError, InvalidServerError, ValueError) as exc:
        raise MalformedError(f"a section of points is unreadable: {exc}") from exc
    if len(known.kinds) != len(known.definitions) or not set(known.kinds) <= set(KIND_OF_CODE):
        raise MalformedError(f"{known.server}: the kinds of {len(known.definitions)} series are {known.kinds[:20]!r}")
    if len(series) and int(series.max()) >= len(known.definitions):
        raise MalformedError(f"{known.server}: a point is of series {series.max()} of {len(known.definitions)}")
    if not (np.isfinite(times) & (times >= 0) & (times <= LAST_SECOND)).all():
        raise MalformedError(f"{known.server}: a time is no number of seconds from 0 to {LAST_SECOND:g}")
    return ReceivedPoints(
        server=known.server,
        definitions=known.definitions,
        kinds=known.kinds,
        series=series,
        times=times,
        values=values,
        may_evict=bool(flags & _MAY_EVICT),
    )
