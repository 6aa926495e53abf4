"""Tests `streamd/protocols/line_protocol.py`: lines as agents write them, every escape, and lines that are broken."""

import gzip
import json
import math
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamd.core.errors import InvalidSampleError, InvalidTimeError, InvalidValueError, MalformedError
from streamd.core.values import is_value
from streamd.protocols.line_protocol import (
    MAX_FAILED_JOINS,
    MAX_JOINED_BYTES,
    MAX_LINE_FIELDS,
    MAX_LINE_TAGS,
    LineCounts,
    decode_line_protocol,
)
from tests.support.recording_sink import RecordingSink

AGENTS = Path(__file__).parents[1] / "fixtures" / "agents"
NOW = 1_795_899_720.0
STAMP = 1_795_899_000_000_000_000

Point = tuple[str, Mapping[str, str], float, float]
"""Name, labels, time, value."""


def decode(body: bytes | str, precision: str = "ns", counts: LineCounts | None = None) -> RecordingSink:
    sink = RecordingSink()
    data = body.encode() if isinstance(body, str) else body
    for _ in decode_line_protocol(data, sink, NOW, precision, counts):
        pass
    return sink


def list_points(sink: RecordingSink) -> list[Point]:
    return [(series.name, dict(series.labels), time, value) for series, time, value in sink.points]


def list_values(body: bytes | str) -> list[tuple[str, float]]:
    sink = decode(body)
    assert not sink.rejected
    return [(series.labels["_field"], value) for series, _, value in sink.points]


def read_fixture(name: str) -> bytes:
    return (AGENTS / f"{name}.body").read_bytes()


# ---------------------------------------------------------------- what agents send
def test_a_line_gives_a_point_for_each_field() -> None:
    sink = decode(f"cpu,cpu=cpu-total,host=web-01 usage_user=12.5,usage_idle=80i {STAMP}\n")
    tags = {"cpu": "cpu-total", "host": "web-01", "_measurement": "cpu"}
    assert list_points(sink) == [
        ("cpu_usage_user", {**tags, "_field": "usage_user"}, STAMP / 1e9, 12.5),
        ("cpu_usage_idle", {**tags, "_field": "usage_idle"}, STAMP / 1e9, 80.0),
    ]
    assert all(series.kind is None for series, _, _ in sink.points)


def test_glances_sends_no_timestamps() -> None:
    """glances 4.5.8, influxdb2: all numbers are floats, and text is in quotes."""
    counts = LineCounts()
    sink = decode(read_fixture("glances-influxdb2/lines-1"), counts=counts)
    assert not sink.rejected
    assert (counts.lines, counts.stamped) == (12, 12)
    assert {time for _, time, _ in sink.points} == {NOW}
    values = {
        (series.name, series.labels.get("interface_name"), series.labels.get("mnt_point")): value
        for series, _, value in sink.points
    }
    assert values["cpu_user", None, None] == 13.5
    assert values["load_min1", None, None] == 1.22412109375
    assert values["network_bytes_recv_rate_per_sec", "lo", None] == 441538
    assert values["fs_percent", None, "/"] == 29.7
    assert values["uptime_seconds", None, None] == 2819
    assert {series.labels["hostname"] for series, _, _ in sink.points} == {"web-01"}
    assert sink.skipped["text value"] == 4 + 2 + 4 + 5  # keys; flags of connections; texts of fs; texts of system


def test_pcp2influxdb_names_instances_as_fields() -> None:
    """pcp2influxdb of pcp 6.0.3: no last newline, integers without `i`."""
    sink = decode(read_fixture("pcp2influxdb/next"))
    assert not sink.rejected
    names = {series.name for series, _, _ in sink.points}
    assert {"kernel_all_load__1_minute", "kernel_all_uptime_value", "filesys_full___dev_vda"} <= names


def test_influxdb_client_writes_every_type() -> None:
    """influxdb-client 1.50.0."""
    for name in ("point", "gzip"):
        body = read_fixture(f"influxdb-client/{name}")
        headers = dict(json.loads((AGENTS / f"influxdb-client/{name}.json").read_text())["headers"])
        sink = decode(gzip.decompress(body) if headers.get("Content-Encoding") == "gzip" else body)
        assert sink.points
        assert not sink.rejected


def test_an_empty_body_has_no_points() -> None:
    for body in (read_fixture("influxdb-client/empty"), b"\n\n", b"\r\n", b"# a comment\n  # and another", b"  "):
        sink = decode(body)
        assert (sink.points, sink.rejected) == ([], [])


# ---------------------------------------------------------------- values
@pytest.mark.parametrize(
    ("written", "value"),
    [
        *(("1", 1.0), ("-1", -1.0), ("1.5", 1.5), ("-.5", -0.5), ("1.", 1.0), ("1e3", 1000.0), ("1.5E-3", 0.0015)),
        *(("12i", 12.0), ("-12i", -12.0), ("0i", 0.0), ("12u", 12.0)),
        *(("9223372036854775807i", 2.0**63), ("-9223372036854775808i", -(2.0**63)), ("18446744073709551615u", 2.0**64)),
        *((word, 1.0) for word in ("t", "T", "true", "True", "TRUE")),
        *((word, 0.0) for word in ("f", "F", "false", "False", "FALSE")),
    ],
)
def test_a_value_is_read(written: str, value: float) -> None:
    assert list_values(f"m v={written} {STAMP}") == [("v", value)]


@pytest.mark.parametrize(
    ("written", "why"),
    [
        ("", "has no value"),
        ("abc", "expected a number of magnitude below 1e30"),
        ("1_000", "expected a number of magnitude below 1e30"),
        ("0x10", "expected a number of magnitude below 1e30"),
        ("inf", "expected a number of magnitude below 1e30"),
        ("-Infinity", "expected a number of magnitude below 1e30"),
        ("1e999", "expected a number of magnitude below 1e30"),
        ("-3.4e38", "is '-3.4e38', expected a number of magnitude below 1e30"),
        ("1.5i", "expected a number of magnitude below 1e30"),
        ("1ii", "expected a number of magnitude below 1e30"),
        ("-", "expected a number of magnitude below 1e30"),
        ("--1", "expected a number of magnitude below 1e30"),
        ("tRUE", "expected a number of magnitude below 1e30"),
        ("9223372036854775808i", "exceeds 64 bits"),
        ("-1u", "exceeds 64 bits"),
        ("18446744073709551616u", "exceeds 64 bits"),
        ("9" * 5000 + "i", "exceeds 64 bits"),
        ("\u0661", "expected a number of magnitude below 1e30"),
    ],
)
def test_a_bad_value_costs_only_itself(written: str, why: str) -> None:
    sink = decode(f"m a=1,v={written},b=2 {STAMP}\nm c=3 {STAMP}")
    assert [value for _, _, value in sink.points] == [1.0, 2.0, 3.0]
    (error,) = sink.rejected
    assert isinstance(error, InvalidValueError)
    assert str(error).startswith("line 1: field 'v' ")
    assert why in str(error)
    assert len(str(error)) < 300


def test_text_and_nan_are_skipped() -> None:
    sink = decode('m a="x",b=nan,c=NaN,d="" 1')
    assert (sink.points, sink.rejected) == ([], [])
    assert sink.skipped == {"text value": 2, "missing value": 2}


@pytest.mark.parametrize(
    "text", ['"a, b=c d"', r'"say \"hi\""', r'"C:\\"', '"a\nb"', '"\n\n\\"\n"', '"#"', r'"\\\" "', '"ü"']
)
def test_a_string_may_hold_anything(text: str) -> None:
    sink = decode(f"m s={text},v=1 {STAMP}\nm s={text} {STAMP}\nm v=2,s={text}\nm v=3")
    assert [value for _, _, value in sink.points] == [1.0, 2.0, 3.0]
    assert not sink.rejected
    assert sink.skipped == {"text value": 3}


# ---------------------------------------------------------------- names
@pytest.mark.parametrize(
    ("line", "measurement", "tags", "field"),
    [
        (r"disk\ io,host=a v=1", "disk io", {"host": "a"}, "v"),
        (r"a\,b,host=a v=1", "a,b", {"host": "a"}, "v"),
        (r"a=b,host=a v=1", "a=b", {"host": "a"}, "v"),
        (r"a\=b,host=a v=1", r"a\=b", {"host": "a"}, "v"),
        (r"m,ta\ g=v\,al\=ue\ x v=1", "m", {"ta g": "v,al=ue x"}, "v"),
        (r"m fi\ e\,l\=d=1", "m", {}, "fi e,l=d"),
        (r"m,path=C:\dir\x v=1", "m", {"path": r"C:\dir\x"}, "v"),
        (r"m,path=a\\ b v=1", "m", {"path": r"a\ b"}, "v"),
        ('m,t="q" v=1', "m", {"t": '"q"'}, "v"),
        ('"m",t=x "v"=1', '"m"', {"t": "x"}, '"v"'),
        ("m,t=über v=1", "m", {"t": "über"}, "v"),
    ],
)
def test_escapes_are_those_of_influxdb(line: str, measurement: str, tags: Mapping[str, str], field: str) -> None:
    for end in ("", f" {STAMP}"):
        sink = decode(line + end)
        assert not sink.rejected
        ((name, labels, _, value),) = list_points(sink)
        assert name == f"{measurement}_{field}"
        assert labels == {**tags, "_measurement": measurement, "_field": field}
        assert value == 1.0


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("cpu", "expected a measurement"),
        ("cpu,host=a", "expected a measurement"),
        (r"cpu\ v=1", "expected a measurement"),
        ("cpu v=1 1 2", "expected a measurement"),
        (",host=a v=1", "the measurement is empty"),
        ("cpu,host v=1", "tag 1 is 'host'"),
        ("cpu,host= v=1", "a part of tag 1 is empty"),
        ("cpu,=a v=1", "a part of tag 1 is empty"),
        ("cpu,a=b=c v=1", "tag 1 is 'a=b=c'"),
        ("cpu,a=1,a=2 v=1", "the tag 'a' is repeated"),
        ("cpu, v=1", "tag 1 is ''"),
        ("cpu =1", "the name of a field is empty"),
        ("cpu v", "has no value"),
        ('cpu v="a"b', "expected a comma or a space behind the string"),
        ('cpu v="a', "is not closed"),
        ("m," + ",".join(f"t{index}=x" for index in range(MAX_LINE_TAGS + 1)) + " v=1", "tags"),
        ("m,t=" + "x" * 1_025 + " v=1", "1025 bytes"),
        ("m" * 1_025 + " v=1", "bytes"),
        ("m " + ",".join(f"f{index}=1" for index in range(MAX_LINE_FIELDS + 1)), "fields"),
        ('m s="",' + ",".join(f"f{index}=1" for index in range(MAX_LINE_FIELDS + 1)), "fields"),
    ],
)
def test_a_bad_line_is_named_and_costs_only_itself(line: str, why: str) -> None:
    sink = decode(f"m v=1\n{line}\nm v=2\n")
    assert [value for _, _, value in sink.points] == [1.0, 2.0]
    (error,) = sink.rejected
    assert isinstance(error, InvalidSampleError | InvalidValueError)
    assert str(error).startswith("line 2")
    assert why in str(error)
    assert len(str(error)) < 300


def test_bytes_that_are_not_utf8_cost_only_their_line() -> None:
    sink = decode(b"m,h=\xff v=1\nm v=2\nm \xc3=1\n\x00\x01 v=1")
    assert [value for _, _, value in sink.points] == [2.0, 1.0]
    assert all("not UTF-8" in str(error) for error in sink.rejected)
    assert len(sink.rejected) == 2


def test_spaces_and_line_ends_may_vary() -> None:
    for line in ("  m v=1 5", "m  v=1 5", "m v=1  5", "m v=1 5  ", "\tm v=1 5", 'm v=1,s="" 5 ', ' m v=1,s=""   5'):
        for end in ("", "\n", "\r\n", "\r"):
            sink = decode(line + end)
            assert [(time, value) for _, time, value in sink.points] == [(5e-9, 1.0)]
            assert not sink.rejected


# ---------------------------------------------------------------- strings that are not closed
def test_a_string_that_is_not_closed_costs_only_its_line() -> None:
    sink = decode('m a="x\nm v=1 5\nm b="y"\nm c="z" 5\nm v=2 5\nm d="')
    assert [value for _, _, value in sink.points] == [1.0, 2.0]
    assert [str(error)[:6] for error in sink.rejected] == ["line 1", "line 6"]
    sink = decode('m a="x\nm b=" 5\nm v=1\n')
    assert [value for _, _, value in sink.points] == [1.0]


def test_a_string_may_be_continued_for_so_many_bytes() -> None:
    for size, rejected in ((MAX_JOINED_BYTES - 10, 0), (MAX_JOINED_BYTES, 1)):
        sink = decode('m s="' + "\n" * size + '" 5\nm v=1')
        assert [value for _, _, value in sink.points][-1:] == [1.0]
        assert (len(sink.rejected) > 0) == rejected


def test_many_broken_strings_stop_the_search_for_their_ends() -> None:
    broken = 'm s="\n!\n' * (MAX_FAILED_JOINS + 1)
    whole = 'm s="\n",v=1 5\n'
    assert [value for _, _, value in decode(whole + broken).points] == [1.0]
    sink = decode(broken + whole + "m v=2")
    assert [value for _, _, value in sink.points] == [2.0]


# ---------------------------------------------------------------- times
@pytest.mark.parametrize(
    ("precision", "stamp", "time"),
    [
        ("ns", STAMP, STAMP / 1e9),
        ("n", STAMP, STAMP / 1e9),
        ("us", 1_795_899_000_000_001, 1_795_899_000.000001),
        ("u", 1_795_899_000_000_000, 1_795_899_000.0),
        ("ms", 1_795_899_000_500, 1_795_899_000.5),
        ("s", 1_795_899_000, 1_795_899_000.0),
        ("m", 29_931_650, 1_795_899_000.0),
        ("h", 498_860, 1_795_896_000.0),
        ("s", -5, -5.0),
        ("s", 0, 0.0),
    ],
)
def test_a_timestamp_is_in_the_units_of_the_precision(precision: str, stamp: int, time: float) -> None:
    for line in (f"m v=1 {stamp}", f'm v=1,s="" {stamp}'):
        assert [when for _, when, _ in decode(line, precision).points] == [time]


def test_an_unknown_precision_refuses_the_body() -> None:
    for precision in ("", "x", "NS", "d", "ns" * 100):
        with pytest.raises(MalformedError, match=r"precision is .*, expected one of ns, n, us"):
            decode("m v=1", precision)


@pytest.mark.parametrize("stamp", ["x", "1.5", "1e9", "+1", "-", "--1", "1_0", "9223372036854775808", "9" * 5000])
def test_a_bad_timestamp_costs_the_points_of_its_line(stamp: str) -> None:
    for line in (f"m a=1,b=2 {stamp}", rf"m a\ a=1,b=2 {stamp}"):
        sink = decode(f"m v=1 7\n{line}\nm v=2 7\n")
        assert [(time, value) for _, time, value in sink.points] == [(7e-9, 1.0), (7e-9, 2.0)]
        assert [type(error) for error in sink.rejected] == [InvalidTimeError] * 2
        assert str(sink.rejected[0]).startswith("line 2: the timestamp ")


def test_lines_without_a_timestamp_have_the_time_of_arrival_and_are_counted() -> None:
    counts = LineCounts()
    sink = decode('m v=1\nm v=2 5\nm v=3\nm v=4,s=""\nm v=5 5\n', counts=counts)
    assert [time for _, time, _ in sink.points] == [NOW, 5e-9, NOW, NOW, 5e-9]
    assert (counts.lines, counts.stamped) == (5, 3)


def test_a_field_that_comes_twice_is_two_points() -> None:
    assert list_values("m v=1,v=2 5") == [("v", 1.0), ("v", 2.0)]


# ---------------------------------------------------------------- size
def test_lines_are_counted_over_many_slices() -> None:
    good = "".join(f"m,h=h{index} v={index} 5\n" for index in range(5_000))
    sink = RecordingSink()
    slices = sum(1 for _ in decode_line_protocol((good + "bad\n" + good + 'm s="a\nb" 5\n!').encode(), sink, NOW))
    assert slices > 10
    assert len(sink.points) == 10_000
    assert [str(error)[:10] for error in sink.rejected] == ["line 5001,", "line 10004"]


def test_a_long_line_is_one_line() -> None:
    fields = ",".join(f"field_{index}={index}" for index in range(MAX_LINE_FIELDS))
    assert len(decode(f"m v=1 5\nm {fields} 5\nm v=2 5").points) == MAX_LINE_FIELDS + 2


def test_keys_of_long_names_are_short() -> None:
    """The keys stay in memory, because a sink keeps them."""
    keys = []

    class KeySink(RecordingSink):
        def find(self, key: object) -> None:
            keys.append(key)

    tags = ",".join(f"t{index}={'x' * 1000}" for index in range(50))
    for _ in decode_line_protocol(f"m,{tags} v=1\nm,{tags}y v=1\n".encode(), KeySink(), NOW):
        pass
    assert len(set(keys)) == 2
    assert all(isinstance(key, tuple) and len(key[0]) <= 512 for key in keys)


# ---------------------------------------------------------------- any points, any bytes
texts = st.text(
    st.characters(exclude_characters="\n\r\x00", exclude_categories=["Cs"]), min_size=1, max_size=12
).filter(lambda text: not text.endswith("\\") and text.strip() == text and "\\" not in text)
floats = st.floats(-9e29, 9e29)
values = (
    floats | st.integers(-(2**63), 2**63 - 1) | st.booleans() | st.text(max_size=20).filter(lambda t: "\r" not in t)
)
lines = st.tuples(
    texts.filter(lambda text: not text.startswith("#")),
    st.dictionaries(texts, texts, max_size=4),
    st.dictionaries(texts, values, min_size=1, max_size=5),
    st.none() | st.integers(-(2**63), 2**63 - 1),
)

Line = tuple[str, dict[str, str], dict[str, float | bool | str], int | None]


def escape(text: str, escaped: str = ",= ") -> str:
    return "".join("\\" + each if each in escaped else each for each in text)


def write_value(value: float | bool | str) -> str:
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if isinstance(value, bool):
        return "true" if value else "f"
    return f"{value}i" if isinstance(value, int) else repr(value)


def write_line(line: Line) -> str:
    measurement, tags, fields, stamp = line
    prefix = ",".join([escape(measurement, ", "), *(f"{escape(key)}={escape(tag)}" for key, tag in tags.items())])
    pairs = ",".join(f"{escape(key)}={write_value(value)}" for key, value in fields.items())
    return f"{prefix} {pairs}" + ("" if stamp is None else f" {stamp}")


def list_expected(line: Line) -> list[Point]:
    measurement, tags, fields, stamp = line
    time = NOW if stamp is None else stamp / 10**9
    labels = {**tags, "_measurement": measurement}
    return [
        (f"{measurement}_{field}", {**labels, "_field": field}, time, float(value))
        for field, value in fields.items()
        if not isinstance(value, str)
    ]


@given(st.lists(lines, max_size=6), st.sampled_from(["\n", "\r\n", "\n\n", "\n# x\n"]), st.booleans())
def test_what_is_written_is_read(written: list[Line], end: str, has_last: bool) -> None:
    sink = decode(end.join(map(write_line, written)) + (end if has_last else ""))
    assert not sink.rejected
    assert list_points(sink) == [point for line in written for point in list_expected(line)]


@given(st.lists(lines, min_size=1, max_size=4), st.lists(st.binary(max_size=30), max_size=4))
def test_good_lines_survive_beside_bytes(written: list[Line], noise: list[bytes]) -> None:
    """The noise has no quotes, because a quote may legitimately make the next lines part of a string."""
    body = b"\n"
    for index, line in enumerate(written):
        body += (noise[index] if index < len(noise) else b"").replace(b'"', b"").replace(b"\n", b"") + b"\n"
        body += write_line(line).encode() + b"\n"
    found = list_points(decode(body))
    for line in written:
        for point in list_expected(line):
            assert point in found


@given(st.binary(max_size=300))
def test_any_bytes_are_read(body: bytes) -> None:
    sink = decode(body)
    assert all(is_value(value) and math.isfinite(time) for _, time, value in sink.points)


@given(st.text(alphabet='m ,=\\"\n1it#-', max_size=60))
def test_any_line_of_its_signs_is_read(body: str) -> None:
    sink = decode(body)
    assert all(is_value(value) for _, _, value in sink.points)
    assert all(str(error).startswith("line ") for error in sink.rejected)


@given(st.data())
def test_mutated_fixtures_are_read(data: st.DataObject) -> None:
    body = bytearray(read_fixture("glances-influxdb2/lines-1"))
    for _ in range(data.draw(st.integers(1, 8))):
        place = data.draw(st.integers(0, len(body) - 1))
        body[place : place + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    sink = decode(bytes(body))
    assert all(is_value(value) for _, _, value in sink.points)
