"""Tests `streamd/protocols/telegraf.py`: Telegraf's JSON in its variants, and bodies that are broken.

The forms are those of `plugins/serializers/json` of Telegraf 1.40.0 and of the examples in its README.
"""

import json
import math
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamd.core.errors import InvalidSampleError, InvalidTimeError, InvalidValueError, MalformedError
from streamd.core.values import is_value
from streamd.protocols.line_protocol import MAX_LINE_FIELDS, LineCounts
from streamd.protocols.telegraf import decode_telegraf, decode_telegraf_json
from tests.support.recording_sink import RecordingSink

NOW = 1_795_899_720.0
SECOND = 1_795_899_000


def make_metric(fields: Mapping[str, Any], timestamp: Any = SECOND, **tags: Any) -> dict[str, Any]:
    return {"fields": fields, "name": "cpu", "tags": {"host": "web-01", **tags}, "timestamp": timestamp}


def write(message: Any) -> bytes:
    return json.dumps(message).encode() + b"\n"


def decode(body: bytes) -> RecordingSink:
    sink = RecordingSink()
    for _ in decode_telegraf_json(body, sink, NOW):
        pass
    return sink


def decode_metrics(*metrics: Any) -> RecordingSink:
    return decode(write({"metrics": metrics}))


def list_values(sink: RecordingSink) -> list[tuple[str, float, float]]:
    return [(series.name, time, value) for series, time, value in sink.points]


# ---------------------------------------------------------------- forms
def test_a_batch_gives_a_point_for_each_field() -> None:
    sink = decode_metrics(make_metric({"usage_idle": 99.1, "usage_user": 1}, cpu="cpu-total"))
    assert list_values(sink) == [("cpu_usage_idle", SECOND, 99.1), ("cpu_usage_user", SECOND, 1.0)]
    series = sink.points[0][0]
    assert series.labels == {"host": "web-01", "cpu": "cpu-total", "_measurement": "cpu", "_field": "usage_idle"}
    assert series.kind is None
    assert not sink.rejected


def test_a_metric_may_come_alone() -> None:
    """As with `use_batch_format = false`."""
    assert list_values(decode(write(make_metric({"usage_idle": 99.1})))) == [("cpu_usage_idle", SECOND, 99.1)]


def test_line_protocol_is_told_apart_by_the_first_byte() -> None:
    counts = LineCounts()
    for body in (write(make_metric({"v": 1})), b"\n  " + write(make_metric({"v": 1})), b"cpu,host=web-01 v=1 5", b""):
        sink = RecordingSink()
        for _ in decode_telegraf(body, sink, NOW, counts):
            pass
        assert [series.name for series, _, _ in sink.points] == ["cpu_v"] * bool(body)
    assert (counts.lines, counts.stamped) == (1, 0)


def test_json_and_line_protocol_name_a_series_alike() -> None:
    sink = RecordingSink()
    for body in (write(make_metric({"v": 1}, cpu="0")), b"cpu,cpu=0,host=web-01 v=1 5"):
        for _ in decode_telegraf(body, sink, NOW):
            pass
    (one, _, _), (other, _, _) = sink.points
    assert (one.name, one.labels) == (other.name, other.labels)


# ---------------------------------------------------------------- values
def test_numbers_and_booleans_are_values_and_the_rest_is_skipped() -> None:
    fields = {"a": 1, "b": -2.5, "c": True, "d": False, "e": 2**64 - 1, "f": "x", "g": None, "h": {"i": 1}, "j": [1]}
    sink = decode_metrics(make_metric(fields))
    assert [value for _, _, value in sink.points] == [1.0, -2.5, 1.0, 0.0, 2.0**64]
    assert sink.skipped == {"text value": 1, "missing value": 1, "nested value": 2}
    assert not sink.rejected


def test_numbers_that_json_has_not_cost_only_themselves() -> None:
    """Telegraf leaves them out; other programs write this form too."""
    body = b'{"metrics":[{"name":"m","tags":{},"fields":{"a":NaN,"b":1,"c":-Infinity,"d":1e999},"timestamp":1}]}'
    sink = decode(body)
    assert list_values(sink) == [("m_b", 1.0, 1.0)]
    assert sink.skipped == {"missing value": 1}
    assert [type(error) for error in sink.rejected] == [InvalidValueError] * 2
    assert str(sink.rejected[0]).startswith("metrics[0].fields.'c': ")


def test_a_number_out_of_range_costs_only_its_field() -> None:
    sink = decode(b'{"metrics":[{"name":"m","fields":{"a":1e999,"b":1},"timestamp":1}]}')
    assert list_values(sink) == [("m_b", 1.0, 1.0)]
    assert len(sink.rejected) == 1


# ---------------------------------------------------------------- times
@pytest.mark.parametrize(
    ("timestamp", "time"),
    [
        (SECOND, SECOND),
        (SECOND * 1_000 + 250, SECOND + 0.25),
        (SECOND * 1_000_000, SECOND),
        (SECOND * 1_000_000_000, SECOND),
        (SECOND + 0.5, SECOND + 0.5),
        (0, 0),
        (-5, -5),
        ("2026-11-28T20:50:00Z", SECOND),
        ("2026-11-28T20:50:00.5+00:00", SECOND + 0.5),
        ("2026-11-28T22:50:00+02:00", SECOND),
        (None, NOW),
    ],
)
def test_the_unit_of_a_timestamp_is_told_by_its_size(timestamp: Any, time: float) -> None:
    assert [when for _, when, _ in decode_metrics(make_metric({"v": 1}, timestamp)).points] == [time]


def test_a_metric_without_a_timestamp_has_the_time_of_arrival() -> None:
    metric = make_metric({"v": 1})
    del metric["timestamp"]
    assert [when for _, when, _ in decode_metrics(metric).points] == [NOW]


@pytest.mark.parametrize("timestamp", ["2026-11-28T20:50:00", "Sat, 28 Nov", "", "9" * 1000])
def test_a_bad_timestamp_costs_its_metric(timestamp: str) -> None:
    sink = decode_metrics(make_metric({"a": 1, "b": 2}, timestamp), make_metric({"v": 1}))
    assert list_values(sink) == [("cpu_v", SECOND, 1.0)]
    assert [type(error) for error in sink.rejected] == [InvalidTimeError] * 2
    assert str(sink.rejected[0]).startswith("metrics[0]: the timestamp is ")


# ---------------------------------------------------------------- bad metrics
@pytest.mark.parametrize(
    "metric",
    [
        1,
        "x",
        None,
        [],
        {},
        {"name": "cpu"},
        {"name": 1, "fields": {"v": 1}},
        {"name": "cpu", "fields": [1]},
        {"name": "cpu", "fields": {"v": 1}, "tags": {"host": 1}},
        {"name": "cpu", "fields": {"v": 1}, "tags": []},
        {"name": "cpu", "fields": {"v": 1}, "timestamp": True},
        {"name": "cpu", "fields": {"v": 1}, "timestamp": [1]},
        {"name": "", "fields": {"v": 1}},
        {"name": "cpu", "fields": {"": 1}},
        {"name": "cpu", "fields": {"v": 1}, "tags": {"": "x"}},
        {"name": "\ud800", "fields": {"v": 1}},
        {"name": "cpu", "fields": {"v": 1}, "tags": {"host": "\udcff"}},
        {"name": "x" * 2000, "fields": {"v": 1}},
        {"name": "cpu", "fields": {"v": 1}, "tags": {f"t{index}": "x" for index in range(70)}},
        {"name": "cpu", "fields": dict.fromkeys(map(str, range(MAX_LINE_FIELDS + 1)), 1)},
    ],
)
def test_a_bad_metric_is_named_and_costs_only_itself(metric: Any) -> None:
    sink = decode_metrics(make_metric({"v": 1}), metric, make_metric({"v": 2}))
    assert [value for _, _, value in sink.points] == [1.0, 2.0]
    assert sink.rejected
    assert isinstance(sink.rejected[0], InvalidSampleError)
    assert str(sink.rejected[0]).startswith("metrics[1]")


def test_a_bad_field_costs_only_itself() -> None:
    sink = decode_metrics(make_metric({"a": 1, "": 2, "x" * 2000: 3, "b": 4}))
    assert [value for _, _, value in sink.points] == [1.0, 4.0]
    assert len(sink.rejected) == 2


def test_empty_tags_are_left_out() -> None:
    assert "zone" not in decode_metrics(make_metric({"v": 1}, zone="")).points[0][0].labels


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"{", b"[]", b"1", b'"x"', b"{}", b'{"metrics":1}', b'{"metrics":{}}', b'{"metric":[]}'),
        *(b'{"metrics":[{"name":"cpu","fields":{"v":1}}', b'{"fields":{"v":1}}', b"\xff\xfe", b"[" * 100_000),
        b'{"metrics":' + b"[" * 100_000,
    ],
)
def test_a_body_of_another_form_is_malformed(body: bytes) -> None:
    try:
        sink = decode(body)
    except MalformedError:
        return
    assert not sink.points
    assert sink.rejected


def test_a_large_batch_is_decoded_in_slices() -> None:
    body = write({"metrics": [make_metric({"a": 1, "b": 2}, cpu=str(index)) for index in range(3_000)]})
    sink = RecordingSink()
    assert sum(1 for _ in decode_telegraf_json(body, sink, NOW)) > 5
    assert len(sink.points) == 6_000


# ---------------------------------------------------------------- any points, any bytes
names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
numbers = st.floats(-9e29, 9e29) | st.integers(-(2**63), 2**64 - 1) | st.booleans()
metrics = st.tuples(
    names,
    st.dictionaries(names, names, max_size=4),
    st.dictionaries(names, numbers | st.text(max_size=5) | st.none(), max_size=5),
    st.integers(0, 10**10),
)
Metric = tuple[str, dict[str, str], dict[str, float | str | None], int]
junk = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["name", "fields", "tags"]), inner),
    max_leaves=8,
)


def list_expected(metric: Metric) -> list[tuple[str, Mapping[str, str], float, float]]:
    name, tags, fields, timestamp = metric
    return [
        (f"{name}_{field}", {**tags, "_measurement": name, "_field": field}, float(timestamp), float(value))
        for field, value in fields.items()
        if value is not None and not isinstance(value, str)
    ]


@given(st.lists(metrics, max_size=5), st.lists(junk, max_size=3), st.randoms())
def test_good_metrics_survive_beside_junk(written: list[Metric], others: list[Any], random: Any) -> None:
    good = [dict(zip(("name", "tags", "fields", "timestamp"), each, strict=True)) for each in written]
    given_metrics = [*good, *others]
    random.shuffle(given_metrics)
    sink = decode(write({"metrics": given_metrics}))
    found = [(series.name, dict(series.labels), time, value) for series, time, value in sink.points]
    for metric in written:
        for point in list_expected(metric):
            assert point in found
    if not others:
        assert not sink.rejected


@given(st.binary(max_size=200) | st.text(alphabet='{}[]":,metricsnfltag1e9 ', max_size=60).map(str.encode))
def test_any_bytes_are_read_or_malformed(body: bytes) -> None:
    try:
        sink = decode(body)
    except MalformedError:
        return
    assert all(is_value(value) for _, _, value in sink.points)


@given(st.data())
def test_mutated_batches_are_read_or_malformed(data: st.DataObject) -> None:
    body = bytearray(write({"metrics": [make_metric({"usage_idle": 99.5, "n": 3, "s": "x"}, cpu="0")] * 2}))
    for _ in range(data.draw(st.integers(1, 6))):
        place = data.draw(st.integers(0, len(body) - 1))
        body[place : place + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    try:
        sink = decode(bytes(body))
    except MalformedError:
        return
    assert all(is_value(value) and math.isfinite(time) for _, time, value in sink.points)
