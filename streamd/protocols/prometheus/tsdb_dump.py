r"""Reads the text that `promtool tsdb dump` writes: `{__name__="up", instance="web-01:9100"} 1 1763708400000`.

The format is that of promtool 2.42.0 (run) to 3.14.0 (`formatSeriesSet` in `cmd/promtool/tsdb.go`): label values are
quoted as Go quotes strings, and names too if they are not `[a-zA-Z_][a-zA-Z0-9_]*` (from 3.1 on); values are `%g`;
times are milliseconds. A stale marker is written as `NaN`, like any other NaN. Native histograms are written as
`{count:..}` (from 2.48 on), and are skipped here.
"""

import re
from collections.abc import Iterable, Iterator
from math import isnan

from streamd.core.errors import InvalidSampleError, InvalidValueError, MalformedError, StreamdError
from streamd.core.mapping.series import PointSink, SeriesEntry
from streamd.core.values import EXPECTED_VALUE, is_value
from streamd.protocols.prometheus.labels import build_series

MAX_LINE_BYTES = 2**19
"""The largest size of a line; 65 labels of 1,024 bytes need less, however they are quoted."""

SLICE_LINES = 1_000
"""The number of lines after which the reader yields."""

_QUOTED = rb'"([^"\\]*(?:\\.[^"\\]*)*)"'
_LABEL = re.compile(rb'(?:%b|([^"={}, ]+))=%b(?:, ?|(?=\}))' % (_QUOTED, _QUOTED))
_SAMPLE = re.compile(rb" ([+-]?(?:\d[\d.]*(?:e[+-]\d+)?|Inf)|NaN) (-?\d{1,18})")
_ESCAPE = re.compile(rb"\\(?:x([0-9a-f]{2})|u([0-9a-f]{4})|U([0-9a-f]{8})|(.))", re.DOTALL)
_SIMPLE = dict(zip(b'abfnrtv\\"', b'\a\b\f\n\r\t\v\\"', strict=True))


def read_tsdb_dump(lines: Iterable[bytes], sink: PointSink[SeriesEntry]) -> Iterator[None]:
    """Write the points of a dump to a sink. Yields after each `SLICE_LINES`.

    A line that cannot be read is rejected with its number, empty lines are ignored. Raises `MalformedError` at the end
    if there are lines, but no line of a dump.
    """
    first_fault: StreamdError | None = None
    is_dump = False
    for number, line in enumerate(lines, 1):
        if number % SLICE_LINES == 0:
            yield
        text = line.rstrip(b"\r\n")
        if not text:
            continue
        try:
            _read_line(text, sink)
            is_dump = True
        except (InvalidSampleError, InvalidValueError) as exc:
            fault = type(exc)(f"line {number}: {exc}")
            first_fault = first_fault or fault
            is_dump = is_dump or isinstance(exc, InvalidValueError)
            sink.reject(fault)
    if first_fault is not None and not is_dump:
        raise MalformedError(f"no line is one of `promtool tsdb dump`; {first_fault}")


def _read_line(line: bytes, sink: PointSink[SeriesEntry]) -> None:
    """Take the point of one line; raises `InvalidSampleError` or `InvalidValueError`."""
    if len(line) > MAX_LINE_BYTES:
        raise InvalidSampleError(f"has {len(line)} bytes, at most {MAX_LINE_BYTES} are taken")
    # Labels may contain spaces, so the line is split from its end. All lines of a series follow each other in a dump.
    pieces = line.rsplit(b" ", 2)
    entry = sink.find(pieces[0]) if len(pieces) == 3 else None
    if entry is None:
        pairs, end = _read_labels(line)
        if line.startswith(b" {count:", end):
            sink.skip("native histogram")
            return
        value, time_ms = _read_sample(line[end:])
        # The line is valid here, so its last two spaces precede the value and the time, and the series is really new.
        entry = sink.bind(line[:end], build_series(pairs))
    else:
        value, time_ms = _read_sample(line[len(pieces[0]) :])
    if is_value(value):
        sink.add(entry, time_ms / 1000, value)
    elif isnan(value):
        sink.skip("missing value")
    else:
        raise InvalidValueError(f"the value is {value}, expected {EXPECTED_VALUE}")


def _read_sample(text: bytes) -> tuple[float, int]:
    match = _SAMPLE.fullmatch(text)
    try:
        if match is not None:
            return float(match[1]), int(match[2])
    except ValueError:
        pass
    shown = text[:64].decode("ascii", "backslashreplace")
    raise InvalidSampleError(f"the labels are followed by {shown!r}, expected a value and a time in milliseconds")


def _read_labels(line: bytes) -> tuple[list[tuple[bytes, bytes]], int]:
    """Return the labels at the beginning of a line, and the position after them."""
    pairs: list[tuple[bytes, bytes]] = []
    end = 1 if line.startswith(b"{") else len(line)
    while match := _LABEL.match(line, end):
        quoted, plain, value = match.groups()
        pairs.append((plain if quoted is None else _unquote(quoted), _unquote(value)))
        end = match.end()
    if line[end : end + 1] != b"}":
        shown = line[:64].decode("ascii", "backslashreplace")
        raise InvalidSampleError(
            f'{shown!r} does not begin with labels, expected {{__name__="up", ..}} 1 1763708400000'
        )
    return pairs, end + 1


def _unquote(text: bytes) -> bytes:
    return _ESCAPE.sub(_read_escape, text) if b"\\" in text else text


def _read_escape(match: re.Match[bytes]) -> bytes:
    byte, short, long, simple = match.groups()
    if byte is not None:
        return bytes.fromhex(byte.decode())
    try:
        if simple is not None:
            return bytes((_SIMPLE[simple[0]],))
        return chr(int(short or long, 16)).encode()
    except (KeyError, ValueError, OverflowError) as exc:
        shown = match[0].decode("ascii", "backslashreplace")
        raise InvalidSampleError(f"{shown!r} is no escape that Go writes") from exc
