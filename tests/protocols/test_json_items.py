"""Tests `streamd/protocols/json_items.py`: items that are decoded alone, and the limits on series and numbers."""

import contextlib
import gc
import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamd.core.errors import InvalidSampleError, InvalidTimeError, InvalidValueError, MalformedError, TooLargeError
from streamd.core.mapping.series import SourceSeries
from streamd.protocols import json_items as module
from streamd.protocols.json_items import (
    MAX_PART_BYTES,
    ItemDecoder,
    bind_series,
    check_time,
    check_value_count,
    parse_number,
    read_items,
    read_number,
    read_value,
)
from tests.support.recording_sink import RecordingSink


class Reading(msgspec.Struct):
    name: str
    value: float


READINGS = ItemDecoder(Reading)


def test_items_are_decoded_in_order() -> None:
    assert list(READINGS.decode(b'[{"name":"a","value":1},{"name":"b","value":2.5}]')) == [
        Reading("a", 1.0),
        Reading("b", 2.5),
    ]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (b"7", "Expected `object`, got `int`"),
        (b'{"name":"x"}', "Object missing required field `value`"),
        (b'{"name":"x","value":"1"}', "Expected `float`, got `str` - at `$.value`"),
        (b'{"name":"x","value":' + b"9" * 400 + b"}", ""),
        (b'{"name":"x","value":1,"\\ud800":{"\xff":' + b"9" * 5000 + b"}}", None),
        (b'{"name":"x","value":null}', "Expected `float`, got `null` - at `$.value`"),
    ],
)
def test_a_bad_item_costs_only_itself(bad: bytes, message: str | None) -> None:
    first, second, third = READINGS.decode(b'[{"name":"a","value":1},' + bad + b',{"name":"b","value":2}]')
    assert (first, third) == (Reading("a", 1.0), Reading("b", 2.0))
    if message is not None:
        assert isinstance(second, InvalidSampleError)
        assert message in str(second)


@pytest.mark.parametrize(("token", "value"), [(b"NaN", math.nan), (b"Infinity", math.inf), (b"-Infinity", -math.inf)])
def test_tokens_that_are_not_json_are_read_as_numbers(token: bytes, value: float) -> None:
    first, second = READINGS.decode(b'[{"name":"a","value":' + token + b'},{"name":"b","value":2}]')
    assert isinstance(first, Reading)
    assert first.value == value or math.isnan(first.value)
    assert second == Reading("b", 2.0)


def test_an_object_is_the_only_item() -> None:
    assert list(READINGS.decode(b'{"name":"a","value":1}')) == [Reading("a", 1.0)]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "the body is empty"),
        (b" \n", "the body is empty"),
        (b"7", "expected a JSON array of objects"),
        (b"[{]", "the body is not JSON"),
        (b'[{"name":"a","value":1}', "the body is not JSON"),
        (b"\x1f\x8b\x08\x00", "the body is not JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b"[1] [2]", "the body is not JSON"),
        ('[{"name":"a","value":1}]'.encode("utf-16"), "the body is not JSON"),
    ],
)
def test_a_body_that_is_no_json_is_malformed(body: bytes, message: str) -> None:
    with pytest.raises(MalformedError, match=message):
        READINGS.decode(body)


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_items_or_malformed(body: bytes) -> None:
    try:
        items = list(READINGS.decode(body))
    except MalformedError:
        return
    assert all(isinstance(item, Reading | InvalidSampleError) for item in items)


def test_items_are_read_without_a_type() -> None:
    assert list(read_items(b'[1, {"a": "b"}, null]')) == [1, {"a": "b"}, None]


# ---------------------------------------------------------------- series
def test_a_series_within_the_limits_is_bound() -> None:
    sink, series = RecordingSink(), SourceSeries("n" * 1024, {"l" * 1024: "v" * 1024})
    assert bind_series(sink, "key", series) is series
    assert sink.find("key") is series


@pytest.mark.parametrize(
    ("series", "message"),
    [
        (SourceSeries("n" * 1025, {}), "the name has 1025 bytes, at most 1024 are taken"),
        (SourceSeries("ä" * 513, {}), "the name has 1026 bytes"),
        (SourceSeries("n", {"l" * 1025: ""}), "the name of a label has 1025 bytes"),
        (SourceSeries("n", {"host": "v" * 1025}), "the label 'host' has 1025 bytes"),
        (SourceSeries("n", {f"l{i}": "" for i in range(65)}), "65 labels, at most 64 are taken"),
        (SourceSeries("\ud800", {}), "the name is not valid Unicode"),
        (SourceSeries("n", {"\udcff": ""}), "the name of a label is not valid Unicode"),
        (SourceSeries("n", {"host": "\ud800"}), "the label 'host' is not valid Unicode"),
    ],
)
def test_a_series_beyond_the_limits_is_not_bound(series: SourceSeries, message: str) -> None:
    sink = RecordingSink()
    with pytest.raises(InvalidSampleError, match=message):
        bind_series(sink, "key", series)
    assert sink.find("key") is None


# ---------------------------------------------------------------- numbers and times
def test_null_and_nan_are_missing() -> None:
    assert read_number(None) is None
    assert read_number(math.nan) is None


@pytest.mark.parametrize("value", [math.inf, -math.inf, 3.4e38, -1e30, 10**30, 10**309, -(10**400)])
def test_a_number_that_is_too_large_is_invalid(value: float) -> None:
    with pytest.raises(InvalidValueError, match="expected a number of magnitude below 1e30"):
        read_number(value)


def test_a_whole_number_becomes_a_float() -> None:
    value = read_number(2**70)
    assert isinstance(value, float)
    assert value == 2.0**70


@pytest.mark.parametrize(("text", "value"), [("12", 12.0), ("-1.5e3", -1500.0), (".5", 0.5), ("+3.", 3.0)])
def test_a_number_is_read_from_text(text: str, value: float) -> None:
    assert parse_number(text) == value


@pytest.mark.parametrize("text", ["", " 1", "1_000", "0x10", "१", "1e", "--1", "1,5", "6.1.0-13-amd64", "9" * 401])
def test_other_text_is_no_number(text: str) -> None:
    assert parse_number(text) is None


def test_nan_and_infinity_are_read_from_text() -> None:
    assert math.isnan(parse_number("nan") or 0.0)
    assert parse_number("-Infinity") == -math.inf


@pytest.mark.parametrize("time", [math.nan, math.inf, 10**309])
def test_a_time_that_is_not_finite_is_invalid(time: float) -> None:
    with pytest.raises(InvalidTimeError, match="expected epoch seconds"):
        check_time(time)


# ---------------------------------------------------------------- bounds
def test_a_large_body_of_nothing_but_tiny_values_is_refused_before_it_is_read() -> None:
    body = b"[" + b"{}," * 500_000 + b"{}]"
    with pytest.raises(TooLargeError, match="500000 values, at most 300000"):
        READINGS.decode(body)
    check_value_count(b"[" + b'{"a":1},' * 500_000 + b"{}]")


def test_the_number_of_items_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BODY_ITEMS", 3)
    for body in (b"[1,2,3,4]", b"[NaN,2,3,4]"):
        with pytest.raises(TooLargeError, match="4 items, at most 3"):
            read_items(body)


def test_a_large_body_must_be_strict_json_and_a_bad_item_of_it_costs_only_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MAX_LENIENT_BYTES", 100)
    first, second, third = READINGS.decode(b'[{"name":"a","value":1},{"name":"b"},7' + b" " * 99 + b"]")
    assert first == Reading("a", 1.0)
    assert isinstance(second, InvalidSampleError)
    assert isinstance(third, InvalidSampleError)
    with pytest.raises(MalformedError, match="strict JSON array"):
        READINGS.decode(b'[{"name":"a","value":NaN}' + b" " * 99 + b"]")


@pytest.mark.parametrize(
    "items",
    [
        b'{"name":"a","value":1},{"name":"b","value":2.5}',
        b'{"name":"a","value":1},{"name":"b"},7,null,[],{"name":"c","value":1e999},{"name":"d","value":3}',
        b'{"name":"a","value":NaN},{"name":"\\ud800","value":1}',
        b'{"name":"a","value":1},{"name":"' + b"\xff" + b'","value":1}',
        b"",
    ],
)
def test_the_items_of_a_large_body_are_those_of_a_small_one(items: bytes) -> None:
    def list_items(body: bytes) -> list[str]:
        return [repr(item) for item in READINGS.decode(body)]

    assert list_items(b"[" + b" " * MAX_PART_BYTES + items + b"]") == list_items(b"[" + items + b"]")


def test_a_large_body_is_decoded_item_by_item_and_a_huge_item_is_rejected_alone() -> None:
    long = b'{"name":"%s","value":1}' % (b"x" * MAX_PART_BYTES)
    decoded = iter(READINGS.decode(b'[{"name":"a","value":1},' + long + b',{"name":"b","value":2}]'))
    assert next(decoded) == Reading("a", 1.0)
    error = next(decoded)
    assert isinstance(error, InvalidSampleError)
    assert "at most 1048576" in str(error)
    assert list(decoded) == [Reading("b", 2.0)]


def test_the_garbage_collector_runs_again_after_a_body() -> None:
    for body in (b"[]", b"nothing"):
        with contextlib.suppress(MalformedError):
            read_value(body)
        assert gc.isenabled()
