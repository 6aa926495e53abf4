"""Decodes export requests in protobuf into points.

Each `ResourceMetrics` is parsed by the official messages (opentelemetry-proto). One that is too large or broken is
split into its parts, which are parsed one by one. So a broken point is rejected alone, and a hostile body of 8 MiB,
which takes over 300 MB when it is parsed, is never in memory as a whole.
"""

import struct
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import islice
from typing import Generic, TypeVar

import msgspec
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, Sum
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from streamd.core.errors import InvalidSampleError, MalformedError, StreamdError
from streamd.core.mapping.series import Kind, PointSink, SeriesEntry
from streamd.core.values import LEAST_REFUSED
from streamd.protocols.otlp.metrics import (
    MAX_KEY_BYTES,
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
    shorten,
)
from streamd.protocols.otlp.wire import FIXED64, VARINT, make_tag, read_varint, walk_fields

MAX_PARSED_BYTES = 256 * 1_024
"""The largest size of a part that is parsed at once; as objects it may take forty times as much."""

MAX_OTHER_FIELDS = 10_000
"""The largest number of unused fields in a part that is split, because they are read in one turn of the loop."""

_RESOURCE_METRICS = make_tag(ExportMetricsServiceRequest.RESOURCE_METRICS_FIELD_NUMBER)
_RESOURCE = make_tag(ResourceMetrics.RESOURCE_FIELD_NUMBER)
_SCOPE_METRICS = make_tag(ResourceMetrics.SCOPE_METRICS_FIELD_NUMBER)
_METRICS = make_tag(ScopeMetrics.METRICS_FIELD_NUMBER)
_NAME = make_tag(Metric.NAME_FIELD_NUMBER)
_DATA = {
    make_tag(Metric.GAUGE_FIELD_NUMBER): "gauge",
    make_tag(Metric.SUM_FIELD_NUMBER): "sum",
    make_tag(Metric.HISTOGRAM_FIELD_NUMBER): "histogram",
    make_tag(Metric.EXPONENTIAL_HISTOGRAM_FIELD_NUMBER): "exponential_histogram",
    make_tag(Metric.SUMMARY_FIELD_NUMBER): "summary",
}
_POINTS = make_tag(Sum.DATA_POINTS_FIELD_NUMBER)
"""The tag of a point, which is the same in all kinds of data."""
_TEMPORALITY = make_tag(Sum.AGGREGATION_TEMPORALITY_FIELD_NUMBER, VARINT)
_MONOTONIC = make_tag(Sum.IS_MONOTONIC_FIELD_NUMBER, VARINT)

_START = make_tag(NumberDataPoint.START_TIME_UNIX_NANO_FIELD_NUMBER, FIXED64)
_TIME = make_tag(NumberDataPoint.TIME_UNIX_NANO_FIELD_NUMBER, FIXED64)
_DOUBLE = make_tag(NumberDataPoint.AS_DOUBLE_FIELD_NUMBER, FIXED64)
_INT = make_tag(NumberDataPoint.AS_INT_FIELD_NUMBER, FIXED64)

# The library writes the times and the value of a point first, each as a tag and eight bytes, and then its attributes. A
# gauge has no start time. So the tags, which are nine bytes apart, decide how to read the time and the value.
_HEAD_BYTES, _HEAD_BYTES_WITHOUT_START = 27, 18
_HEAD_READERS = {
    bytes([_START, _TIME, _DOUBLE]): struct.Struct("<10xQxd").unpack_from,
    bytes([_START, _TIME, _INT]): struct.Struct("<10xQxq").unpack_from,
}
_HEAD_READERS_WITHOUT_START = {
    bytes([_TIME, _DOUBLE]): struct.Struct("<xQxd").unpack_from,
    bytes([_TIME, _INT]): struct.Struct("<xQxq").unpack_from,
}

_LABEL_KINDS = ("string_value", "bool_value", "int_value", "double_value")
"""The kinds of attribute values that can be a label; arrays, maps and bytes cannot."""

_Turns = Generator[None, None, None]

_Span = tuple[int, int]
"""The positions of the first byte of a part and of the byte after its last one."""

_M = TypeVar("_M", ResourceMetrics, ScopeMetrics, Metric)


def decode_otlp_protobuf(body: bytes, sink: PointSink[SeriesEntry], now: float) -> Iterator[None]:
    """Write the points of an `ExportMetricsServiceRequest` to a sink; yields after each slice of them.

    Raises `MalformedError` if nothing of the body can be read.
    """
    return _Decoder(body, sink, now).decode()


class _Resource:
    """A resource as encoded; its labels are decoded only for a new series."""

    def __init__(self, data: bytes) -> None:
        self.key = make_digest(data)
        self._data = data
        self._labels: Mapping[str, str] | StreamdError | None = None

    def get_labels(self) -> Mapping[str, str]:
        """Return the labels; raises `InvalidSampleError` or `MalformedError` if they cannot be read."""
        if self._labels is None:
            try:
                if len(self._data) > MAX_PARSED_BYTES:
                    raise DecodeError
                self._labels = make_resource_labels(_read_attributes(Resource.FromString(self._data).attributes))
            except DecodeError:
                reason = f"the resource is not valid protobuf of at most {MAX_PARSED_BYTES} bytes"
                self._labels = MalformedError(reason)
            except InvalidSampleError as error:
                self._labels = add_place(error, "the resource")
        if isinstance(self._labels, StreamdError):
            raise self._labels
        return self._labels


class _FoundMetric(msgspec.Struct, kw_only=True):
    """A metric, either parsed at once or split."""

    name: str
    data: str
    """`gauge`, `sum`, or one of the histograms."""
    count: int
    temporality: int
    is_monotonic: bool
    message: bytes
    """The message of its data, with its points."""


class _Decoder(Generic[SeriesEntry]):
    """The decoding of one body."""

    def __init__(self, body: bytes, sink: PointSink[SeriesEntry], now: float) -> None:
        self._body = body
        self._sink = sink
        self._writer = PointWriter(sink, now)
        self._steps = 0
        """Points and parts of the body since the last yield."""
        self._is_read = False
        """Whether a metric could be read."""
        self._failure: MalformedError | None = None
        """The first part that could not be read."""

    def decode(self) -> _Turns:
        # A body that is cut off must be refused before its first point is taken.
        for _ in walk_fields(self._body, 0, len(self._body)):
            if self._is_turn_over():
                yield
        index = 0
        for tag, begin, end in walk_fields(self._body, 0, len(self._body)):
            if tag == _RESOURCE_METRICS:
                yield from self._guard(self._take_resource((begin, end), f"resourceMetrics[{index}]"))
                index += 1
            if self._is_turn_over():
                yield
        if self._failure is not None and not self._is_read:
            raise self._failure

    def _is_turn_over(self) -> bool:
        self._steps += 1
        if self._steps < SLICE_POINTS:
            return False
        self._steps = 0
        return True

    def _guard(self, turns: _Turns) -> _Turns:
        """Take a part. If it has a defect, the rest of this part is lost, and the parts after it are taken."""
        try:
            yield from turns
        except MalformedError as error:
            self._sink.reject(error)
            self._failure = self._failure or error

    # ------------------------------------------------------------ the messages around the points
    def _take_resource(self, part: _Span, place: str) -> _Turns:
        resource, scopes = self._open_resource(part, place)
        for index, scope in enumerate(scopes):
            yield from self._guard(self._take_scope(scope, resource, f"{place}.scopeMetrics[{index}]"))
            if self._is_turn_over():
                yield

    def _open_resource(self, part: _Span, place: str) -> tuple[_Resource, Iterable[ScopeMetrics | _Span]]:
        message = self._parse(ResourceMetrics, part)
        if message is not None:
            return _Resource(message.resource.SerializeToString()), message.scope_metrics
        return self._find_resource(part, place), self._split(part, _SCOPE_METRICS, place)

    def _take_scope(self, part: ScopeMetrics | _Span, resource: _Resource, place: str) -> _Turns:
        message = self._parse(ScopeMetrics, part)
        if message is not None:
            for index, metric in enumerate(message.metrics):
                found = _describe_metric(metric)
                if found is not None:
                    for _ in self._take_metric(found, resource, place, index):
                        yield
                if self._is_turn_over():
                    yield
        else:
            assert isinstance(part, tuple)
            for index, span in enumerate(self._split(part, _METRICS, place)):
                yield from self._guard(self._take_part(span, resource, place, index))
                if self._is_turn_over():
                    yield

    def _take_part(self, part: _Span, resource: _Resource, place: str, index: int) -> _Turns:
        message = self._parse(Metric, part)
        if message is not None:
            found = _describe_metric(message)
        else:
            found = yield from self._split_metric(part, f"{place}.metrics[{index}]")
        if found is not None:
            yield from self._take_metric(found, resource, place, index)

    def _take_metric(self, found: _FoundMetric, resource: _Resource, place: str, index: int) -> Iterable[None]:
        """Take a metric, and return the turns in which the rest of its points are taken."""
        self._is_read = True
        try:
            choice = _choose_kind(found)
        except InvalidSampleError as error:
            self._reject_metric(add_place(error, f"{place}.metrics[{index}] ({found.name[:64]})"), found.count)
            return ()
        if isinstance(choice, str):
            self._skip(choice, found.count)
            return ()
        if found.name == UTILIZATION and found.data == "gauge" and is_unmeasured(_list_values(found.message)):
            self._skip("all states are zero", found.count)
            return ()
        kind, is_delta = choice
        key = make_stream_key(resource.key, found.name, kind)
        stream = MetricStream(name=found.name, kind=kind, is_delta=is_delta, key=key, place=place, index=index)
        if found.count > SLICE_POINTS:
            return self._take_slices(found.message, stream, resource)
        self._steps += found.count
        self._take_points(found.message, 0, 0, stream, resource)
        return ()

    def _take_slices(self, message: bytes, stream: MetricStream, resource: _Resource) -> _Turns:
        at = index = 0
        while at < len(message):
            at, index = self._take_points(message, at, index, stream, resource)
            yield

    def _reject_metric(self, error: StreamdError, count: int) -> None:
        if count:
            self._sink.reject(error, count)

    def _skip(self, reason: str, count: int) -> None:
        if count:
            self._sink.skip(reason, count)

    def _parse(self, message: type[_M], part: _M | _Span) -> _M | None:
        """Return a part as a message, or `None` if it must be split: it is too large or broken."""
        if not isinstance(part, tuple):
            return part
        begin, end = part
        if end - begin > MAX_PARSED_BYTES:
            return None
        try:
            return message.FromString(self._body[begin:end])
        except DecodeError:
            return None

    # ------------------------------------------------------------ parts that must be split
    def _split(self, part: _Span, wanted: int, place: str) -> Iterator[_Span]:
        """Yield the fields of a part that have this tag."""
        others = 0
        try:
            for tag, begin, end in walk_fields(self._body, *part):
                if tag == wanted:
                    yield begin, end
                else:
                    others += 1
                    if others > MAX_OTHER_FIELDS:
                        raise MalformedError(f"it has over {MAX_OTHER_FIELDS} fields without points")
        except MalformedError as error:
            raise add_place(error, place) from error

    def _find_resource(self, part: _Span, place: str) -> _Resource:
        spans = list(islice(self._split(part, _RESOURCE, place), 2))
        if len(spans) > 1:
            raise MalformedError(f"{place}: the resource is given twice")
        return _Resource(self._body[slice(*spans[0])] if spans else b"")

    def _split_metric(self, part: _Span, place: str) -> Generator[None, None, _FoundMetric]:
        """Return a metric that cannot be parsed at once."""
        name, data, span, others = b"", "", (0, 0), 0
        try:
            for tag, begin, end in walk_fields(self._body, *part):
                others += 1
                if tag == _NAME:
                    name = self._body[begin:end]
                elif tag in _DATA and not data:
                    data, span = _DATA[tag], (begin, end)
                elif tag in _DATA or others > MAX_OTHER_FIELDS:
                    raise MalformedError("expected the data of one kind, and no more")
            count, temporality, is_monotonic = yield from self._scan_data(span)
            text = name.decode()
        except MalformedError as error:
            raise add_place(error, place) from error
        except UnicodeDecodeError as exc:
            raise MalformedError(f"{place}: the metric's name is not UTF-8: {exc}") from exc
        return _FoundMetric(
            name=text,
            data=data,
            count=count,
            temporality=temporality,
            is_monotonic=is_monotonic,
            message=self._body[slice(*span)],
        )

    def _scan_data(self, span: _Span) -> Generator[None, None, tuple[int, int, bool]]:
        """Return the number of points of this data, its temporality and whether it is monotonic."""
        count, temporality, is_monotonic = 0, 0, False
        for tag, begin, end in walk_fields(self._body, *span):
            if tag == _POINTS:
                count += 1
            elif tag == _TEMPORALITY:
                temporality, _ = read_varint(self._body, begin, end)
            elif tag == _MONOTONIC:
                is_monotonic = read_varint(self._body, begin, end)[0] != 0
            if self._is_turn_over():
                yield
        return count, temporality, is_monotonic

    # ------------------------------------------------------------ points
    def _take_points(
        self, message: bytes, at: int, index: int, stream: MetricStream, resource: _Resource
    ) -> tuple[int, int]:
        """Take up to `SLICE_POINTS` points; returns the position after the last one, and the index of the next.

        The bytes after the head of a point are its key. They are equal to the key of a known series only if they are
        the same attributes, as the library writes them, and nothing else. A point that also has flags or exemplars, or
        another form, is decoded by `_take_point`.
        """
        find, add = self._sink.find, self._sink.add
        key, is_plain, end, stop = stream.key, not stream.is_delta, len(message), index + SLICE_POINTS
        while at < end and index < stop:
            if message[at] == _POINTS and message[at + 1] < 0x80:
                begin = at + 2
                at = begin + message[at + 1]
            else:
                tag, begin, at = next(walk_fields(message, at, end))
                if tag != _POINTS:
                    continue
            head_end, read_head = begin + _HEAD_BYTES, _HEAD_READERS.get(message[begin : begin + _HEAD_BYTES : 9])
            if read_head is None:
                head_end = begin + _HEAD_BYTES_WITHOUT_START
                read_head = _HEAD_READERS_WITHOUT_START.get(message[begin:head_end:9])
            if read_head is not None and is_plain and head_end <= at:
                time, value = read_head(message, begin)
                tail = message[head_end:at]
                entry = find((key, tail if len(tail) <= MAX_KEY_BYTES else shorten(tail)))
                if entry is not None and time and -LEAST_REFUSED < value < LEAST_REFUSED:  # not `is_value`: no call
                    add(entry, time / 1e9, value + 0.0)  # an integer becomes a float
                    index += 1
                    continue
            self._take_point(message[begin:at], stream, resource, index)
            index += 1
        return at, index

    def _take_point(self, data: bytes, stream: MetricStream, resource: _Resource, index: int) -> None:
        """Take a point of a new series, or a point of an unusual form."""
        try:
            point = _parse_point(data)
            labels = make_point_labels(_read_attributes(point.attributes))
            resource_labels = resource.get_labels()
        except StreamdError as error:
            self._sink.reject(add_place(error, stream.describe(index)))
            return
        tail = NumberDataPoint(attributes=point.attributes).SerializeToString()
        entry = self._writer.find_or_bind(stream, tail, resource_labels, labels)
        self._writer.write(entry, stream, _make_reading(point), index)


def _list_values(message: bytes) -> Iterator[tuple[float | None, Mapping[str, str]]]:
    for tag, begin, end in walk_fields(message, 0, len(message)):
        if tag == _POINTS:
            try:
                point = _parse_point(message[begin:end])
                reading = _make_reading(point)
                value = None if reading.has_ended else reading.value
                yield value, make_point_labels(_read_attributes(point.attributes))
            except StreamdError:
                yield None, {}


def _parse_point(data: bytes) -> NumberDataPoint:
    if len(data) <= MAX_PARSED_BYTES:
        with suppress(DecodeError):
            return NumberDataPoint.FromString(data)
    raise MalformedError(f"is not valid protobuf of at most {MAX_PARSED_BYTES} bytes")


def _describe_metric(metric: Metric) -> _FoundMetric | None:
    kind = metric.WhichOneof("data")
    if kind is None:
        return None
    data = getattr(metric, kind)
    is_sum = kind == "sum"
    return _FoundMetric(
        name=metric.name,
        data=kind,
        count=len(data.data_points),
        temporality=data.aggregation_temporality if is_sum else 0,
        is_monotonic=is_sum and data.is_monotonic,
        message=data.SerializeToString(),
    )


def _choose_kind(found: _FoundMetric) -> tuple[Kind, bool] | str:
    """Return the kind of a metric and whether it is a delta, or the reason why its points are no measurements."""
    if found.data not in ("gauge", "sum"):
        return "histogram"
    check_name(found.name)
    return (Kind.GAUGE, False) if found.data == "gauge" else choose_kind(found.temporality, found.is_monotonic)


def _make_reading(point: NumberDataPoint) -> PointReading:
    kind = point.WhichOneof("value")
    return PointReading(
        start_ns=point.start_time_unix_nano,
        time_ns=point.time_unix_nano,
        value=None if kind is None else float(getattr(point, kind)),
        has_ended=bool(point.flags & NO_RECORDED_VALUE),
    )


def _read_attributes(attributes: Iterable[KeyValue]) -> Iterator[tuple[str, AttributeValue]]:
    for attribute in attributes:
        kind = attribute.value.WhichOneof("value")
        yield attribute.key, getattr(attribute.value, kind) if kind in _LABEL_KINDS else None
