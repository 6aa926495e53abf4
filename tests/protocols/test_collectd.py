"""Tests `streamd/protocols/collectd.py`: the fixtures, counters against rates, and bad values beside good ones."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamd.core.errors import InvalidInputError, MalformedError
from streamd.core.mapping.series import Kind, SourceSeries
from streamd.protocols.collectd import MAX_VALUES, WHOLE_NUMBERS, CollectdDecoder
from tests.support.agent_fixtures import find_values, read_agent_body, run_decoder
from tests.support.recording_sink import RecordingSink

TIME = 1_795_898_324.331


def make_item(values: list[Any], dstype: str = "gauge", **fields: Any) -> dict[str, Any]:
    """Make an item with data sources named `a`, `b`, ..."""
    return {
        "values": values,
        "dstypes": [dstype] * len(values),
        "dsnames": [chr(ord("a") + index % 26) for index in range(len(values))],
        "time": TIME,
        "interval": 10.0,
        "host": "web-01",
        "plugin": "interface",
        "plugin_instance": "eth0",
        "type": "if_octets",
        "type_instance": "",
        **fields,
    }


def decode(*items: Any, decoder: CollectdDecoder | None = None) -> RecordingSink:
    return run_decoder((decoder or CollectdDecoder()).decode, json.dumps(items).encode())


def kinds(sink: RecordingSink) -> list[Kind | None]:
    return [series.kind for series, _, _ in sink.points]


# ---------------------------------------------------------------- what collectd sends
def test_rates_of_a_whole_step() -> None:
    decoder = CollectdDecoder()
    points, skipped = [], 0
    for name in ("rates-1", "rates-2", "rates-3"):
        sink = run_decoder(decoder.decode, read_agent_body(f"collectd/{name}"))
        assert sink.rejected == []
        points += sink.points
        skipped += sink.skipped["missing value"]
    assert len(points) == 64
    assert skipped == 3, "swap on a host without swap"
    assert {series.kind for series, _, _ in points} == {Kind.GAUGE}
    expected = SourceSeries(
        "interface/if_octets",
        {"host": "web-01", "plugin_instance": "lo", "type_instance": "", "ds": "tx"},
        Kind.GAUGE,
    )
    assert (expected, 1795898324.331, 20814174.6609788) in points


def test_a_gauge_with_several_data_sources() -> None:
    sink = run_decoder(CollectdDecoder().decode, read_agent_body("collectd/rates-1"))
    assert find_values(sink, "load/load", ds="shortterm") == [1.8828125]
    assert find_values(sink, "load/load", ds="midterm") == [2.3671875]
    assert find_values(sink, "uptime/uptime") == [1897.0]
    assert find_values(sink, "cpu/percent", type_instance="user") == [91.7127071823204]


def test_raw_counters_of_the_defaults() -> None:
    sink = run_decoder(CollectdDecoder().decode, read_agent_body("collectd-defaults/cpu-jiffies"))
    assert sink.rejected == []
    cpu = [(series, value) for series, _, value in sink.points if series.name == "cpu/cpu"]
    assert {series.kind for series, _ in cpu} == {Kind.COUNTER}
    assert find_values(sink, "cpu/cpu", plugin_instance="0", type_instance="nice") == [6013.0] * 2
    gauges = {series.kind for series, _, _ in sink.points if series.name == "memory/memory"}
    assert gauges == {Kind.GAUGE}


def test_the_first_rates_are_missing() -> None:
    sink = run_decoder(CollectdDecoder().decode, read_agent_body("collectd-defaults/first-with-null-rates"))
    assert len(sink.points) == 13
    assert sink.skipped == {"missing value": 9}


# ---------------------------------------------------------------- counters or rates
@pytest.mark.parametrize("dstype", ["derive", "counter"])
def test_whole_numbers_are_counters(dstype: str) -> None:
    assert kinds(decode(make_item([12, 0], dstype))) == [Kind.COUNTER, Kind.COUNTER]


@pytest.mark.parametrize("value", [12.5, None])
def test_after_a_fraction_or_null_a_host_sends_rates(value: float | None) -> None:
    decoder = CollectdDecoder()
    assert kinds(decode(make_item([12], "derive"), decoder=decoder)) == [Kind.COUNTER]
    decode(make_item([value], "derive", plugin="swap"), decoder=decoder)
    assert kinds(decode(make_item([12], "derive"), decoder=decoder)) == [Kind.GAUGE]
    assert kinds(decode(make_item([12], "derive", host="web-02"), decoder=decoder)) == [Kind.COUNTER]


def test_a_fraction_counts_for_the_items_before_it_too() -> None:
    assert kinds(decode(make_item([0], "derive"), make_item([12.5], "derive"))) == [Kind.GAUGE, Kind.GAUGE]


def test_the_fraction_of_a_gauge_says_nothing_of_counters() -> None:
    assert kinds(decode(make_item([1.5, None]), make_item([12], "derive"))) == [Kind.GAUGE, Kind.COUNTER]


def test_a_series_is_new_to_the_sink_when_its_kind_changes() -> None:
    decoder, sink = CollectdDecoder(), RecordingSink()
    for value in (12, 12.5, 13):
        for _ in decoder.decode(json.dumps([make_item([value], "derive")]).encode(), sink):
            pass
    assert kinds(sink) == [Kind.COUNTER, Kind.GAUGE, Kind.GAUGE]
    assert len({id(series) for series, _, _ in sink.points}) == 2


def test_many_whole_numbers_in_a_row_are_counters_again() -> None:
    decoder = CollectdDecoder()
    decode(make_item([12.5], "derive"), decoder=decoder)
    before = decode(*[make_item([1000 + step], "derive") for step in range(WHOLE_NUMBERS - 1)], decoder=decoder)
    assert set(kinds(before)) == {Kind.GAUGE}
    assert kinds(decode(make_item([5000], "derive"), decoder=decoder)) == [Kind.COUNTER]
    assert kinds(decode(make_item([12.5], "derive"), decoder=decoder)) == [Kind.GAUGE]


def test_zeros_of_an_idle_host_stay_rates() -> None:
    decoder = CollectdDecoder()
    decode(make_item([None], "derive"), decoder=decoder)
    sink = decode(*[make_item([0], "derive")] * (3 * WHOLE_NUMBERS), decoder=decoder)
    assert set(kinds(sink)) == {Kind.GAUGE}


def test_a_host_that_changes_too_often_stays_with_rates() -> None:
    decoder = CollectdDecoder()
    for _ in range(20):
        decode(make_item([12.5], "derive"), decoder=decoder)
        sink = decode(*[make_item([7], "derive")] * (2 * WHOLE_NUMBERS), decoder=decoder)
    assert set(kinds(sink)) == {Kind.GAUGE}


def test_each_sender_has_its_own_hosts() -> None:
    decoder = CollectdDecoder()
    for sender, values in (("first", [None]), ("second", [12]), ("first", [12])):
        for _ in decoder.decode(json.dumps([make_item(values, "derive")]).encode(), sink := RecordingSink(), sender):
            pass
        if values == [12]:
            assert kinds(sink) == [Kind.COUNTER if sender == "second" else Kind.GAUGE]


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("uvwxyz")), max_size=40))
def test_a_sender_with_few_hosts_loses_none_to_one_with_many(named: list[tuple[str, str]]) -> None:
    decoder = CollectdDecoder(max_hosts=6)
    senders = [("few", "only"), *named]
    for sender, host in senders:
        list(decoder.decode(json.dumps([make_item([None], "derive", host=host)]).encode(), RecordingSink(), sender))
    sink = RecordingSink()
    list(decoder.decode(json.dumps([make_item([12], "derive", host="only")]).encode(), sink, "few"))
    assert kinds(sink) == [Kind.GAUGE]
    known = sum(len(hosts) for hosts in decoder._hosts._by_sender.values())
    assert known == min(len(set(senders)), 6)


def test_the_memory_of_hosts_is_bounded() -> None:
    decoder = CollectdDecoder(max_hosts=2)
    for host in ("a", "b", "a", "c"):
        decode(make_item([12.5], "derive", host=host), decoder=decoder)
    found = {host: kinds(decode(make_item([12], "derive", host=host), decoder=decoder)) for host in ("a", "b", "c")}
    assert found == {"a": [Kind.GAUGE], "b": [Kind.COUNTER], "c": [Kind.GAUGE]}


def test_a_host_with_an_absurd_name_is_not_remembered() -> None:
    decoder = CollectdDecoder(max_hosts=1)
    decode(make_item([12.5], "derive"), decoder=decoder)
    decode(make_item([12.5], "derive", host="h" * 5000), decoder=decoder)
    assert kinds(decode(make_item([12], "derive"), decoder=decoder)) == [Kind.GAUGE]


# ---------------------------------------------------------------- bad values
def test_an_absolute_value_is_skipped() -> None:
    sink = decode(make_item([1, 2], "absolute"))
    assert (sink.points, sink.skipped) == ([], {"absolute value": 2})


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (make_item([1, 2], dsnames=["a"]), r"\[1\]: 2 values, 2 dstypes and 1 dsnames"),
        (make_item([1], dstypes=["derive", "derive"]), r"\[1\]: 1 values, 2 dstypes"),
        (make_item([0] * (MAX_VALUES + 1)), r"\[1\]: 65 values, at most 64"),
        (make_item(["1"]), r"\[1\]: Expected `int \| float \| null`, got `str` - at `\$.values\[0\]`"),
        (make_item([10**400]), r"\[1\].values\[0\]: the value is out of range"),
        (make_item([1], "histogram"), r"\[1\].values\[0\]: its dstype is 'histogram', expected gauge"),
        (make_item([1], time="now"), r"\[1\]: Expected `float`, got `str` - at `\$.time`"),
        (make_item([1], time=float("inf")), r"\[1\]: the time is inf"),
        (make_item([1], host="h" * 2000), r"\[1\].values\[0\]: the label 'host' has 2000 bytes"),
        (make_item([1], host="\ud800"), r"\[1\].values\[0\]: the label 'host' is not valid Unicode"),
        ({"message": "a notification", "severity": "WARNING"}, r"\[1\]: Object missing required field `values`"),
        (None, r"\[1\]: Expected `object`, got `null`"),
    ],
)
def test_a_bad_item_is_rejected_alone(bad: Any, message: str) -> None:
    sink = decode(make_item([1]), bad, make_item([2]))
    assert [value for _, _, value in sink.points] == [1.0, 2.0]
    (error,) = sink.rejected
    assert isinstance(error, InvalidInputError)
    with pytest.raises(InvalidInputError, match=message):
        raise error


def test_a_bad_value_is_rejected_alone() -> None:
    sink = decode(make_item([1, float("-inf"), None, 4]))
    assert [value for _, _, value in sink.points] == [1.0, 4.0]
    assert [str(error)[:12] for error in sink.rejected] == ["[0].values[1"]
    assert sink.skipped == {"missing value": 1}


@pytest.mark.parametrize("body", [b"", b"{", b"7", b"PUTVAL host/cpu-0/cpu-user N:1"])
def test_a_body_that_is_no_array_is_malformed(body: bytes) -> None:
    with pytest.raises(MalformedError):
        run_decoder(CollectdDecoder().decode, body)


def test_it_gives_way_in_a_long_body() -> None:
    body = json.dumps([make_item([1])] * 1000).encode()
    assert len(list(CollectdDecoder().decode(body, RecordingSink()))) >= 2


# ---------------------------------------------------------------- properties
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@given(
    st.lists(st.tuples(st.sampled_from(sorted(make_item([1]))), JSON_VALUES), max_size=5),
    st.integers(0, 3),
)
def test_good_items_survive_beside_any_other(changes: list[tuple[str, Any]], place: int) -> None:
    bad = [{**make_item([2, 3.5], "derive", host="bad"), field: value} for field, value in changes]
    items = [*bad[:place], make_item([1]), *bad[place:]]
    sink = run_decoder(CollectdDecoder().decode, json.dumps(items).encode())
    assert 1.0 in find_values(sink, "interface/if_octets", host="web-01")
    assert all(isinstance(error, InvalidInputError) for error in sink.rejected)


@given(st.integers(0, 3954), st.binary(min_size=1, max_size=4))
def test_a_damaged_body_is_read_or_malformed(place: int, damage: bytes) -> None:
    body = bytearray(read_agent_body("collectd/rates-1"))
    body[place : place + len(damage)] = damage
    try:
        sink = run_decoder(CollectdDecoder().decode, bytes(body))
    except MalformedError:
        return
    assert len(sink.points) + len(sink.rejected) + sum(sink.skipped.values()) >= 18


@given(st.binary(max_size=100))
def test_arbitrary_bytes_raise_nothing_else(body: bytes) -> None:
    try:
        run_decoder(CollectdDecoder().decode, body)
    except MalformedError:
        return
