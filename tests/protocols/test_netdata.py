"""Tests `streamd/protocols/netdata.py`: the fixtures, averages against what was collected, and bad items."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamd.core.errors import InvalidInputError, MalformedError
from streamd.core.mapping.series import SourceSeries
from streamd.protocols.netdata import decode_netdata
from tests.support.agent_fixtures import find_values, read_agent_body, run_decoder
from tests.support.recording_sink import RecordingSink


def make_item(value: Any = 12.5, **fields: Any) -> dict[str, Any]:
    return {
        "prefix": "netdata",
        "hostname": "web-01",
        "labels": {"_is_ephemeral": "false"},
        "chart_id": "system.cpu",
        "chart_name": "system.cpu",
        "chart_family": "cpu",
        "chart_context": "system.cpu",
        "chart_type": "system",
        "units": "percentage",
        "id": "user",
        "name": "user",
        "value": value,
        "timestamp": 1795898481,
        **fields,
    }


def decode(*items: Any) -> RecordingSink:
    return run_decoder(decode_netdata, json.dumps(items).encode())


# ---------------------------------------------------------------- what netdata sends
def test_the_averages_of_one_update() -> None:
    sink = run_decoder(decode_netdata, read_agent_body("netdata-json-average/average-1"))
    assert (len(sink.points), sink.rejected, sink.skipped) == (53, [], {})
    expected = SourceSeries(
        "disk.space",
        {
            "hostname": "web-01",
            "chart": "disk_space._",
            "family": "/",
            "id": "reserved_for_root",
            "name": "reserved for root",
            "source": "average",
        },
    )
    assert (expected, 1795898481.0, 150.51) in sink.points
    assert {series.labels["source"] for series, _, _ in sink.points} == {"average"}
    assert sum(find_values(sink, "system.cpu")) == pytest.approx(100)
    assert find_values(sink, "system.net", id="OutOctets")[0] < 0, "sent is negative, and the rules turn it"


def test_an_empty_array_is_good() -> None:
    sink = run_decoder(decode_netdata, read_agent_body("netdata-json-average/empty"))
    assert (sink.points, sink.rejected) == ([], [])


@pytest.mark.parametrize(
    ("number", "source"),
    [("12.0000000", "average"), ("12", "as collected"), ("0", "as collected"), ("-1", "as collected")],
)
def test_the_source_is_seen_in_how_the_number_is_written(number: str, source: str) -> None:
    body = json.dumps([make_item("NUMBER")]).replace('"NUMBER"', number).encode()
    sink = run_decoder(decode_netdata, body)
    assert [series.labels["source"] for series, _, _ in sink.points] == [source]
    assert [value for _, _, value in sink.points] == [float(number)]


def test_a_chart_without_a_context_has_the_name_of_the_chart() -> None:
    item = make_item()
    del item["chart_context"]
    assert [series.name for series, _, _ in decode(item).points] == ["system.cpu"]


def test_the_same_dimension_of_two_charts_is_two_series() -> None:
    sink = decode(*(make_item(chart_id=chart) for chart in ("disk_space._", "disk_space._home", "disk_space._")))
    assert len({id(series) for series, _, _ in sink.points}) == 2


# ---------------------------------------------------------------- bad items
@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (make_item("12"), r"\[1\]: Expected `int \| float \| null`, got `str` - at `\$.value`"),
        (make_item(10**400), r"\[1\]: the value is out of range"),
        (make_item(timestamp=None), r"\[1\]: Expected `float`, got `null` - at `\$.timestamp`"),
        (make_item(timestamp=float("nan")), r"\[1\]: the time is nan"),
        (make_item(id="i" * 2000), r"\[1\]: the label 'id' has 2000 bytes"),
        (make_item(hostname=7), r"\[1\]: Expected `str`, got `int` - at `\$.hostname`"),
        ([], r"\[1\]: Expected `object`, got `array`"),
    ],
)
def test_a_bad_item_is_rejected_alone(bad: Any, message: str) -> None:
    sink = decode(make_item(1.5), bad, make_item(2.5))
    assert [value for _, _, value in sink.points] == [1.5, 2.5]
    (error,) = sink.rejected
    with pytest.raises(InvalidInputError, match=message):
        raise error


@pytest.mark.parametrize("value", [None, float("nan")])
def test_a_missing_value_is_skipped(value: float | None) -> None:
    assert decode(make_item(value)).skipped == {"missing value": 1}


def test_a_raw_control_character_does_no_harm() -> None:
    body = json.dumps([make_item(1.5, name="a?b"), make_item(2.5)]).replace("?", "\x01").encode()
    assert [value for _, _, value in run_decoder(decode_netdata, body).points] == [1.5, 2.5]


def test_a_body_that_is_cut_off_is_malformed() -> None:
    with pytest.raises(MalformedError, match="the body is not JSON"):
        run_decoder(decode_netdata, read_agent_body("netdata-json-average/average-1")[:-5])


def test_it_gives_way_in_a_long_body() -> None:
    assert len(list(decode_netdata(json.dumps([make_item()] * 2500).encode(), RecordingSink()))) == 2


# ---------------------------------------------------------------- properties
@given(st.integers(0, 17_000), st.binary(min_size=1, max_size=4))
def test_a_damaged_body_is_read_or_malformed(place: int, damage: bytes) -> None:
    body = bytearray(read_agent_body("netdata-json-average/average-1"))
    body[place : place + len(damage)] = damage
    try:
        sink = run_decoder(decode_netdata, bytes(body))
    except MalformedError:
        return
    assert len(sink.points) >= 51
    assert all(isinstance(error, InvalidInputError) for error in sink.rejected)


@given(st.binary(max_size=100))
def test_arbitrary_bytes_raise_nothing_else(body: bytes) -> None:
    try:
        run_decoder(decode_netdata, body)
    except MalformedError:
        return
