"""Decodes export requests in OTLP's JSON into points.

OTLP's JSON differs from protobuf's: ids of exemplars are hexadecimal, names of fields are lowerCamelCase only, and
unknown fields are ignored (opentelemetry-proto 1.45, "JSON Protobuf Encoding"). Each part of a body stays bytes until
it is read, so that a broken point is rejected alone.
"""

import re
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from typing import Generic, TypeVar

import msgspec

from streamd.core.errors import InvalidSampleError, InvalidValueError, MalformedError, StreamdError
from streamd.core.mapping.series import Kind, PointSink, SeriesEntry
from streamd.protocols.json_items import check_part_size, check_value_count
from streamd.protocols.otlp.metrics import (
    NO_RECORDED_VALUE,
    SLICE_POINTS,
    UTILIZATION,
    AttributeValue,
    MetricStream,
    PointReading,
    PointWriter,
    add_place,
    check_name,
    choose_kind,
    is_unmeasured,
    make_digest,
    make_point_labels,
    make_resource_labels,
    make_stream_key,
)

_Number = int | float | str | None
"""A number as OTLP's JSON writes it: an integer of 64 bits may be text, and NaN and infinity always are."""

_Parts = list[msgspec.Raw] | None


class _Value(msgspec.Struct, rename="camel"):
    string_value: str | None = None
    bool_value: bool | None = None
    int_value: _Number = None
    double_value: _Number = None


class _Attribute(msgspec.Struct):
    key: str = ""
    value: _Value | None = None


class _Point(msgspec.Struct, rename="camel"):
    attributes: list[_Attribute] | None = None
    start_time_unix_nano: _Number = None
    time_unix_nano: _Number = None
    as_double: _Number = None
    as_int: _Number = None
    flags: _Number = None


class _Data(msgspec.Struct, rename="camel"):
    data_points: _Parts = None
    aggregation_temporality: _Number = None
    is_monotonic: bool | None = None


class _JsonMetric(msgspec.Struct, rename="camel"):
    name: str = ""
    gauge: _Data | None = None
    sum: _Data | None = None
    histogram: _Data | None = None
    exponential_histogram: _Data | None = None
    summary: _Data | None = None


class _JsonScopeMetrics(msgspec.Struct):
    metrics: _Parts = None


class _JsonResource(msgspec.Struct):
    attributes: list[_Attribute] | None = None


class _JsonResourceMetrics(msgspec.Struct, rename="camel"):
    resource: msgspec.Raw = msgspec.Raw(b"null")
    scope_metrics: _Parts = None


class _JsonRequest(msgspec.Struct, rename="camel"):
    resource_metrics: _Parts = None


_DECODING_ERRORS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_T = TypeVar("_T")

_read_request = msgspec.json.Decoder(_JsonRequest).decode
_read_resource = msgspec.json.Decoder(_JsonResourceMetrics).decode
_read_description = msgspec.json.Decoder(_JsonResource | None).decode
_read_scope = msgspec.json.Decoder(_JsonScopeMetrics).decode
_read_metric = msgspec.json.Decoder(_JsonMetric).decode
_read_point = msgspec.json.Decoder(_Point).decode

_TEMPORALITIES = {"AGGREGATION_TEMPORALITY_DELTA": 1, "AGGREGATION_TEMPORALITY_CUMULATIVE": 2}
"""The standard requires numbers, but some senders write the names, as protobuf's JSON does."""

_Turns = Generator[None, None, None]


def decode_otlp_json(body: bytes, sink: PointSink[SeriesEntry], now: float) -> Iterator[None]:
    """Write the points of an export request in JSON to a sink; yields after each slice of them.

    Raises `MalformedError` if nothing of the body can be read.
    """
    return _Decoder(body, sink, now).decode()


class _Resource:
    """The labels of a resource, or the error that its attributes raised."""

    def __init__(self, part: msgspec.Raw) -> None:
        self.labels: Mapping[str, str] = {}
        self.error: StreamdError | None = None
        try:
            check_part_size(part)
            resource: _JsonResource | None = _read_description(part)
            self.labels = make_resource_labels(_list_attributes(resource.attributes if resource else None))
        except (InvalidSampleError, InvalidValueError) as error:
            self.error = add_place(error, "the resource")
        self.key = make_digest(_encode_labels(self.labels))


class _Decoder(Generic[SeriesEntry]):
    """The decoding of one body."""

    def __init__(self, body: bytes, sink: PointSink[SeriesEntry], now: float) -> None:
        self._body = body
        self._sink = sink
        self._writer = PointWriter(sink, now)
        self._parts = 0
        """Parts since the last yield."""
        self._is_read = False
        """Whether anything could be read."""
        self._failure: StreamdError | None = None
        """The first part that could not be read."""

    def decode(self) -> _Turns:
        check_value_count(self._body)
        try:
            request: _JsonRequest = _read_request(self._body)
        except _DECODING_ERRORS as exc:
            raise MalformedError(f"the body is not an export request in JSON: {_explain(exc)}") from exc
        for index, part in enumerate(request.resource_metrics or ()):
            place = f"resourceMetrics[{index}]"
            found = self._read_part(_read_resource, part, place)
            if found is not None:
                yield from self._take_resource(found, place)
            if self._is_turn_over():
                yield
        if self._failure is not None and not self._is_read:
            raise self._failure

    def _is_turn_over(self) -> bool:
        self._parts += 1
        return self._parts % SLICE_POINTS == 0

    def _read_part(self, read: Callable[[msgspec.Raw], _T], part: msgspec.Raw, place: str) -> _T | None:
        """Return a part, or `None` if it cannot be read: then it is rejected."""
        try:
            return read(part)
        except _DECODING_ERRORS as exc:
            error = MalformedError(f"{place}: {_explain(exc)}")
            self._sink.reject(error)
            self._failure = self._failure or error
            return None

    # ------------------------------------------------------------ the objects around the points
    def _take_resource(self, found: _JsonResourceMetrics, place: str) -> _Turns:
        resource = self._read_part(_Resource, found.resource, f"{place}.resource")
        if resource is None:
            return
        for index, part in enumerate(found.scope_metrics or ()):
            scope_place = f"{place}.scopeMetrics[{index}]"
            scope = self._read_part(_read_scope, part, scope_place)
            if scope is not None:
                yield from self._take_scope(scope, resource, scope_place)
            if self._is_turn_over():
                yield

    def _take_scope(self, scope: _JsonScopeMetrics, resource: _Resource, place: str) -> _Turns:
        for index, part in enumerate(scope.metrics or ()):
            metric = self._read_part(_read_metric, part, f"{place}.metrics[{index}]")
            if metric is not None:
                yield from self._take_metric(metric, resource, place, index)
            if self._is_turn_over():
                yield

    def _take_metric(self, metric: _JsonMetric, resource: _Resource, place: str, index: int) -> _Turns:
        self._is_read = True
        for other in (metric.histogram, metric.exponential_histogram, metric.summary):
            if other is not None and other.data_points:
                self._sink.skip("histogram", len(other.data_points))
        data = metric.gauge or metric.sum
        points = data.data_points if data is not None else None
        if data is None or not points:
            return
        try:
            check_name(metric.name)
            choice = (Kind.GAUGE, False) if metric.gauge is not None else _choose_kind(data)
        except (InvalidSampleError, InvalidValueError) as error:
            place = f"{place}.metrics[{index}] ({metric.name[:64]})"
            self._sink.reject(add_place(error, place), len(points))
            return
        if isinstance(choice, str):
            self._sink.skip(choice, len(points))
        elif metric.name == UTILIZATION and metric.gauge is not None and is_unmeasured(_list_values(points)):
            self._sink.skip("all states are zero", len(points))
        else:
            kind, is_delta = choice
            key = make_stream_key(resource.key, metric.name, kind)
            stream = MetricStream(name=metric.name, kind=kind, is_delta=is_delta, key=key, place=place, index=index)
            yield from self._take_points(points, stream, resource)

    # ------------------------------------------------------------ the points
    def _take_points(self, points: list[msgspec.Raw], stream: MetricStream, resource: _Resource) -> _Turns:
        for index, part in enumerate(points):
            self._take_point(part, stream, resource, index)
            if self._is_turn_over():
                yield

    def _take_point(self, part: msgspec.Raw, stream: MetricStream, resource: _Resource, index: int) -> None:
        try:
            if resource.error is not None:
                raise resource.error
            check_part_size(part)
            point: _Point = _read_point(part)
            labels = make_point_labels(_list_attributes(point.attributes))
            reading = _make_reading(point)
        except _DECODING_ERRORS as exc:
            self._sink.reject(MalformedError(f"{stream.describe(index)}: {_explain(exc)}"))
        except StreamdError as error:
            self._sink.reject(add_place(error, stream.describe(index)))
        else:
            entry = self._writer.find_or_bind(stream, _encode_labels(labels), resource.labels, labels)
            self._writer.write(entry, stream, reading, index)


def _make_reading(point: _Point) -> PointReading:
    value: _Number = point.as_double if point.as_double is not None else point.as_int
    return PointReading(
        start_ns=_read_integer("startTimeUnixNano", point.start_time_unix_nano),
        time_ns=_read_integer("timeUnixNano", point.time_unix_nano),
        value=None if value is None else _read_float("asDouble" if value is point.as_double else "asInt", value),
        has_ended=bool(_read_integer("flags", point.flags) & NO_RECORDED_VALUE),
    )


def _list_values(points: Iterable[msgspec.Raw]) -> Iterator[tuple[float | None, Mapping[str, str]]]:
    for part in points:
        try:
            check_part_size(part)
            point: _Point = _read_point(part)
            reading = _make_reading(point)
            value = None if reading.has_ended else reading.value
            yield value, make_point_labels(_list_attributes(point.attributes))
        except (*_DECODING_ERRORS, StreamdError):
            yield None, {}


def _choose_kind(data: _Data) -> tuple[Kind, bool] | str:
    given = data.aggregation_temporality
    number = _TEMPORALITIES.get(given) if isinstance(given, str) else None
    temporality = _read_integer("aggregationTemporality", given) if number is None else number
    return choose_kind(temporality, bool(data.is_monotonic))


def _list_attributes(attributes: Iterable[_Attribute] | None) -> Iterator[tuple[str, AttributeValue]]:
    for attribute in attributes or ():
        yield attribute.key, _read_attribute_value(attribute.value)


def _read_attribute_value(value: _Value | None) -> AttributeValue:
    if value is None:
        return None
    if value.int_value is not None:
        return _read_integer("intValue", value.int_value)
    if value.double_value is not None:
        return _read_float("doubleValue", value.double_value)
    return value.string_value if value.string_value is not None else value.bool_value


def _encode_labels(labels: Mapping[str, str]) -> bytes:
    # A list, because its first bytes are never a tag of protobuf: so a key of JSON is never equal to one of protobuf.
    return msgspec.json.encode(list(labels.items()))


_INTEGER = re.compile(r"-?[0-9]{1,20}\Z")
_FLOAT = re.compile(r"(?:-?(?:[0-9]{1,400}(?:\.[0-9]{0,400})?(?:[eE][+-]?[0-9]{1,4})?|Infinity)|NaN)\Z")


def _read_integer(name: str, number: _Number) -> int:
    if number is None:
        return 0
    if isinstance(number, str):
        if _INTEGER.match(number):
            return int(number)
    elif number == int(number) and abs(number) < 2**64:
        return int(number)
    raise InvalidValueError(f"{name} is {str(number)[:40]!r}, expected an integer of 64 bits")


def _read_float(name: str, number: int | float | str) -> float:
    if isinstance(number, str) and not _FLOAT.match(number):
        raise InvalidValueError(f"{name} is {number[:40]!r}, expected a number")
    try:
        return float(number)
    except OverflowError:
        raise InvalidValueError(f"{name} is out of range, expected a number of 64 bits") from None


def _explain(exc: Exception) -> str:
    return "it is nested too deeply" if isinstance(exc, RecursionError) else str(exc)
