"""Tests `streamd/protocols/prometheus/tsdb_dump.py`: what promtool writes is read; a bad line costs only itself."""

import contextlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamd.core.errors import InvalidSampleError, InvalidValueError, MalformedError
from streamd.core.mapping.series import SourceSeries
from streamd.protocols.prometheus.tsdb_dump import MAX_LINE_BYTES, SLICE_LINES, read_tsdb_dump
from tests.support.recording_sink import RecordingSink
from tests.support.remote_write_bodies import FIXTURES

UP = b'{__name__="up", instance="web-01:9100"} 1 1763708400000\n'


def read(*lines: bytes) -> RecordingSink:
    sink = RecordingSink()
    for _ in read_tsdb_dump(lines, sink):
        pass
    return sink


def read_one(line: bytes) -> tuple[SourceSeries, float, float]:
    sink = read(line)
    assert sink.rejected == []
    (point,) = sink.points
    return point


def test_a_real_dump_is_read() -> None:
    lines = (FIXTURES / "remote_write" / "tsdb-dump.txt").read_bytes().splitlines(keepends=True)
    sink = read(*lines)
    quoted = {"instance": 'a"b\\c\nd', "job": "é 世 \\t"}
    assert sink.points == [
        (SourceSeries("big", {"y": "3"}), 1763708400.0, 123456789.0),
        (SourceSeries("up", quoted), 1763708400.0, 0.1),
        (SourceSeries("up", quoted), 1763708401.123, 1e21),
        (SourceSeries("up", {"instance": "ctl\x01\x7f"}), 1763708400.0, 1.0),
        (SourceSeries("up", {"instance": "web-01:9100", "job": "node"}), 1763708400.0, 1.0),
    ]
    assert sink.skipped == {"missing value": 1}
    assert [str(error) for error in sink.rejected] == [
        "line 1: the value is inf, expected a number of magnitude below 1e30",
        "line 3: the value is -1.7976931348623157e+308, expected a number of magnitude below 1e30",
        "line 5: the value is -inf, expected a number of magnitude below 1e30",
    ]


def test_a_series_is_bound_once() -> None:
    sink = read(UP, UP.replace(b" 1 ", b" 2.5e-07 "), UP.replace(b"1763708400000", b"-1"))
    assert len({id(series) for series, _, _ in sink.points}) == 1
    assert [(time, value) for _, time, value in sink.points] == [
        (1763708400.0, 1),
        (1763708400.0, 2.5e-07),
        (-0.001, 1),
    ]


@pytest.mark.parametrize(
    ("line", "name", "labels"),
    [
        (b'{"__name__"="x", "host.name"="a b"} 1 1', "x", {"host.name": "a b"}),
        (b'{__name__="x", host.name="a"} 1 1', "x", {"host.name": "a"}),
        (b'{__name__="x", a="} 1 1", b="{"} 1 1', "x", {"a": "} 1 1", "b": "{"}),
        (b'{__name__="x", "q\\"=\\","="1"} 1 1', "x", {'q"=",': "1"}),
        (rb'{__name__="x", a="\u00ad\U000e0001\x00\a\v"} 1 1', "x", {"a": "\xad\U000e0001\x00\a\v"}),
        (b'{b="", __name__="x"} 1 1', "x", {}),
        (b'{__name__="x"} 1 1\r\n', "x", {}),
    ],
)
def test_labels_are_unquoted(line: bytes, name: str, labels: dict[str, str]) -> None:
    assert read_one(line) == (SourceSeries(name, labels), 0.001, 1.0)


def test_native_histograms_and_missing_values_are_skipped() -> None:
    histogram = b'{__name__="h", a="b"} {count:3, sum:1.5, [-0.001,0.001]:1, (1,1.09]:2} 1763708400000\n'
    sink = read(histogram, UP, UP.replace(b" 1 ", b" NaN "), histogram, b"\n")
    assert sink.skipped == {"native histogram": 2, "missing value": 1}
    assert len(sink.points) == 1
    assert sink.rejected == []


BAD_LINES: dict[str, tuple[bytes, str]] = {
    "text": (b"BLOCK ULID  MIN TIME", "does not begin with labels"),
    "JSON": (b'{"__name__":"up"}', "does not begin with labels"),
    "OpenMetrics": (b'up{instance="a"} 1 1763708400.000', "does not begin with labels"),
    "no end of a label": (b'{__name__="up', "does not begin with labels"),
    "no value": (b'{__name__="up"}', "expected a value and a time"),
    "no time": (b'{__name__="up"} 1', "expected a value and a time"),
    "an underscore": (b'{__name__="up"} 1_0 1', "expected a value and a time"),
    "two points": (b'{__name__="up"} 1.2.3 1', "expected a value and a time"),
    "a long time": (b'{__name__="up"} 1 ' + b"9" * 5_000, "expected a value and a time"),
    "a fraction": (b'{__name__="up"} 1 1.5', "expected a value and a time"),
    "another space": (b'{__name__="up"}x1 1', "expected a value and a time"),
    "no name": (b'{a="b"} 1 1', "the label __name__ is missing"),
    "no labels": (b"{} 1 1", "the label __name__ is missing"),
    "a repeated label": (b'{__name__="x", a="1", a="1"} 1 1', "is repeated"),
    "a strange escape": (rb'{__name__="x", a="\q"} 1 1', "no escape that Go writes"),
    "half a surrogate pair": (rb'{__name__="x", a="\ud800"} 1 1', "no escape that Go writes"),
    "no code point": (rb'{__name__="x", a="\Uffffffff"} 1 1', "no escape that Go writes"),
    "no UTF-8": (rb'{__name__="x", a="\xff"} 1 1', "is not UTF-8"),
    "a long label": (b'{__name__="x", a="' + b"v" * 1_025 + b'"} 1 1', "has 1025 bytes"),
    "a long line": (b'{__name__="x", a="' + b"v" * MAX_LINE_BYTES, f"at most {MAX_LINE_BYTES}"),
    "many labels": (b'{__name__="x"' + b', a="1"' * 66 + b"} 1 1", "67 labels, at most 65"),
    "nothing": (b"\x00\xff", "does not begin with labels"),
}


@pytest.mark.parametrize(("line", "expected"), BAD_LINES.values(), ids=BAD_LINES)
def test_a_bad_line_costs_only_itself(line: bytes, expected: str) -> None:
    sink = read(UP, line, UP)
    assert len(sink.points) == 2
    (error,) = sink.rejected
    assert isinstance(error, InvalidSampleError)
    assert re.match("line 2: ", str(error))
    assert expected in str(error)
    assert len(str(error)) < 400


def test_a_file_of_another_kind_is_malformed() -> None:
    with pytest.raises(MalformedError, match=r"no line is one of `promtool tsdb dump`; line 2: 'a' does not begin"):
        read(b"\n", b"a\n", b"b\n")
    assert read().points == []
    assert type(read(UP.replace(b" 1 ", b" +Inf ")).rejected[0]) is InvalidValueError


def test_the_loop_gets_its_turn() -> None:
    assert sum(1 for _ in read_tsdb_dump([UP] * (3 * SLICE_LINES), RecordingSink())) == 3


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


def quote(text: str) -> str:
    """Quote in Go's way, with an escape for each character that is not plain."""
    plain = {"\\": r"\\", '"': r"\"", "\n": r"\n"}
    return "".join(plain.get(c, c if c.isalnum() else f"\\U{ord(c):08x}") for c in text).join('""')


@given(texts.filter(bool), st.dictionaries(texts.filter(lambda t: t not in ("", "__name__")), texts, max_size=4))
def test_any_labels_are_read_back(name: str, labels: dict[str, str]) -> None:
    written = ", ".join(f"{quote(key)}={quote(value)}" for key, value in {"__name__": name, **labels}.items())
    series, *_ = read_one(f"{{{written}}} 1 1".encode())
    assert series == SourceSeries(name, {key: value for key, value in labels.items() if value})


@given(st.binary(max_size=80), st.integers(0, len(UP)), st.integers(0, len(UP)))
def test_any_bytes_are_a_point_or_an_error(garbage: bytes, begin: int, end: int) -> None:
    sink = RecordingSink()
    with contextlib.suppress(MalformedError):
        for _ in read_tsdb_dump([UP[:begin] + garbage + UP[end:], garbage], sink):
            pass
    assert len(sink.points) + len(sink.rejected) + sum(sink.skipped.values()) <= 2
    assert len(read(UP, garbage, UP).points) >= 2
