"""Decodes the bodies of `POST /api/put`: OpenTSDB's JSON, and netdata's on the same path. Touches no state.

An item with `chart_id` is netdata's. OpenTSDB takes one object or an array; times in seconds or milliseconds; values
and times as numbers or text (`IncomingDataPoint` and `PutDataPointRpc` of OpenTSDB 2.4).
"""

from collections.abc import Iterator
from typing import Any

import msgspec

from streamd.core.errors import InvalidInputError, InvalidSampleError, InvalidTimeError, InvalidValueError, StreamdError
from streamd.core.mapping.series import PointSink, SeriesEntry, SourceSeries
from streamd.protocols.json_items import (
    MISSING,
    SLICE_ITEMS,
    ItemDecoder,
    bind_series,
    check_tag_count,
    check_time,
    parse_number,
    read_number,
)
from streamd.protocols.netdata import NetdataItem, add_dimension

MAX_BAD_DATAPOINTS = 20
"""The largest number of bad datapoints of one body that are kept with their errors."""

_LAST_SECOND = 0xFFFF_FFFF
"""OpenTSDB takes a larger timestamp for milliseconds."""

_LAST_MILLISECOND = 9_999_999_999_999


class Datapoint(msgspec.Struct, gc=False, kw_only=True):
    """One value of a metric in OpenTSDB's JSON."""

    metric: str
    timestamp: int | float | str
    value: int | float | str | None
    tags: dict[str, str | int | float] = {}


_dimensions = ItemDecoder(NetdataItem)
_datapoints = ItemDecoder(Datapoint)


class PutBody:
    """One body of `POST /api/put`: the decoder of its points, and the facts that the answer needs."""

    def __init__(self) -> None:
        self.has_datapoints = False
        """Whether the body holds OpenTSDB's JSON, and not only netdata's."""
        self.bad_datapoints: list[tuple[StreamdError, Any]] = []
        """The first datapoints that were rejected, as they came, each with its error."""

    def decode(self, body: bytes, sink: PointSink[SeriesEntry]) -> Iterator[None]:
        """Write the points of a body to the sink, and yield after each slice.

        Raises `MalformedError` if the body is neither a JSON array nor an object.
        """
        # The guess only decides what is tried first. If it is wrong for one item, each item is decoded by its keys.
        guess: ItemDecoder[Any] = _dimensions if b'"chart_id"' in body[:4_096] else _datapoints
        for index, item in enumerate(guess.decode_or_read(body)):
            try:
                self._add_item(item, sink)
            except InvalidInputError as error:
                placed = type(error)(f"[{index}]: {error}")
                sink.reject(placed)
                if not _is_dimension(item) and len(self.bad_datapoints) < MAX_BAD_DATAPOINTS:
                    self.bad_datapoints.append((placed, item))
            if index % SLICE_ITEMS == SLICE_ITEMS - 1:
                yield

    def _add_item(self, item: Any, sink: PointSink[SeriesEntry]) -> None:
        if isinstance(item, InvalidSampleError):
            raise item
        if _is_dimension(item):
            add_dimension(item if isinstance(item, NetdataItem) else _dimensions.convert(item), sink)
            return
        self.has_datapoints = True
        _add_datapoint(item if isinstance(item, Datapoint) else _datapoints.convert(item), sink)


def _is_dimension(item: Any) -> bool:
    return isinstance(item, NetdataItem) or (isinstance(item, dict) and "chart_id" in item)


def _add_datapoint(point: Datapoint, sink: PointSink[SeriesEntry]) -> None:
    time = _read_time(point.timestamp)
    number = read_number(_parse_text(point.value, "value") if isinstance(point.value, str) else point.value)
    if not point.metric:
        raise InvalidSampleError("metric is empty, expected a name")
    if number is None:
        sink.skip(MISSING)
        return
    check_tag_count(len(point.tags))
    labels = _read_labels(point.tags)
    key = (point.metric, frozenset(labels.items()))
    entry = sink.find(key)
    if entry is None:
        entry = bind_series(sink, key, SourceSeries(point.metric, labels))
    sink.add(entry, time, number)


def _read_labels(tags: dict[str, str | int | float]) -> dict[str, str]:
    """Return the tags as text. Series are distinguished by it: as numbers, 0 and -0.0 or 1 and 1.0 are the same."""
    return {name: value if isinstance(value, str) else str(value) for name, value in tags.items()}


def _read_time(timestamp: float | str) -> float:
    time = check_time(_parse_text(timestamp, "timestamp") if isinstance(timestamp, str) else timestamp)
    if not 0 < time <= _LAST_MILLISECOND:
        raise InvalidTimeError(f"timestamp is {time:g}, expected epoch seconds or milliseconds")
    return time / 1000 if time > _LAST_SECOND else float(time)


def _parse_text(text: str, field: str) -> float:
    number = parse_number(text)
    if number is None:
        raise InvalidValueError(f"{field} is {text[:64]!r}, expected a number")
    return number
