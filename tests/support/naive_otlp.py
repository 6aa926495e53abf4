"""A naive reader of OTLP metrics over the official messages, and a strategy for requests."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.json_format import MessageToDict
from hypothesis import strategies as st
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import (
    Exemplar,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from tests.support.recording_sink import RecordingSink

NOW = 1_795_900_000.25

Point = tuple[str, str | None, tuple[tuple[str, str], ...], float, float | str]
"""Name, kind, labels, time, and the value; `end` if the series ends."""


@dataclass
class Expected:
    """The expected result of a request."""

    points: list[Point] = field(default_factory=list)
    rejected: int = 0
    skipped: Counter[str] = field(default_factory=Counter)


def read_naively(request: ExportMetricsServiceRequest) -> Expected:
    """Return the expected result of a request."""
    expected = Expected()
    for resource_metrics in request.resource_metrics:
        resource = naive_labels(resource_metrics.resource.attributes)
        for scope_metrics in resource_metrics.scope_metrics:
            for metric in scope_metrics.metrics:
                read_metric_naively(metric, resource, expected)
    return expected


def read_metric_naively(metric: Metric, resource: Mapping[str, str], expected: Expected) -> None:
    kind = metric.WhichOneof("data")
    if kind is None:
        return
    data: Any = getattr(metric, kind)
    count = len(data.data_points)
    is_delta = kind == "sum" and data.aggregation_temporality == 1
    if not count:
        return
    if kind not in ("gauge", "sum"):
        expected.skipped["histogram"] += count
    elif not metric.name or (kind == "sum" and data.aggregation_temporality not in (1, 2)):
        expected.rejected += count
    elif is_delta and not data.is_monotonic:
        expected.skipped["delta of a sum that is not monotonic"] += count
    elif kind == "gauge" and metric.name == "system.cpu.utilization" and is_all_zero(data.data_points):
        expected.skipped["all states are zero"] += count
    else:
        series_kind = "counter" if kind == "sum" and data.is_monotonic and not is_delta else "gauge"
        for point in data.data_points:
            labels = {**resource, **naive_labels(point.attributes)}
            read_point_naively((metric.name, series_kind, tuple(sorted(labels.items()))), point, is_delta, expected)


def read_point_naively(
    series: tuple[str, str, tuple[tuple[str, str], ...]], point: NumberDataPoint, is_delta: bool, expected: Expected
) -> None:
    start, end = point.start_time_unix_nano, point.time_unix_nano
    time = end / 1e9 if end else NOW
    value = naive_value(point)
    if point.flags & 1:
        expected.points.append((*series, time, "end"))
    elif value is None or math.isnan(value):
        expected.skipped["missing value"] += 1
    elif abs(value) >= 9.999999772685344e29:
        expected.rejected += 1
    elif not is_delta:
        expected.points.append((*series, time, value))
    elif start == 0 or start >= end:
        expected.skipped["delta without an interval"] += 1
    elif value < 0 or value / ((end - start) / 1e9) >= 9.999999772685344e29:
        expected.rejected += 1
    else:
        expected.points.append((*series, time, value / ((end - start) / 1e9)))


def is_all_zero(points: Any) -> bool:
    """Whether all points are zero, and idle is one of the states."""
    zero = all(naive_value(point) == 0 and not point.flags & 1 for point in points)
    return zero and any("idle" in naive_labels(point.attributes).values() for point in points)


def naive_value(point: NumberDataPoint) -> float | None:
    if point.HasField("as_double"):
        return point.as_double
    return float(point.as_int) if point.HasField("as_int") else None


def naive_labels(attributes: Any) -> dict[str, str]:
    labels = {}
    for attribute in attributes:
        value = attribute.value
        if value.HasField("string_value"):
            labels[attribute.key] = value.string_value
        elif value.HasField("bool_value"):
            labels[attribute.key] = "true" if value.bool_value else "false"
        elif value.HasField("int_value"):
            labels[attribute.key] = str(value.int_value)
        elif value.HasField("double_value"):
            labels[attribute.key] = str(value.double_value)
    return labels


def list_points(sink: RecordingSink) -> list[Point]:
    """Return the points of a sink in a form that can be compared."""
    return [
        (
            series.name,
            series.kind.value if series.kind else None,
            tuple(sorted(series.labels.items())),
            time,
            "end" if math.isnan(value) else value,
        )
        for series, time, value in sink.points
    ]


def to_otlp_json(request: ExportMetricsServiceRequest) -> dict[str, Any]:
    """Return a request in OTLP's JSON: enumerations are numbers, and the ids of exemplars hexadecimal."""
    shown: dict[str, Any] = MessageToDict(request, use_integers_for_enums=True)
    for resource_metrics in shown.get("resourceMetrics", ()):
        for scope_metrics in resource_metrics.get("scopeMetrics", ()):
            for metric in scope_metrics.get("metrics", ()):
                for data in (metric.get("gauge", {}), metric.get("sum", {})):
                    for point in data.get("dataPoints", ()):
                        for exemplar in point.get("exemplars", ()):
                            exemplar |= {"traceId": "5b8efff798038103d269b633813fc60c", "spanId": "eee19b7ec3c1b174"}
    return shown


# ---------------------------------------------------------------- requests
def make_attributes(**values: str | bool | int | float) -> list[KeyValue]:
    """Return attributes; `_` in a name stands for a dot."""
    return [KeyValue(key=key.replace("_", "."), value=make_any_value(value)) for key, value in values.items()]


def make_any_value(value: str | bool | int | float) -> AnyValue:
    if isinstance(value, bool):
        return AnyValue(bool_value=value)
    if isinstance(value, int):
        return AnyValue(int_value=value)
    return AnyValue(double_value=value) if isinstance(value, float) else AnyValue(string_value=value)


def make_request(*metrics: Metric, resource: Resource | None = None) -> ExportMetricsServiceRequest:
    """Return a request with these metrics of one server, `web-01` if no other resource is given."""
    resource = resource or Resource(attributes=make_attributes(host_name="web-01"))
    scope = ScopeMetrics(metrics=metrics)
    return ExportMetricsServiceRequest(resource_metrics=[ResourceMetrics(resource=resource, scope_metrics=[scope])])


_texts = st.text(max_size=6) | st.sampled_from(["host.name", "state", "idle", "user", "cpu", "x" * 300])
_scalars = st.one_of(
    _texts.map(lambda text: AnyValue(string_value=text)),
    st.booleans().map(lambda value: AnyValue(bool_value=value)),
    st.integers(-(2**63), 2**63 - 1).map(lambda value: AnyValue(int_value=value)),
    st.floats(allow_nan=False, allow_infinity=False).map(lambda value: AnyValue(double_value=value)),
)
_any_values: st.SearchStrategy[dict[str, Any]] = st.one_of(
    _scalars,
    st.just(AnyValue()),
    st.binary(max_size=4).map(lambda value: AnyValue(bytes_value=value)),
    st.lists(_scalars, max_size=2).map(lambda values: AnyValue(array_value=ArrayValue(values=values))),
)
_attributes = st.lists(st.builds(KeyValue, key=_texts, value=_any_values), max_size=4)
_times = st.sampled_from([0, 1, 1_795_899_335_064_241_400, 1_795_899_336_000_000_000, 2**64 - 1])
_values: st.SearchStrategy[dict[str, Any]] = st.one_of(
    st.fixed_dictionaries({"as_double": st.floats() | st.sampled_from([0.0, -0.0, math.nan, math.inf, 1e308])}),
    st.fixed_dictionaries({"as_int": st.integers(-(2**63), 2**63 - 1) | st.sampled_from([0, 1])}),
    st.just({}),
)


@st.composite
def _points(draw: st.DrawFn) -> NumberDataPoint:
    return NumberDataPoint(
        attributes=draw(_attributes),
        start_time_unix_nano=draw(_times),
        time_unix_nano=draw(_times),
        flags=draw(st.sampled_from([0, 0, 0, 1, 2, 3])),
        exemplars=[Exemplar(as_double=1.0)] if draw(st.integers(0, 9)) == 0 else [],
        **draw(_values),
    )


@st.composite
def _metrics(draw: st.DrawFn) -> Metric:
    metric = Metric(name=draw(st.sampled_from(["system.cpu.utilization", "system.cpu.time", "ä", ""])), unit="1")
    kind = draw(st.sampled_from(["gauge", "gauge", "sum", "sum", "sum", "histogram", "none"]))
    points = draw(st.lists(_points(), max_size=4))
    if kind == "gauge":
        metric.gauge.CopyFrom(Gauge(data_points=points))
    elif kind == "sum":
        temporality: Any = draw(st.sampled_from([0, 1, 2, 2, 7]))
        metric.sum.CopyFrom(
            Sum(data_points=points, aggregation_temporality=temporality, is_monotonic=draw(st.booleans()))
        )
    elif kind == "histogram":
        metric.histogram.CopyFrom(Histogram(data_points=[HistogramDataPoint(count=3)] * len(points)))
    return metric


export_requests = st.lists(
    st.builds(
        ResourceMetrics,
        resource=st.builds(Resource, attributes=_attributes),
        scope_metrics=st.lists(st.builds(ScopeMetrics, metrics=st.lists(_metrics(), max_size=3)), max_size=2),
    ),
    max_size=2,
).map(lambda parts: ExportMetricsServiceRequest(resource_metrics=parts))
"""Requests of all kinds of metrics and points, sensible or not."""
