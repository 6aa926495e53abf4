"""Tests `streamd/protocols/otlp/json.py`: captured, made and hostile requests in OTLP's JSON.

`tests/support/naive_otlp.py` computes the expected points from the same request in protobuf.
"""

import contextlib
import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from streamd.core.errors import MalformedError
from streamd.protocols.otlp.json import decode_otlp_json
from streamd.protocols.otlp.metrics import SLICE_POINTS
from tests.support.naive_otlp import NOW, export_requests, list_points, read_naively, to_otlp_json
from tests.support.recording_sink import RecordingSink

FIXTURES = sorted(Path("tests/fixtures/agents/opentelemetry").glob("*.body"))
TIME = "1795899336000000000"


def decode(body: Any, sink: RecordingSink | None = None) -> RecordingSink:
    sink = sink or RecordingSink()
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    for _ in decode_otlp_json(data, sink, NOW):
        pass
    return sink


def make_body(*points: Any, resource: Any = None, name: Any = "load", **data: Any) -> dict[str, Any]:
    """Return a request with one metric, a gauge if no other data is given."""
    metric = {"name": name, **(data or {"gauge": {"dataPoints": list(points)}})}
    resource = resource or {"attributes": [{"key": "host.name", "value": {"stringValue": "web-01"}}]}
    return {"resourceMetrics": [{"resource": resource, "scopeMetrics": [{"metrics": [metric]}]}]}


# ---------------------------------------------------------------- the same as in protobuf
@pytest.mark.parametrize("path", FIXTURES, ids=lambda path: path.stem)
def test_a_captured_body_in_json_gives_the_same_points(path: Path) -> None:
    request = ExportMetricsServiceRequest.FromString(path.read_bytes())
    body = to_otlp_json(request)
    sink, expected = decode(body), read_naively(request)
    assert list_points(sink) == expected.points
    assert sink.skipped == expected.skipped
    assert not sink.rejected
    decode(body, sink)  # `bind` fails on a key that it knows
    assert list_points(sink) == expected.points * 2


@given(export_requests)
def test_any_request_gives_the_points_of_the_naive_reader(request_: ExportMetricsServiceRequest) -> None:
    sink, expected = decode(to_otlp_json(request_)), read_naively(request_)
    assert list_points(sink) == expected.points
    assert len(sink.rejected) == expected.rejected
    assert sink.skipped == expected.skipped


# ---------------------------------------------------------------- what only JSON has
@pytest.mark.parametrize(
    ("fields", "value"),
    [
        ({"asDouble": 1.5}, 1.5),
        ({"asDouble": 2}, 2.0),
        ({"asDouble": "1.5e1"}, 15.0),
        ({"asInt": "-7"}, -7.0),
        ({"asInt": 7}, 7.0),
        ({"asInt": 7.0}, 7.0),
        ({"asDouble": None, "asInt": "3"}, 3.0),
        ({"asDouble": 0}, 0.0),
    ],
)
def test_numbers_may_be_texts(fields: dict[str, Any], value: float) -> None:
    sink = decode(make_body({"timeUnixNano": TIME, **fields}))
    assert [(time, value) for _, time, value in sink.points] == [(1795899336.0, value)]


@pytest.mark.parametrize("time", [None, "0", 0])
def test_a_point_without_time_has_that_of_its_arrival(time: Any) -> None:
    assert decode(make_body({"timeUnixNano": time, "asInt": 1})).points[0][1] == NOW


@pytest.mark.parametrize(
    ("temporality", "kind"),
    [(2, "counter"), ("2", "counter"), ("AGGREGATION_TEMPORALITY_CUMULATIVE", "counter"), (1, "gauge")],
)
def test_enumerations_are_numbers_and_names_are_taken(temporality: Any, kind: str) -> None:
    point = {"startTimeUnixNano": "1795899335000000000", "timeUnixNano": TIME, "asInt": "5"}
    data = {"dataPoints": [point], "aggregationTemporality": temporality, "isMonotonic": True}
    assert [series.kind for series, _, _ in decode(make_body(sum=data)).points] == [kind]


def test_unknown_fields_and_null_are_ignored() -> None:
    point = {"asDouble": 1.0, "attributes": None, "flags": None, "exemplars": [{"traceId": "abc"}], "x": {"y": [1]}}
    body = make_body(point, resource={"attributes": None, "droppedAttributesCount": 1})
    body["resourceMetrics"][0] |= {"schemaUrl": "x", "entityRefs": []}
    assert len(decode(body).points) == 1


@pytest.mark.parametrize(
    "body", [{}, {"resourceMetrics": None}, {"resourceMetrics": [{}]}, {"resourceMetrics": [{"scopeMetrics": [{}]}]}]
)
def test_an_empty_request(body: Any) -> None:
    sink = decode(body)
    assert not sink.points
    assert not sink.rejected


# ---------------------------------------------------------------- broken bodies
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{",
        b'{"resourceMetrics": 1}',
        b'{"resourceMetrics": [{]}',
        b'{"resourceMetrics": [{"scopeMetrics": 1}]}',
        b'{"resourceMetrics": ["x"]}',
        b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"resourceMetrics": [' + b'{"x":' * 10_000 + b"1" + b"}" * 10_000 + b"]}",
        b"\xff\xfe",
    ],
    ids=lambda body: str(body[:30]),
)
def test_a_body_of_which_nothing_can_be_read_is_refused(body: bytes) -> None:
    with pytest.raises(MalformedError):
        decode(body)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ({"asDouble": "x"}, "asDouble is 'x', expected a number"),
        ({"asDouble": "1_0"}, "asDouble is '1_0', expected a number"),
        ({"asDouble": True}, "Expected `int | float | str | null`, got `bool`"),
        ({"asDouble": "Infinity"}, "the value is inf, expected a number of magnitude below 1e30"),
        ({"asDouble": -3.4e38}, "the value is -3.4e+38, expected a number of magnitude below 1e30"),
        ({"asDouble": "1e999"}, "the value is inf, expected a number of magnitude below 1e30"),
        ({"asInt": int("9" * 400)}, "asInt is out of range"),
        ({"asInt": 1, "timeUnixNano": "later"}, "timeUnixNano is 'later', expected an integer"),
        ({"asInt": 1, "timeUnixNano": 1e300}, "expected an integer of 64 bits"),
        ({"asInt": 1, "attributes": {}}, "Expected `array | null`, got `object`"),
        ({"asInt": 1, "attributes": [{"key": 1}]}, "Expected `str`, got `int`"),
        ({"asInt": 1, "attributes": [{"key": "a", "value": {"intValue": "b"}}]}, "intValue is 'b'"),
        ({"asInt": 1, "attributes": [{"key": str(number)} for number in range(65)]}, "there are over 64 attributes"),
        (None, "Expected `object`, got `null`"),
        ([], "Expected `object`, got `array`"),
    ],
)
def test_a_broken_point_costs_only_itself(bad: Any, reason: str) -> None:
    sink = decode(make_body({"asInt": 1}, bad, {"asInt": "2"}))
    assert [value for _, _, value in sink.points] == [1.0, 2.0]
    assert len(sink.rejected) == 1
    assert str(sink.rejected[0]).startswith("resourceMetrics[0].scopeMetrics[0].metrics[0].dataPoints[1] (load): ")
    assert reason in str(sink.rejected[0])


def test_a_missing_value_is_skipped() -> None:
    sink = decode(make_body({"asDouble": "NaN"}, {"timeUnixNano": TIME}))
    assert sink.skipped == {"missing value": 2}


@pytest.mark.parametrize("part", [1, {"name": 5}, {"name": "x", "gauge": []}, {"name": "x", "sum": {"dataPoints": {}}}])
def test_a_broken_metric_costs_only_itself(part: Any) -> None:
    body = make_body({"asInt": 1})
    body["resourceMetrics"][0]["scopeMetrics"][0]["metrics"].insert(0, part)
    sink = decode(body)
    assert len(sink.points) == 1
    assert str(sink.rejected[0]).startswith("resourceMetrics[0].scopeMetrics[0].metrics[0]: Expected")


def test_a_broken_resource_costs_its_points() -> None:
    attributes = [{"key": str(number)} for number in range(65)]
    sink = decode(make_body({"asInt": 1}, {"asInt": 1}, resource={"attributes": attributes}))
    assert not sink.points
    assert "(load): the resource: there are over 64 attributes" in str(sink.rejected[1])


def test_the_loop_gets_its_turn() -> None:
    data = json.dumps(make_body(*[{"asInt": 1}] * (5 * SLICE_POINTS))).encode()
    assert len(list(decode_otlp_json(data, RecordingSink(), NOW))) >= 5


@given(st.binary(max_size=100) | st.text(max_size=100).map(str.encode))
def test_any_bytes_are_taken_or_refused(body: bytes) -> None:
    with contextlib.suppress(MalformedError):
        decode(body)


_json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.data(), st.sampled_from(FIXTURES))
def test_a_capture_with_a_foreign_value_is_taken_or_refused(data: st.DataObject, path: Path) -> None:
    body: Any = to_otlp_json(ExportMetricsServiceRequest.FromString(path.read_bytes()))
    place: Any = body
    for _ in range(data.draw(st.integers(0, 12))):
        key = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
        if not isinstance(place[key], dict | list) or not place[key]:
            break
        place = place[key]
    key = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
    place[key] = data.draw(_json_values)
    with contextlib.suppress(MalformedError):
        decode(body)


@given(st.sampled_from(FIXTURES), st.randoms(use_true_random=False), st.integers(1, 10))
def test_a_damaged_capture_is_taken_or_refused(path: Path, rng: random.Random, damages: int) -> None:
    body = bytearray(json.dumps(to_otlp_json(ExportMetricsServiceRequest.FromString(path.read_bytes()))).encode())
    for _ in range(damages):
        body[rng.randrange(len(body))] = rng.randrange(256)
    with contextlib.suppress(MalformedError):
        decode(bytes(body))


def test_a_text_that_is_not_utf8_costs_only_its_point() -> None:
    point = {"attributes": [{"key": "a", "value": {"stringValue": "HALF"}}], "asInt": 1}
    sink = decode(json.dumps(make_body(point, {"asInt": 2})).encode().replace(b"HALF", b"\xed\xa0\x80"))
    assert [value for _, _, value in sink.points] == [2.0]
    assert len(sink.rejected) == 1


@pytest.mark.parametrize("text", [b"\\ud800", b"\\udc00", b"\\ud800x", b"\\ud800\\ud800"])
def test_half_a_character_as_an_escape_is_no_json(text: bytes) -> None:
    point = {"attributes": [{"key": "a", "value": {"stringValue": "HALF"}}], "asInt": 1}
    with pytest.raises(MalformedError, match="is not an export request in JSON"):
        decode(json.dumps(make_body(point)).encode().replace(b"HALF", text))
