"""Tests `streamd/protocols/opentsdb.py`: datapoints, and telling them apart from netdata's items."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamd.core.errors import InvalidInputError, MalformedError
from streamd.core.mapping.series import SourceSeries
from streamd.protocols.opentsdb import MAX_BAD_DATAPOINTS, PutBody
from tests.support.agent_fixtures import read_agent_body, run_decoder
from tests.support.recording_sink import RecordingSink

DIMENSION = {"hostname": "web-02", "chart_id": "system.ram", "id": "free", "value": 7.5, "timestamp": 1795898481}


def make_point(value: Any = 12.5, **fields: Any) -> dict[str, Any]:
    return {
        "metric": "sys.cpu.user",
        "timestamp": 1795898481,
        "value": value,
        "tags": {"host": "web-01", "dc": "lga"},
        **fields,
    }


def decode(*items: Any) -> tuple[RecordingSink, PutBody]:
    body = PutBody()
    return run_decoder(body.decode, json.dumps(items).encode()), body


def test_a_datapoint_has_the_tags_as_labels() -> None:
    sink, body = decode(make_point())
    assert sink.points == [(SourceSeries("sys.cpu.user", {"host": "web-01", "dc": "lga"}), 1795898481.0, 12.5)]
    assert body.has_datapoints


def test_one_object_needs_no_array() -> None:
    sink = run_decoder(PutBody().decode, json.dumps(make_point()).encode())
    assert [value for _, _, value in sink.points] == [12.5]


@pytest.mark.parametrize("value", [18, 18.0, "18", "1.8e1"])
def test_a_value_is_a_number_or_text(value: Any) -> None:
    sink, _ = decode(make_point(value))
    assert [value for _, _, value in sink.points] == [18.0]


@pytest.mark.parametrize("timestamp", [1795898481, "1795898481", 1795898481000, "1795898481000", 1795898481.0])
def test_a_time_is_in_seconds_or_milliseconds(timestamp: Any) -> None:
    sink, _ = decode(make_point(timestamp=timestamp))
    assert [time for _, time, _ in sink.points] == [1795898481.0]


@pytest.mark.parametrize("tags", [(0, -0.0), (1, 1.0), ("1", 1.0)])
def test_tags_that_are_equal_as_numbers_and_not_as_text_are_two_series(tags: tuple[str | float, str | float]) -> None:
    sink, _ = decode(*(make_point(tags={"cpu": tag}) for tag in tags))
    assert [series.labels["cpu"] for series, _, _ in sink.points] == [str(tag) for tag in tags]


def test_tags_in_any_order_are_one_series() -> None:
    sink, _ = decode(make_point(), make_point(tags={"dc": "lga", "host": "web-01"}), make_point(tags={"host": "b"}))
    assert len({id(series) for series, _, _ in sink.points}) == 2


def test_a_tag_may_be_a_number() -> None:
    sink, _ = decode(make_point(tags={"cpu": 1}))
    assert [series.labels for series, _, _ in sink.points] == [{"cpu": "1"}]


# ---------------------------------------------------------------- netdata on the same path
@pytest.mark.parametrize("name", ["average-1", "average-2", "empty"])
def test_netdata_s_bodies_have_no_datapoints(name: str) -> None:
    body = PutBody()
    sink = run_decoder(body.decode, read_agent_body(f"netdata-json-average/{name}"))
    assert len(sink.points) == (0 if name == "empty" else 53)
    assert sink.rejected == []
    assert not body.has_datapoints


@pytest.mark.parametrize("items", [(DIMENSION, make_point()), (make_point(), DIMENSION)])
def test_both_kinds_in_one_body_are_told_apart_by_their_keys(items: tuple[Any, ...]) -> None:
    sink, body = decode(*items)
    assert {series.name for series, _, _ in sink.points} == {"system.ram", "sys.cpu.user"}
    assert sink.rejected == []
    assert body.has_datapoints


def test_a_bad_item_of_netdata_is_no_bad_datapoint() -> None:
    sink, body = decode(DIMENSION, {**DIMENSION, "value": "x"})
    assert len(sink.points) == len(sink.rejected) == 1
    assert (body.has_datapoints, body.bad_datapoints) == (False, [])


# ---------------------------------------------------------------- bad datapoints
@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (make_point("x"), r"\[1\]: value is 'x', expected a number"),
        (make_point(""), r"\[1\]: value is '', expected a number"),
        (make_point("inf"), r"\[1\]: the value is out of range"),
        (make_point(True), r"\[1\]: Expected `int \| float \| str \| null`, got `bool`"),
        (make_point(metric=""), r"\[1\]: metric is empty"),
        (make_point(metric=None), r"\[1\]: Expected `str`, got `null` - at `\$.metric`"),
        (make_point(timestamp=0), r"\[1\]: timestamp is 0, expected epoch seconds or milliseconds"),
        (make_point(timestamp=-5), r"\[1\]: timestamp is -5"),
        (make_point(timestamp=1795898481000000), r"\[1\]: timestamp is 1.7959e\+15"),
        (make_point(timestamp="noon"), r"\[1\]: timestamp is 'noon', expected a number"),
        (make_point(timestamp="nan"), r"\[1\]: the time is nan"),
        (make_point(tags={"a": {"b": "c"}}), r"\[1\]: Expected `int \| float \| str`, got `object`"),
        (make_point(tags={f"t{i}": "" for i in range(65)}), r"\[1\]: 65 labels, at most 64"),
        ({"metric": "m", "value": 1}, r"\[1\]: Object missing required field `timestamp`"),
        (7, r"\[1\]: Expected `object`, got `int`"),
        (None, r"\[1\]: Expected `object`, got `null`"),
    ],
)
def test_a_bad_datapoint_is_rejected_alone_and_kept(bad: Any, message: str) -> None:
    sink, body = decode(make_point(1.5), bad, make_point(2.5))
    assert [value for _, _, value in sink.points] == [1.5, 2.5]
    (error,) = sink.rejected
    with pytest.raises(InvalidInputError, match=message):
        raise error
    assert [kept for kept, _ in body.bad_datapoints] == [error]


@pytest.mark.parametrize("value", [None, "NaN", float("nan")])
def test_a_missing_value_is_skipped(value: Any) -> None:
    sink, _ = decode(make_point(value))
    assert (sink.points, sink.skipped) == ([], {"missing value": 1})


def test_only_the_first_bad_datapoints_are_kept() -> None:
    sink, body = decode(*[make_point("x")] * 50)
    assert len(sink.rejected) == 50
    assert len(body.bad_datapoints) == MAX_BAD_DATAPOINTS


@pytest.mark.parametrize("body", [b"", b"put sys.cpu.user 1795898481 1 host=a", b"[{", b'"x"'])
def test_a_body_that_is_no_json_is_malformed(body: bytes) -> None:
    with pytest.raises(MalformedError):
        run_decoder(PutBody().decode, body)


def test_it_gives_way_in_a_long_body() -> None:
    assert len(list(PutBody().decode(json.dumps([make_point()] * 2500).encode(), RecordingSink()))) == 2


# ---------------------------------------------------------------- properties
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@given(st.lists(JSON_VALUES | st.fixed_dictionaries({}, optional=dict.fromkeys(make_point(), JSON_VALUES)), max_size=4))
def test_good_datapoints_survive_beside_any_other(others: list[Any]) -> None:
    sink, _ = decode(*others, make_point(0.125), *others)
    assert 0.125 in [value for _, _, value in sink.points]
    assert all(isinstance(error, InvalidInputError) for error in sink.rejected)


@given(st.binary(max_size=100))
def test_arbitrary_bytes_raise_nothing_else(body: bytes) -> None:
    try:
        run_decoder(PutBody().decode, body)
    except MalformedError:
        return
