"""Tests `streamd/protocols/pcp.py`: the fixtures, times in their zones, the tree of names, and several documents."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamd.core.errors import InvalidInputError, MalformedError, TooLargeError
from streamd.core.mapping.series import SourceSeries
from streamd.protocols.pcp import decode_pcp, split_documents
from tests.support.agent_fixtures import find_values, read_agent_body, run_decoder
from tests.support.recording_sink import RecordingSink

TIMESTAMP = "2026-11-28 21:01:16"


def make_document(*samples: Any, **fields: Any) -> dict[str, Any]:
    host = {"@host": "web-01", "@source": "local:", "@timezone": "UTC+0", "@metrics": list(samples), **fields}
    return {"@pcp": {"@hosts": [host]}}


def make_sample(value: Any = "1.5", **fields: Any) -> dict[str, Any]:
    return {"@timestamp": TIMESTAMP, "@interval": "1", "kernel": {"all": {"uptime": {"value": value}}}, **fields}


def decode(document: Any) -> RecordingSink:
    return run_decoder(decode_pcp, json.dumps(document).encode())


def times(sink: RecordingSink) -> list[datetime]:
    return [datetime.fromtimestamp(time, UTC) for _, time, _ in sink.points]


# ---------------------------------------------------------------- what pcp2json writes
@pytest.mark.parametrize("name", ["default-stdout", "no-header-exact"])
def test_the_samples_of_a_run(name: str) -> None:
    sink = run_decoder(decode_pcp, read_agent_body(f"pcp2json/{name}"))
    assert (len(sink.points), sink.rejected, sink.skipped) == (57, [], {})
    assert len({time for _, time, _ in sink.points}) == 3
    assert [series for series, _, _ in sink.points].count(SourceSeries("hinv.ncpu", {"host": "web-01"})) == 3
    assert len(find_values(sink, "kernel.all.cpu.user")) == 2, "a rate is missing from the first sample"
    assert find_values(sink, "kernel.all.load", instance="1 minute")[0] == 1.46


def test_comments_before_the_document_are_skipped() -> None:
    comments = b'{ "//": "Waiting for \\"1\\" metrics {" }\n{"//":"(Ctrl-C to stop)"}\n'
    sink = run_decoder(decode_pcp, comments + json.dumps(make_document(make_sample())).encode())
    assert find_values(sink, "kernel.all.uptime") == [1.5]


# ---------------------------------------------------------------- time
@pytest.mark.parametrize(
    ("zone", "utc"),
    [
        ("UTC+0", "21:01"),
        ("UTC", "21:01"),
        ("UTC+9", "12:01"),
        ("UTC-5", "02:01"),
        ("UTC+5:30", "15:31"),
        ("UTC-3:30", "00:31"),
        ("UTC+13", "08:01"),
    ],
)
def test_a_local_time_is_read_in_its_zone(zone: str, utc: str) -> None:
    (time,) = times(decode(make_document(make_sample(), **{"@timezone": zone})))
    assert f"{time:%H:%M}" == utc


@pytest.mark.parametrize(
    "zone", ["UTC+04-4", "UTC+0545-5:15", "Europe/Berlin", "JST-9", "", None, 9, "UTC+99", "UTC+1:75"]
)
def test_a_zone_that_is_no_offset_costs_the_local_times(zone: Any) -> None:
    sink = decode(make_document(make_sample(), **{"@timezone": zone}))
    assert sink.points == []
    (error,) = sink.rejected
    assert str(error).startswith(f"@hosts[0].@metrics[0]: @timezone is {str(zone)!r}, expected UTC, UTC+9 or UTC+5:30")


def test_a_time_with_its_own_offset_needs_no_zone() -> None:
    sample = make_sample(**{"@timestamp": "2026-11-28T21:01:16.250+01:00"})
    (time,) = times(decode(make_document(sample, **{"@timezone": "UTC+04-4"})))
    assert time == datetime(2026, 11, 28, 20, 1, 16, 250_000, UTC)


def test_a_time_may_be_epoch_seconds() -> None:
    sink = decode(make_document(make_sample(**{"@timestamp": "1711012012.5"})))
    assert [time for _, time, _ in sink.points] == [1711012012.5]


@pytest.mark.parametrize("timestamp", ["21:01:16", "28.11.2026 21:01", "", "0001-13-01 00:00:00", "9" * 5000])
def test_a_sample_with_another_time_is_rejected_alone(timestamp: str) -> None:
    document = make_document(make_sample("1"), make_sample(**{"@timestamp": timestamp}), make_sample("2"))
    document["@pcp"]["@hosts"][0]["@timezone"] = "UTC+9"
    sink = decode(document)
    assert find_values(sink, "kernel.all.uptime") == [1.0, 2.0]
    (error,) = sink.rejected
    assert str(error).startswith("@hosts[0].@metrics[1]: @timestamp is '")


# ---------------------------------------------------------------- the tree
def test_instances_have_a_label() -> None:
    tree = {"load": {"@instances": [{"name": "1 minute", "value": 1.5}, {"name": "5 minute", "value": 2.5}]}}
    sink = decode(make_document({"@timestamp": TIMESTAMP, "kernel": {"all": tree}}))
    assert [(series.labels["instance"], value) for series, _, value in sink.points] == [
        ("1 minute", 1.5),
        ("5 minute", 2.5),
    ]


def test_value_may_be_a_part_of_a_name() -> None:
    sink = decode(make_document({"@timestamp": TIMESTAMP, "a": {"value": {"b": {"value": 1}, "value": {"value": 2}}}}))
    assert [(series.name, value) for series, _, value in sink.points] == [("a.value.b", 1.0), ("a.value.value", 2.0)]


def test_an_empty_part_of_a_name_ends_nothing() -> None:
    sink = decode(make_document({"@timestamp": TIMESTAMP, "": {"value": 1}, "b": {"value": 2}}))
    assert [value for _, _, value in sink.points] == [1.0, 2.0]


def test_details_of_a_metric_are_ignored() -> None:
    leaf = {"value": "7", "@unit": "Kbyte", "@type": "64-bit unsigned", "@semantics": "instant", "@labels": {"a": "b"}}
    sink = decode(make_document({"@timestamp": TIMESTAMP, "mem": {"physmem": leaf}}))
    assert sink.points == [(SourceSeries("mem.physmem", {"host": "web-01"}), 1795899676.0, 7.0)]


@pytest.mark.parametrize("value", ["6.1.0-13-amd64", "", "on"])
def test_text_is_no_measurement(value: str) -> None:
    sink = decode(make_document(make_sample(value)))
    assert (sink.points, sink.rejected, sink.skipped) == ([], [], {"text value": 1})


@pytest.mark.parametrize("value", [None, "nan", float("nan")])
def test_a_missing_value_is_skipped(value: Any) -> None:
    assert decode(make_document(make_sample(value))).skipped == {"missing value": 1}


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"kernel": 5}, r"@hosts\[0\].@metrics\[1\].kernel: expected an object with 'value' or '@instances'"),
        ({"a": {"value": "inf"}}, r"@metrics\[1\].a: the value is out of range"),
        ({"a": {"value": 10**400}}, r"@metrics\[1\].a: the value is out of range"),
        ({"a": {"value": True}}, r"@metrics\[1\].a: the value is of type bool"),
        ({"a": {"value": [1]}}, r"@metrics\[1\].a: the value is of type list"),
        ({"a": {"@instances": {}}}, r"@metrics\[1\].a: expected '@instances' with a list"),
        ({"a": {"@instances": [{"value": 1}]}}, r"@metrics\[1\].a: expected instances with a text 'name'"),
        ({"a": {"@instances": [7]}}, r"@metrics\[1\].a: expected instances with a text 'name'"),
        ({"n" * 2000: {"value": 1}}, r"the name has over 1024 characters"),
        ({"a": {"@instances": [{"name": "i" * 2000, "value": 1}]}}, r"the label 'instance' has 2000 bytes"),
    ],
)
def test_a_bad_value_is_rejected_alone(bad: dict[str, Any], message: str) -> None:
    good = {"z": {"value": 3}}
    sink = decode(make_document(make_sample("1"), {"@timestamp": TIMESTAMP, **bad, **good}, make_sample("2")))
    assert [value for _, _, value in sink.points] == [1.0, 3.0, 2.0]
    (error,) = sink.rejected
    with pytest.raises(InvalidInputError, match=message):
        raise error


@pytest.mark.parametrize("sample", [None, 7, [], {}, {"@timestamp": 1795898481}])
def test_a_sample_without_a_time_is_rejected_alone(sample: Any) -> None:
    sink = decode(make_document(sample, make_sample("2")))
    assert find_values(sink, "kernel.all.uptime") == [2.0]
    assert [str(error) for error in sink.rejected] == [
        "@hosts[0].@metrics[0]: expected an object with a text '@timestamp'"
    ]


def test_a_name_that_is_nested_without_end_is_cut() -> None:
    tree: Any = {"value": 1}
    for _ in range(400):
        tree = {"abcd": tree}
    sink = decode(make_document({"@timestamp": TIMESTAMP, **tree}))
    assert len(sink.rejected) == 1


# ---------------------------------------------------------------- documents
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b'{ "//": "Waiting for 3 metrics..." }\n',
        b"[]",
        b"null",
        b"{}",
        b'{"@pcp":[]}',
        b'{"@pcp":{}}',
        b'{"@pcp":{"@hosts":[7]}}',
        b'{"@pcp":{"@hosts":[{"@host":"a"}]}}',
        b'{"@pcp":{"@hosts":[{"@host":7,"@metrics":[]}]}}',
        b'{"@pcp":{"@hosts":[',
        b'{"@pcp":' + b'{"a":' * 50_000,
    ],
)
def test_another_body_is_malformed(body: bytes) -> None:
    with pytest.raises(MalformedError):
        run_decoder(decode_pcp, body)


def test_it_gives_way_in_a_long_document() -> None:
    body = json.dumps(make_document(*[make_sample()] * 2500)).encode()
    assert len(list(decode_pcp(body, RecordingSink()))) == 2


def test_an_output_is_split_into_its_documents() -> None:
    first, second = read_agent_body("pcp2json/default-stdout"), read_agent_body("pcp2json/no-header-exact")
    compact = json.dumps(make_document(make_sample('a } \\" {'))).encode() + b"\n"
    output = first + b"\n" + second + compact
    documents = list(split_documents(output.splitlines(keepends=True)))
    assert [len(run_decoder(decode_pcp, each).points) for each in documents] == [57, 57, 0]
    assert not any(b'"//"' in each for each in documents)


def test_a_document_is_there_as_soon_as_it_is_complete() -> None:
    lines = iter([b'{"@pcp":\n', b"{}}\n", b"{\n"])
    assert next(split_documents(lines)) == b'{"@pcp":\n{}}\n'
    assert list(lines) == [b"{\n"]


def test_an_output_that_is_cut_off_has_its_whole_documents() -> None:
    documents = split_documents([b"{}\n", b"{\n"])
    assert next(documents) == b"{}\n"
    with pytest.raises(MalformedError, match="ends in the middle of a document"):
        next(documents)


def test_a_document_that_is_too_long_is_not_kept() -> None:
    with pytest.raises(TooLargeError, match="over 10 bytes"):
        list(split_documents([b"{\n"] * 6, max_bytes=10))


@pytest.mark.parametrize("lines", [[], [b"\n", b"  \n"], [b'{ "//": "Waiting" }\n']])
def test_an_output_without_a_document_has_none(lines: list[bytes]) -> None:
    assert list(split_documents(lines)) == []


# ---------------------------------------------------------------- properties
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["value", "@instances", "name", "", "a"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(st.lists(JSON_VALUES, max_size=3), JSON_VALUES)
def test_good_values_survive_beside_any_other(samples: list[Any], tree: Any) -> None:
    sink = decode(make_document(*samples, {"@timestamp": TIMESTAMP, "bad": tree, "good": {"value": 0.125}}))
    assert find_values(sink, "good") == [0.125]
    assert all(isinstance(error, InvalidInputError) for error in sink.rejected)


@given(st.integers(0, 10_600), st.binary(min_size=1, max_size=4))
def test_a_damaged_document_is_read_or_malformed(place: int, damage: bytes) -> None:
    body = bytearray(read_agent_body("pcp2json/default-stdout"))
    body[place : place + len(damage)] = damage
    try:
        run_decoder(decode_pcp, bytes(body))
    except MalformedError:
        return


@given(st.binary(max_size=100))
def test_arbitrary_bytes_raise_nothing_else(body: bytes) -> None:
    for document in [body, b'{"@pcp":' + body + b"}"]:
        try:
            run_decoder(decode_pcp, document)
        except MalformedError:
            continue
