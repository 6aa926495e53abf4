"""Tests `streamd/protocols/otlp/protobuf.py`: captured, made and hostile requests in protobuf.

`tests/support/naive_otlp.py` computes the expected points.
"""

import contextlib
import random
from itertools import pairwise
from pathlib import Path

import pytest
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import InstrumentationScope, KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import (
    AggregationTemporality,
    Exemplar,
    Gauge,
    Metric,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from streamd.core.errors import MalformedError
from streamd.protocols.otlp import protobuf
from streamd.protocols.otlp.metrics import MAX_KEY_BYTES, SLICE_POINTS
from streamd.protocols.otlp.protobuf import decode_otlp_protobuf
from tests.support.naive_otlp import (
    NOW,
    export_requests,
    list_points,
    make_attributes,
    make_request,
    read_naively,
)
from tests.support.recording_sink import RecordingSink

FIXTURES = sorted(Path("tests/fixtures/agents/opentelemetry").glob("*.body"))
TIME, START = 1_795_899_336_000_000_000, 1_795_899_326_000_000_000
CUMULATIVE = AggregationTemporality.AGGREGATION_TEMPORALITY_CUMULATIVE
DELTA = AggregationTemporality.AGGREGATION_TEMPORALITY_DELTA


def decode(body: bytes, sink: RecordingSink | None = None) -> RecordingSink:
    sink = sink or RecordingSink()
    for _ in decode_otlp_protobuf(body, sink, NOW):
        pass
    return sink


def decode_request(request: ExportMetricsServiceRequest) -> RecordingSink:
    return decode(request.SerializeToString())


def gauge(*points: NumberDataPoint, name: str = "load") -> Metric:
    return Metric(name=name, gauge=Gauge(data_points=points))


def point(value: float = 1.5, **attributes: str) -> NumberDataPoint:
    return NumberDataPoint(time_unix_nano=TIME, as_double=value, attributes=make_attributes(**attributes))


def check(request: ExportMetricsServiceRequest, sink: RecordingSink) -> None:
    expected = read_naively(request)
    assert list_points(sink) == expected.points
    assert len(sink.rejected) == expected.rejected
    assert sink.skipped == expected.skipped


# ---------------------------------------------------------------- what agents send
@pytest.mark.parametrize("path", FIXTURES, ids=lambda path: path.stem)
def test_a_captured_body_gives_the_points_of_the_naive_reader(path: Path) -> None:
    body = path.read_bytes()
    sink = decode(body)
    check(ExportMetricsServiceRequest.FromString(body), sink)
    assert not sink.rejected


def test_series_are_named_by_resource_and_point() -> None:
    sink = decode(Path("tests/fixtures/agents/opentelemetry/second.body").read_bytes())
    assert len(sink.points) == 153
    series, time, value = sink.points[0]
    assert (series.name, series.kind, series.labels["host.name"]) == ("system.cpu.time", "counter", "web-01")
    assert (series.labels["state"], series.labels["cpu"]) == ("idle", "1")  # cpu is an integer
    assert (time, value) == (1795899335.0642414, 1793.64)
    kinds = {series.name: series.kind for series, _, _ in sink.points}
    assert kinds["system.network.connections"] == "gauge"  # a sum that is not monotonic
    assert kinds["system.memory.utilization"] == "gauge"


def test_the_first_export_of_python_has_no_utilization() -> None:
    sink = decode(Path("tests/fixtures/agents/opentelemetry/first-zero-utilization.body").read_bytes())
    assert sink.skipped == {"all states are zero": 8}
    assert "system.cpu.utilization" not in {series.name for series, _, _ in sink.points}
    assert len(sink.points) == 145


def test_a_body_gives_the_same_points_of_the_same_series_again() -> None:
    body = Path("tests/fixtures/agents/opentelemetry/second.body").read_bytes()
    sink = decode(body)
    first = list(sink.points)
    decode(body, sink)  # `bind` fails on a key that it knows
    assert sink.points == first * 2


# ---------------------------------------------------------------- what may be sent
@given(export_requests)
def test_any_request_gives_the_points_of_the_naive_reader(request_: ExportMetricsServiceRequest) -> None:
    body = request_.SerializeToString()
    sink = decode(body)
    check(request_, sink)
    again = decode(body, sink)
    assert list_points(again)[len(sink.points) // 2 :] == read_naively(request_).points


@given(export_requests)
def test_a_large_request_that_is_split_gives_the_same(request_: ExportMetricsServiceRequest) -> None:
    # What is larger than the largest message of one level is split down to that level.
    for level in (ScopeMetrics, Metric, NumberDataPoint):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(protobuf, "MAX_PARSED_BYTES", max_bytes(request_, level))
            check(request_, decode_request(request_))


def max_bytes(request: ExportMetricsServiceRequest, level: type[object]) -> int:
    """Return the size of the largest message of this type, or of the largest resource."""
    resources = list(request.resource_metrics)
    scopes = [scope for each in resources for scope in each.scope_metrics]
    metrics = [metric for scope in scopes for metric in scope.metrics]
    points = [each for metric in metrics for each in (*metric.gauge.data_points, *metric.sum.data_points)]
    found: dict[type[object], list[Message]] = {
        ScopeMetrics: list(scopes),
        Metric: list(metrics),
        NumberDataPoint: list(points),
    }
    sizes = [each.ByteSize() for each in found[level]] + [part.resource.ByteSize() for part in resources]
    return max(sizes, default=0)


def test_a_cumulative_sum_is_a_counter_and_a_level_a_gauge() -> None:
    sink = decode_request(
        make_request(
            Metric(name="up", sum=Sum(data_points=[point()], aggregation_temporality=CUMULATIVE, is_monotonic=True)),
            Metric(name="level", sum=Sum(data_points=[point()], aggregation_temporality=CUMULATIVE)),
        )
    )
    assert [(series.name, series.kind) for series, _, _ in sink.points] == [("up", "counter"), ("level", "gauge")]


def test_a_delta_becomes_a_rate() -> None:
    points = [
        NumberDataPoint(start_time_unix_nano=START, time_unix_nano=TIME, as_int=25),
        NumberDataPoint(time_unix_nano=TIME, as_int=25),
        NumberDataPoint(start_time_unix_nano=TIME, time_unix_nano=TIME, as_int=25),
        NumberDataPoint(start_time_unix_nano=START, time_unix_nano=TIME, as_int=-25),
        NumberDataPoint(start_time_unix_nano=TIME - 1000, time_unix_nano=TIME, as_double=1e25),
    ]
    metric = Metric(name="io", sum=Sum(data_points=points, aggregation_temporality=DELTA, is_monotonic=True))
    sink = decode_request(make_request(metric))
    assert [(series.kind, time, value) for series, time, value in sink.points] == [("gauge", TIME / 1e9, 2.5)]
    assert sink.skipped == {"delta without an interval": 2}
    assert "dataPoints[3] (io): the value is -25.0, expected an increase" in str(sink.rejected[0])
    assert "[4] (io): the value is 1e+25, expected an increase of less than 1e30 a second" in str(sink.rejected[1])


def test_the_change_of_a_level_is_skipped() -> None:
    metric = Metric(name="memory", sum=Sum(data_points=[point()], aggregation_temporality=DELTA))
    assert decode_request(make_request(metric)).skipped == {"delta of a sum that is not monotonic": 1}


def test_a_sum_without_temporality_is_rejected() -> None:
    sink = decode_request(make_request(Metric(name="io", sum=Sum(data_points=[point(), point()]))))
    assert [str(error) for error in sink.rejected] == [
        "resourceMetrics[0].scopeMetrics[0].metrics[0] (io): aggregationTemporality is 0, expected 1 (delta) or 2 "
        "(cumulative)"
    ] * 2


def test_values_that_are_no_measurement() -> None:
    ended = NumberDataPoint(time_unix_nano=TIME, flags=1)
    sink = decode_request(
        make_request(gauge(point(float("nan")), point(float("inf")), ended, NumberDataPoint(as_int=7), point(2.0)))
    )
    assert [(time, value) for _, _, time, value in ((*each[:2], *each[3:]) for each in list_points(sink))] == [
        (TIME / 1e9, "end"),
        (NOW, 7.0),
        (TIME / 1e9, 2.0),
    ]
    assert sink.skipped == {"missing value": 1}
    assert [str(error) for error in sink.rejected] == [
        "resourceMetrics[0].scopeMetrics[0].metrics[0].dataPoints[1] (load): the value is inf, "
        "expected a number of magnitude below 1e30"
    ]


def test_exemplars_and_flags_do_not_make_another_series() -> None:
    plain, with_exemplar, flagged = point(1.0, a="b"), point(2.0, a="b"), point(3.0, a="b")
    with_exemplar.exemplars.append(Exemplar(as_double=1.0))
    flagged.flags = 2
    sink = decode_request(make_request(gauge(plain, with_exemplar, flagged)))
    assert len({id(series) for series, _, _ in sink.points}) == 1
    assert [value for _, _, value in sink.points] == [1.0, 2.0, 3.0]


def test_zero_utilization_without_idle_is_a_measurement() -> None:
    idle, user = point(0.0, state="idle"), point(0.0, state="user")
    for points, taken in (((idle, user), 0), ((user,), 1), ((idle, point(0.1, state="user")), 2)):
        sink = decode_request(make_request(gauge(*points, name="system.cpu.utilization")))
        assert len(sink.points) == taken
    assert len(decode_request(make_request(gauge(idle, user, name="other"))).points) == 2


# ---------------------------------------------------------------- limits
def test_a_point_over_a_limit_is_rejected_alone() -> None:
    many = NumberDataPoint(attributes=[KeyValue(key=str(number)) for number in range(65)], as_int=1)
    sink = decode_request(
        make_request(gauge(many, point(a="x" * 1_025), point(1.0, **{"k" * 1_025: "x"}), point(a="ä" * 512)))
    )
    assert len(sink.points) == 1
    assert [str(error).partition("(load): ")[2] for error in sink.rejected] == [
        "there are over 64 attributes",
        "the attribute a has over 1024 bytes",
        "an attribute's key has over 1024 bytes",
    ]


@pytest.mark.parametrize("name", ["", "n" * 1_025])
def test_a_metric_without_a_usable_name_is_rejected(name: str) -> None:
    sink = decode_request(make_request(gauge(point(), point(), name=name), gauge(point())))
    assert (len(sink.rejected), len(sink.points)) == (2, 1)


def test_a_resource_of_too_many_attributes_costs_only_its_own_points() -> None:
    request = make_request(
        gauge(point(), point()), resource=Resource(attributes=[KeyValue(key=str(number)) for number in range(65)])
    )
    request.MergeFrom(make_request(gauge(point())))
    sink = decode_request(request)
    assert (len(sink.rejected), len(sink.points)) == (2, 1)
    assert "the resource: there are over 64 attributes" in str(sink.rejected[0])


def test_a_long_value_of_a_resource_is_left_out() -> None:
    resource = Resource(attributes=make_attributes(host_name="web-01", process_command_line="java " * 1_000))
    sink = decode_request(make_request(gauge(point()), resource=resource))
    assert sink.points[0][0].labels == {"host.name": "web-01"}


def test_a_point_or_resource_of_absurd_size_is_rejected_before_it_is_parsed() -> None:
    large = [KeyValue()] * 200_000
    request = make_request(gauge(NumberDataPoint(attributes=large), point()))
    request.MergeFrom(make_request(gauge(point()), resource=Resource(attributes=large)))
    sink = decode_request(request)
    assert len(sink.points) == 1
    assert ["at most 262144 bytes" in str(error) for error in sink.rejected] == [True, True]


def test_keys_are_of_bounded_size() -> None:
    class KeySink(RecordingSink):
        largest = 0

        def find(self, key: object) -> None:
            assert isinstance(key, tuple)
            self.largest = max(self.largest, *map(len, key))

    sink = KeySink()
    long = point(1.0, **{f"a{number}": "x" * 1_000 for number in range(60)})
    resource = Resource(attributes=make_attributes(**{f"a{number}": "x" * 1_000 for number in range(60)}))
    decode(make_request(gauge(long), resource=resource).SerializeToString(), sink)
    assert 0 < sink.largest <= MAX_KEY_BYTES


@pytest.mark.parametrize("most", [1_000, 2**30])
def test_the_loop_gets_its_turn_within_a_metric(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protobuf, "MAX_PARSED_BYTES", most)
    body = make_request(gauge(*(point(number) for number in range(10 * SLICE_POINTS)))).SerializeToString()
    sink = RecordingSink()
    seen = [len(sink.points) for _ in decode_otlp_protobuf(body, sink, NOW)]
    assert len(sink.points) == 10 * SLICE_POINTS
    assert max(after - before for before, after in pairwise(seen)) <= SLICE_POINTS


def test_the_loop_gets_its_turn_between_parts_without_points() -> None:
    body = ExportMetricsServiceRequest(resource_metrics=[ResourceMetrics()] * 20_000).SerializeToString()
    assert len(list(decode_otlp_protobuf(body, RecordingSink(), NOW))) >= 20


def test_the_loop_gets_its_turn_between_small_metrics() -> None:
    body = make_request(*(gauge(*[point()] * 6, name=f"m{number}") for number in range(1_500))).SerializeToString()
    assert len(list(decode_otlp_protobuf(body, RecordingSink(), NOW))) >= 9


# ---------------------------------------------------------------- broken bodies
@pytest.mark.parametrize("body", [b"{}", b"hello", b"\x0a", b"\x0a\x05abc", b"\x00\x00", b"\xff" * 20, b"\x0b\x0c"])
def test_a_body_that_is_no_protobuf_is_refused(body: bytes) -> None:
    with pytest.raises(MalformedError):
        decode(body)


def test_an_empty_body_is_an_empty_request() -> None:
    sink = decode(b"")
    assert not sink.points
    assert not sink.rejected


def test_a_body_whose_every_part_is_broken_is_refused() -> None:
    broken = ExportMetricsServiceRequest(resource_metrics=[ResourceMetrics(schema_url="x")]).SerializeToString()
    with pytest.raises(MalformedError, match=r"^resourceMetrics\[0\]: byte \d+"):
        decode(broken.replace(b"\x1a\x01x", b"\x1a\x09x"))


def test_a_body_that_is_cut_off_is_refused_before_its_first_point() -> None:
    body = make_request(gauge(point())).SerializeToString() * 2
    sink = RecordingSink()
    with pytest.raises(MalformedError):
        decode(body[:-1], sink)
    assert not sink.points


def test_a_text_that_is_not_utf8_costs_only_its_point() -> None:
    body = make_request(gauge(point(1.0), point(2.0, a="bad"), point(3.0)), gauge(point(4.0))).SerializeToString()
    sink = decode(body.replace(b"bad", b"\xff\xff\xff"))
    assert [value for _, _, value in sink.points] == [1.0, 3.0, 4.0]
    assert [str(error) for error in sink.rejected] == [
        "resourceMetrics[0].scopeMetrics[0].metrics[0].dataPoints[1] (load): is not valid protobuf of at most 262144 "
        "bytes"
    ]


def test_a_broken_metric_costs_only_itself() -> None:
    request = make_request(gauge(point(), name="wrong"), gauge(point(), name="right"))
    sink = decode(request.SerializeToString().replace(b"wrong", b"\xff\xff\xff\xff\xff"))
    assert [series.name for series, _, _ in sink.points] == ["right"]
    assert "metrics[0]: the metric's name is not UTF-8" in str(sink.rejected[0])


def test_a_broken_resource_costs_only_its_own_points() -> None:
    request = make_request(gauge(point()), resource=Resource(attributes=make_attributes(host_name="wrong")))
    request.MergeFrom(make_request(gauge(point())))
    sink = decode(request.SerializeToString().replace(b"wrong", b"\xff\xff\xff\xff\xff"))
    assert [series.labels for series, _, _ in sink.points] == [{"host.name": "web-01"}]
    assert "the resource is not valid protobuf" in str(sink.rejected[0])


def test_a_message_that_is_given_twice_is_refused_when_it_is_split(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protobuf, "MAX_PARSED_BYTES", 0)
    metric = gauge(point()).SerializeToString()
    scope = ScopeMetrics(scope=InstrumentationScope(name="x")).SerializeToString() + bytes([0x12, 2 * len(metric)])
    inner = scope + metric + metric
    body = bytes([0x0A, len(inner) + 2, 0x12, len(inner)]) + inner
    with pytest.raises(MalformedError, match="expected the data of one kind"):
        decode(body)


def test_millions_of_empty_parts_are_bounded() -> None:
    # A metric with 100,000 empty points, a scope with as many fields that are unknown.
    points = b"\x0a\x00" * 100_000
    gauge_field = b"\x2a" + _varint(len(points)) + points
    metric = b"\x0a\x01m" + gauge_field
    scope = b"\x12" + _varint(len(metric)) + metric + b"\x18\x00" * 100_000
    resource = b"\x12" + _varint(len(scope)) + scope
    sink = RecordingSink()
    turns = sum(1 for _ in decode_otlp_protobuf(b"\x0a" + _varint(len(resource)) + resource, sink, NOW))
    assert turns >= 100
    assert sink.skipped == {"missing value": 100_000}
    assert "over 10000 fields" in str(sink.rejected[0])


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


@given(st.binary(max_size=200))
def test_any_bytes_are_taken_or_refused(body: bytes) -> None:
    with contextlib.suppress(MalformedError):
        decode(body)


@given(st.sampled_from(FIXTURES), st.randoms(use_true_random=False), st.integers(1, 20))
def test_a_damaged_capture_is_taken_or_refused(path: Path, rng: random.Random, damages: int) -> None:
    body = bytearray(path.read_bytes())
    for _ in range(damages):
        at = rng.randrange(len(body))
        rng.choice([_flip, _cut, _repeat])(body, at, rng)
    with contextlib.suppress(MalformedError):
        decode(bytes(body))


def _flip(body: bytearray, at: int, rng: random.Random) -> None:
    body[at : at + 1] = bytes([rng.randrange(256)])


def _cut(body: bytearray, at: int, rng: random.Random) -> None:
    del body[at : at + rng.randrange(1, 9)]


def _repeat(body: bytearray, at: int, rng: random.Random) -> None:
    body[at:at] = body[at : at + rng.randrange(1, 30)]


@given(st.sampled_from(FIXTURES), st.integers(0, 152), st.integers(0, 255))
def test_damage_within_one_point_leaves_the_others(path: Path, number: int, value: int) -> None:
    request = ExportMetricsServiceRequest.FromString(path.read_bytes())
    points = [
        each
        for metric in request.resource_metrics[0].scope_metrics[0].metrics
        for each in (metric.gauge.data_points if metric.HasField("gauge") else metric.sum.data_points)
    ]
    whole = len(decode_request(request).points)
    marked = points[number]
    marked.attributes.extend(make_attributes(mark="MARKMARK"))
    body = request.SerializeToString().replace(b"MARKMARK", b"MARK" + bytes([value]) * 4)
    assert len(decode(body).points) >= whole - 8 - 1  # of the first export, eight are skipped if they are all zero
