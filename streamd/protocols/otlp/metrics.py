"""The meaning of OTLP's metrics in both encodings: kinds, labels, keys, and points that are no measurements.

Decodes nothing. Follows OpenTelemetry's specification 1.40 ("Metrics Data Model") and opentelemetry-proto 1.45.
"""

from collections.abc import Iterable, Mapping
from hashlib import blake2b
from math import isnan
from typing import Generic

import msgspec

from streamd.core.errors import InvalidSampleError, InvalidValueError, StreamdError
from streamd.core.mapping.series import Kind, PointSink, SeriesEntry, SourceSeries
from streamd.core.values import EXPECTED_VALUE, is_value

MAX_ATTRIBUTES = 64
"""The largest number of attributes of a resource, and of a point."""

MAX_TEXT_BYTES = 1_024
"""The largest size of a metric's name, and of an attribute's key and value."""

MAX_KEY_BYTES = 256
"""A longer part of a key is replaced by its digest, because the key of each known series stays in memory."""

MAX_ZERO_POINTS = 10_000
"""The largest number of points that are checked for being all zero; 1,000 cores with eight states have fewer."""

SLICE_POINTS = 1_000
"""The number of points, or of parts of a body without points, after which a decoder yields."""

NO_RECORDED_VALUE = 1
"""The flag of a point whose series has ended, like a stale marker."""

DELTA, CUMULATIVE = 1, 2
"""Values of `AggregationTemporality`."""

UTILIZATION = "system.cpu.utilization"

AttributeValue = str | bool | int | float | None
"""A value that can be a label; `None` for arrays, maps, bytes and values that are not set."""


class MetricStream(msgspec.Struct, kw_only=True, gc=False):
    """The properties that all points of one metric of one resource have in common."""

    name: str
    kind: Kind
    is_delta: bool
    key: bytes
    """The first part of the keys of all series of the metric."""
    place: str
    """The place of the metric's scope in the body, for errors."""
    index: int
    """The index of the metric in its scope."""

    def describe(self, index: int) -> str:
        """Return the place of a point in the body."""
        return f"{self.place}.metrics[{self.index}].dataPoints[{index}] ({self.name})"


class PointReading(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One point without its attributes; times are epoch nanoseconds, 0 if they are not given."""

    start_ns: int
    time_ns: int
    value: float | None
    """`None` if the point has no value."""
    has_ended: bool = False
    """Whether the flag `NO_RECORDED_VALUE` is set."""


class PointWriter(Generic[SeriesEntry]):
    """Writes points to a sink, or skips those that are no measurement; `now` is the time of points without a time."""

    def __init__(self, sink: PointSink[SeriesEntry], now: float) -> None:
        self.sink = sink
        self.now = now

    def find_or_bind(
        self, stream: MetricStream, tail: bytes, resource: Mapping[str, str], attributes: Mapping[str, str]
    ) -> SeriesEntry:
        """Return the entry of a series; `tail` is the part of its key that stands for its attributes."""
        key = (stream.key, shorten(tail))
        entry = self.sink.find(key)
        if entry is None:
            labels = {**resource, **attributes}
            entry = self.sink.bind(key, SourceSeries(name=stream.name, labels=labels, kind=stream.kind))
        return entry

    def write(self, entry: SeriesEntry, stream: MetricStream, reading: PointReading, index: int) -> None:
        """Add a point, or count why it is not added."""
        time = reading.time_ns / 1e9 if reading.time_ns else self.now
        if reading.has_ended:
            self.sink.add(entry, time, float("nan"))
        elif reading.value is None or isnan(reading.value):
            self.sink.skip("missing value")
        elif not is_value(reading.value):
            self.reject_value(stream, index, reading.value, EXPECTED_VALUE)
        elif stream.is_delta:
            self._write_delta(entry, stream, reading, reading.value, index)
        else:
            self.sink.add(entry, time, reading.value)

    def reject_value(self, stream: MetricStream, index: int, value: float, expected: str) -> None:
        """Count a point whose value cannot be taken."""
        self.sink.reject(InvalidValueError(f"{stream.describe(index)}: the value is {value}, expected {expected}"))

    def _write_delta(
        self, entry: SeriesEntry, stream: MetricStream, reading: PointReading, value: float, index: int
    ) -> None:
        """Add an increase as the rate over the interval in which it arose."""
        if not 0 < reading.start_ns < reading.time_ns:
            # An increase without its interval has no rate. The time since the previous point of the series would be
            # wrong if a point in between was lost.
            self.sink.skip("delta without an interval")
            return
        rate = value / ((reading.time_ns - reading.start_ns) / 1e9)
        if value < 0:
            self.reject_value(stream, index, value, "an increase of 0 or more: the sum is monotonic")
            return
        if not is_value(rate):
            self.reject_value(stream, index, value, "an increase of less than 1e30 a second")
            return
        self.sink.add(entry, reading.time_ns / 1e9, rate)


def choose_kind(temporality: int, is_monotonic: bool) -> tuple[Kind, bool] | str:
    """Return the kind of a sum and whether it is a delta, or the reason why its points are no measurements.

    Raises `InvalidSampleError` if the temporality is neither.
    """
    if temporality == CUMULATIVE:
        return (Kind.COUNTER if is_monotonic else Kind.GAUGE), False
    if temporality == DELTA:
        # The change of a level is not the level, so it must not become a gauge.
        return (Kind.GAUGE, True) if is_monotonic else "delta of a sum that is not monotonic"
    raise InvalidSampleError(f"aggregationTemporality is {temporality}, expected 1 (delta) or 2 (cumulative)")


def make_stream_key(resource: bytes, name: str, kind: Kind) -> bytes:
    """Return the part of a key that the series of one metric share; `resource` is the digest of the resource."""
    return resource + _KIND_BYTES[kind] + name.encode()


_KIND_BYTES = {kind: kind.value[:1].encode() for kind in Kind}


def make_digest(data: bytes) -> bytes:
    """Return the digest that replaces these bytes in a key."""
    return blake2b(data, digest_size=32).digest()


def shorten(tail: bytes) -> bytes:
    """Return the end of a key in bounded length."""
    return tail if len(tail) <= MAX_KEY_BYTES else make_digest(tail)


def check_name(name: str) -> None:
    """Raise `InvalidSampleError` if a metric's name is empty or too long."""
    if not name:
        raise InvalidSampleError("the metric has no name")
    if _is_too_long(name):
        raise InvalidSampleError(f"the metric's name has over {MAX_TEXT_BYTES} bytes")


def make_resource_labels(attributes: Iterable[tuple[str, AttributeValue]]) -> dict[str, str]:
    """Return the labels of a resource.

    A value that is too long is left out, because it cannot name a server. Some agents send process.command_line, which
    may have any length. Raises `InvalidSampleError` if a key is too long or there are too many attributes.
    """
    return {key: text for key, text in _make_labels(attributes) if not _is_too_long(text)}


def make_point_labels(attributes: Iterable[tuple[str, AttributeValue]]) -> dict[str, str]:
    """Return the labels of a point; raises `InvalidSampleError` if a text is too long or there are too many."""
    labels = dict(_make_labels(attributes))
    for key, text in labels.items():
        if _is_too_long(text):
            raise InvalidSampleError(f"the attribute {key} has over {MAX_TEXT_BYTES} bytes")
    return labels


def _make_labels(attributes: Iterable[tuple[str, AttributeValue]]) -> Iterable[tuple[str, str]]:
    for number, (key, value) in enumerate(attributes):
        if number >= MAX_ATTRIBUTES:
            raise InvalidSampleError(f"there are over {MAX_ATTRIBUTES} attributes")
        if _is_too_long(key):
            raise InvalidSampleError(f"an attribute's key has over {MAX_TEXT_BYTES} bytes")
        if value is not None:
            yield key, _format_value(value)


def _format_value(value: str | bool | int | float) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def _is_too_long(text: str) -> bool:
    return len(text) > MAX_TEXT_BYTES // 4 and len(text.encode()) > MAX_TEXT_BYTES


def is_unmeasured(points: Iterable[tuple[float | None, Mapping[str, str]]]) -> bool:
    """Whether these values and labels of `UTILIZATION` were sent before the first measurement: all are zero.

    Python's system metrics compute the utilization since the previous export, so the first export has zeros
    (opentelemetry-instrumentation-system-metrics 0.66b2). All states of a machine cannot be zero at once. But if only
    `user` and `system` are exported, both may really be zero, so idle must be among the states.
    """
    has_idle = False
    for number, (value, labels) in enumerate(points):
        if value != 0 or number >= MAX_ZERO_POINTS:
            return False
        has_idle = has_idle or "idle" in labels.values()
    return has_idle


def add_place(error: StreamdError, place: str) -> StreamdError:
    """Return an error that also names its place in the body."""
    return type(error)(f"{place}: {error}")
