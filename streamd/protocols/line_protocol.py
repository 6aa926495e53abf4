"""Decodes InfluxDB's line protocol, as its versions 1 and 2 write it, into points. Knows no HTTP and no clock.

The escapes are those of InfluxDB 2's parser (`models/points.go`): a comma, space or equals sign after a backslash is
part of a name, and any other backslash is itself.
"""

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from operator import methodcaller
from typing import Generic

import msgspec

from streamd.core.errors import InvalidSampleError, InvalidTimeError, InvalidValueError, MalformedError
from streamd.core.mapping.series import PointSink, SeriesEntry, SourceSeries
from streamd.core.values import EXPECTED_VALUE, LEAST_REFUSED
from streamd.protocols.json_items import MISSING

TIME_UNITS: dict[str, tuple[int, int]] = {
    **dict.fromkeys(("ns", "n"), (1, 1_000_000_000)),
    **dict.fromkeys(("us", "u", "µs"), (1, 1_000_000)),
    "ms": (1, 1_000),
    "s": (1, 1),
    "m": (60, 1),
    "h": (3_600, 1),
}
"""The units of a timestamp by their names in the parameter `precision`, each a multiplier and a divisor to seconds."""

MAX_LINE_TAGS = 62
"""The largest number of tags of one line. The measurement and the field are two more labels of a series."""
MAX_LINE_TEXT_BYTES = 1_024
"""The largest size of a measurement, the name or value of a tag, the name of a field, and the name of a series."""
MAX_LINE_FIELDS = 10_000
"""The largest number of fields of one line; a line with more is rejected before it is split."""
MAX_POINT_LINE_BYTES = 2**20
"""A longer line is rejected before it is split."""
MAX_JOINED_BYTES = 65_536
"""The largest size of a line that continues after line breaks within its strings."""
MAX_FAILED_JOINS = 100
"""The number of broken lines with quotes in one body after which no line may continue after a line break: the search
for the end of a string may read `MAX_JOINED_BYTES` each time."""

TEXT_VALUE = "text value"
"""The reason for skipping a value that is text."""

_CHUNK_BYTES = 16_384
"""The size of the part that is split into lines at once, so that a body never becomes millions of objects."""
_SHOWN_BYTES = 64
_MAX_KEY_BYTES = 512


@dataclass
class LineCounts:
    """The numbers of lines in one body."""

    lines: int = 0
    """Lines that hold a point."""
    stamped: int = 0
    """Those of them without a timestamp, which have the time of their arrival."""


def decode_line_protocol(
    body: bytes,
    sink: PointSink[SeriesEntry],
    now: float,
    precision: str = "ns",
    counts: LineCounts | None = None,
) -> Iterator[None]:
    """Write the points of all lines to a sink; a bad field or line is rejected alone.

    A line without a timestamp has the time `now`. Text and NaN are skipped, true is 1 and false is 0. If a line has a
    field twice, both are points. Raises `MalformedError` if the precision is unknown.
    """
    if precision not in TIME_UNITS:
        raise MalformedError(f"precision is {precision[:16]!r}, expected one of {', '.join(TIME_UNITS)}")
    reader = _LineReader(sink, now, TIME_UNITS[precision], counts or LineCounts())
    if b"\r" in body:
        body = body.replace(b"\r\n", b"\n").removesuffix(b"\r")
    start = resume = number = 0
    while start < len(body):
        for line in body[start : _find_chunk_end(body, start)].split(b"\n"):
            begin, start, number = start, start + len(line) + 1, number + 1
            if not line or begin < resume:
                continue
            if b'"' in line or b"\\" in line:
                resume = reader.read_escaped_line(body, begin, number)
            else:
                reader.read_plain_line(line, number)
        yield


def _find_chunk_end(body: bytes, start: int) -> int:
    """Return the end of the last line that ends within a chunk, or that of the first line if it is longer."""
    if len(body) - start <= _CHUNK_BYTES:
        return len(body)
    end = body.rfind(b"\n", start, start + _CHUNK_BYTES)
    if end < 0:
        end = body.find(b"\n", start)
    return len(body) if end < 0 else end


_DECIMAL_BYTES = b"0123456789.eE+-"
_INTEGER = re.compile(rb"[-+]?\d+[iu]")
_INFINITE = re.compile(rb"[-+]?inf(inity)?", re.IGNORECASE)
_WORDS = {
    **dict.fromkeys((b"nan", b"NaN", b"NAN"), math.nan),
    **dict.fromkeys((b"t", b"T", b"true", b"True", b"TRUE"), 1.0),
    **dict.fromkeys((b"f", b"F", b"false", b"False", b"FALSE"), 0.0),
}
_split_pair = methodcaller("partition", b"=")

_PREFIX = re.compile(rb"[ \t]*+((?:[^ \n]|(?<=\\) )++) ++")
_NAME = re.compile(rb"(?:[^,= \n]|(?<=\\)[,= ])*+")
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_WORD = re.compile(rb"[^, \n]*+")

_Pair = tuple[bytes, bytes, bytes]
"""The name of a field, its equals sign or nothing, and its value, as they are written."""


class _LineReader(Generic[SeriesEntry]):
    """A reader of the lines of one body."""

    def __init__(self, sink: PointSink[SeriesEntry], now: float, scale: tuple[int, int], counts: LineCounts) -> None:
        self._sink = sink
        self._now = now
        self._multiplier, self._divisor = scale
        self._counts = counts
        self._stamp = b""
        self._time = now
        """The time of `_stamp`, kept because the lines of a body often have the same timestamp."""
        self._failed_joins = 0
        self._prefix = b""
        self._parsed: tuple[str, dict[str, str]] | InvalidSampleError = InvalidSampleError("the measurement is empty")

    def read_plain_line(self, line: bytes, number: int) -> None:
        """Read a line without quotes and backslashes."""
        if len(line) > MAX_POINT_LINE_BYTES:
            self._reject_line(number, line, f"it has {len(line)} bytes, at most {MAX_POINT_LINE_BYTES} are accepted")
            return
        parts = line.split(b" ", 3)
        if len(parts) > 3 or not all(parts):
            parts = line.split(None, 3)
        if not parts or parts[0].startswith(b"#"):
            return
        if len(parts) not in (2, 3):
            self._reject_line(number, line, "expected a measurement with tags, fields, and perhaps a timestamp")
            return
        count = parts[1].count(b",") + 1
        if count > MAX_LINE_FIELDS:
            self._reject_line(number, line, f"it has {count} fields, at most {MAX_LINE_FIELDS} are accepted")
        elif self._read_time(parts[2] if len(parts) == 3 else b"", number, count):
            self._add_fields(parts[0], map(_split_pair, parts[1].split(b",")), number)

    def read_escaped_line(self, body: bytes, begin: int, number: int) -> int:
        """Read a line with quotes or backslashes; returns where the next line begins.

        A string may hold line breaks. If a string is not closed, or the text after it does not complete a line, only
        the line that opens the string is rejected: the next lines are probably good.
        """
        end = _find_line_end(body, begin)
        line = body[begin:end]
        if line.lstrip(b" \t").startswith(b"#"):
            return end + 1
        prefix = _PREFIX.match(body, begin, end) if len(line) <= MAX_POINT_LINE_BYTES else None
        if prefix is None:
            expected = f"expected a measurement with tags, a space, and fields, in at most {MAX_POINT_LINE_BYTES} bytes"
            self._reject_line(number, line, expected)
            return end + 1
        limit = end if self._failed_joins >= MAX_FAILED_JOINS else max(end, begin + MAX_JOINED_BYTES)
        pairs = list[_Pair]()
        try:
            place = _read_pairs(body, prefix.end(), limit, pairs)
            last = end if place <= end else _find_line_end(body, place)
            stamp = body[place:last].strip(b" \t")
            if last > end and not stamp.removeprefix(b"-").isdigit() and stamp:
                raise InvalidSampleError("a string in it is not closed")
        except InvalidSampleError as error:
            self._failed_joins += limit > end
            self._reject_line(number, line, str(error))
            return end + 1
        if self._read_time(stamp, number, len(pairs)):
            self._add_fields(prefix[1], pairs, number)
        return last + 1

    def _read_time(self, stamp: bytes, number: int, count: int) -> bool:
        """Set the time of a line from its timestamp; if it is not valid, reject its `count` points and return False."""
        self._counts.lines += 1
        if stamp == self._stamp:
            self._counts.stamped += not stamp
            return True
        if not stamp:
            self._counts.stamped += 1
            self._stamp, self._time = stamp, self._now
            return True
        digits = stamp.removeprefix(b"-")
        if not digits.isdigit():
            expected = "expected an integer, or nothing"
            self._sink.reject(InvalidTimeError(f"line {number}: the timestamp is {_show(stamp)}, {expected}"), count)
            return False
        units = int(stamp) if len(digits) <= 19 else 2**64
        if not -(2**63) <= units < 2**63:
            self._sink.reject(InvalidTimeError(f"line {number}: the timestamp {_show(stamp)} exceeds 64 bits"), count)
            return False
        self._stamp, self._time = stamp, units * self._multiplier / self._divisor
        return True

    def _add_fields(self, prefix: bytes, pairs: Iterable[_Pair], number: int) -> None:
        sink, time, series_key = self._sink, self._time, _shorten_key(prefix)
        for name, _, text in pairs:
            try:
                value = _parse_other_value(text) if text.translate(None, _DECIMAL_BYTES) else float(text)
                if value is None:
                    sink.skip(TEXT_VALUE)
                    continue
                if not -LEAST_REFUSED < value < LEAST_REFUSED:  # `is_value`, without a call for each field
                    if value == value:
                        raise ValueError
                    sink.skip(MISSING)  # NaN
                    continue
                entry = sink.find((series_key, name))
                if entry is None:
                    entry = self._bind(prefix, name, (series_key, name))
            except ValueError:
                sink.reject(InvalidValueError(f"line {number}: field {_show(name)} {_explain_value(text)}"))
            except InvalidSampleError as error:
                sink.reject(InvalidSampleError(f"line {number}: {error}"))
            else:
                sink.add(entry, time, value)

    def _bind(self, prefix: bytes, name: bytes, key: tuple[bytes, bytes]) -> SeriesEntry:
        """Bind a new series; raises `InvalidSampleError` if its names cannot be read.

        The fields of a line share the measurement and the tags, so the last parsed ones are kept, also their error.
        """
        if prefix != self._prefix:
            self._prefix, self._parsed = prefix, _try_parse_prefix(prefix)
        if isinstance(self._parsed, InvalidSampleError):
            raise self._parsed
        series = make_field_series(*self._parsed, _decode_text("the name of a field", _ESCAPED.sub(rb"\1", name)))
        return self._sink.bind(key, series)

    def _reject_line(self, number: int, line: bytes, reason: str) -> None:
        self._sink.reject(InvalidSampleError(f"line {number}, {_show(line)}: {reason}"))


def _read_pairs(body: bytes, place: int, limit: int, pairs: list[_Pair]) -> int:
    """Append the fields that begin at a place; returns the place after them.

    Raises `InvalidSampleError` if a string is not closed before the limit, or if a string is not followed by a comma, a
    space or the end of the line.
    """
    while len(pairs) < MAX_LINE_FIELDS:
        name = _NAME.match(body, place)
        assert name is not None, "it matches nothing, too"
        place = name.end()
        if body[place : place + 1] != b"=":
            pairs.append((name[0], b"", b""))
        else:
            value = _match_value(body, place + 1, limit, name[0])
            pairs.append((name[0], b"=", value[0]))
            place = value.end()
        following = body[place : place + 1]
        if following in (b" ", b"\n", b""):
            return place
        if following != b",":
            raise InvalidSampleError(f"expected a comma or a space behind the string of field {_show(name[0])}")
        place += 1
    raise InvalidSampleError(f"it has more than {MAX_LINE_FIELDS} fields")


def _match_value(body: bytes, place: int, limit: int, name: bytes) -> "re.Match[bytes]":
    if body[place : place + 1] != b'"':
        word = _WORD.match(body, place)
        assert word is not None, "it matches nothing, too"
        return word
    string = _STRING.match(body, place, limit)
    if string is None:
        raise InvalidSampleError(f"the string of field {_show(name)} is not closed")
    return string


def _find_line_end(body: bytes, place: int) -> int:
    end = body.find(b"\n", place)
    return len(body) if end < 0 else end


# ---------------------------------------------------------------- values
def _parse_other_value(text: bytes) -> float | None:
    """Return the number that a value means which is not a plain decimal, or `None` if the value is text.

    Raises `ValueError` if it is neither.
    """
    if text.endswith(b"i") and text[:-1].isdigit() and len(text) < 19:
        return float(text[:-1])
    if text in _WORDS:
        return _WORDS[text]
    if text.startswith(b'"'):
        return None
    if _INTEGER.fullmatch(text) is None or len(text) > 22:
        raise ValueError
    units = int(text[:-1])
    if not (0 <= units < 2**64 if text.endswith(b"u") else -(2**63) <= units < 2**63):
        raise ValueError
    return float(units)


def _explain_value(text: bytes) -> str:
    """Return the end of the error message for a value that is not a number."""
    if not text:
        return "has no value"
    if _INFINITE.fullmatch(text):
        return f"is {_show(text)}, expected {EXPECTED_VALUE}"
    if _INTEGER.fullmatch(text):
        return f"is {_show(text)}, which exceeds 64 bits"
    return f"is {_show(text)}, expected {EXPECTED_VALUE}, a boolean or a string in quotes"


def _show(data: bytes) -> str:
    """Return bytes as printable ASCII in quotes, cut off if they are long."""
    return repr(data if len(data) <= _SHOWN_BYTES else data[:_SHOWN_BYTES] + b"...")[1:]


# ---------------------------------------------------------------- series
_TAG_END = re.compile(rb"(?<!\\),")
_EQUALS = re.compile(rb"(?<!\\)=")
_ESCAPED = re.compile(rb"\\([,= ])")
_ESCAPED_MEASUREMENT = re.compile(rb"\\([, ])")


def _try_parse_prefix(prefix: bytes) -> tuple[str, dict[str, str]] | InvalidSampleError:
    """Return a measurement and its tags from what precedes the fields, or the error to raise for each field."""
    try:
        return _parse_prefix(prefix)
    except InvalidSampleError as error:
        return error


def _parse_prefix(prefix: bytes) -> tuple[str, dict[str, str]]:
    first, *written = _TAG_END.split(prefix, MAX_LINE_TAGS + 1)
    if len(written) > MAX_LINE_TAGS:
        raise InvalidSampleError(f"it has more than {MAX_LINE_TAGS} tags")
    measurement = _decode_text("the measurement", _ESCAPED_MEASUREMENT.sub(rb"\1", first))
    tags = dict[str, str]()
    for index, tag in enumerate(written):
        parts = _EQUALS.split(tag, 2)
        if len(parts) != 2:
            raise InvalidSampleError(f"tag {index + 1} is {_show(tag)}, expected a name, an equals sign and a value")
        what = f"a part of tag {index + 1}"
        name, value = (_decode_text(what, _ESCAPED.sub(rb"\1", part)) for part in parts)
        if name in tags:
            raise InvalidSampleError(f"the tag {name[:_SHOWN_BYTES]!a} is repeated")
        tags[name] = value
    return measurement, tags


def make_field_series(measurement: str, tags: dict[str, str], field: str) -> SourceSeries:
    """Return the series of one field of a measurement, under the name that rules use for it.

    Raises `InvalidSampleError` if this name is too long. The parts are checked before, the tags once for all fields.
    """
    name = f"{measurement}_{field}"
    if len(name) > MAX_LINE_TEXT_BYTES // 4:  # it cannot be too long in bytes if it is shorter in characters
        check_text(f"the name of the series {name[:_SHOWN_BYTES]!a}", name)
    return SourceSeries(name, {**tags, "_measurement": measurement, "_field": field})


def check_text(what: str, text: str) -> None:
    """Raise `InvalidSampleError` if a text is empty, too long or not Unicode."""
    try:
        size = len(text.encode())
    except UnicodeEncodeError as exc:
        raise InvalidSampleError(f"{what} is {text[:_SHOWN_BYTES]!a}, which is not valid Unicode") from exc
    if not size:
        raise InvalidSampleError(f"{what} is empty")
    if size > MAX_LINE_TEXT_BYTES:
        raise InvalidSampleError(f"{what} has {size} bytes, at most {MAX_LINE_TEXT_BYTES} are accepted")


def check_tags(tags: dict[str, str]) -> None:
    """Raise `InvalidSampleError` if there are too many tags, or one of them has a bad text."""
    if len(tags) > MAX_LINE_TAGS:
        raise InvalidSampleError(f"it has {len(tags)} tags, at most {MAX_LINE_TAGS} are accepted")
    for name, value in tags.items():
        check_text("the name of a tag", name)
        check_text(f"tag {name[:_SHOWN_BYTES]!a}", value)


def make_series_key(measurement: str, tags: dict[str, str]) -> bytes:
    """Return a part of a key for the fields of a measurement, whose hash is computed only once."""
    try:
        return _shorten_key(msgspec.json.encode((measurement, tags)))
    except UnicodeEncodeError:
        return b""  # `check_text` refuses it, so no series is bound under it


def _shorten_key(key: bytes) -> bytes:
    """Return a part of a key that a sink may keep for ever: the bytes, or their digest if they are many."""
    return key if len(key) <= _MAX_KEY_BYTES else blake2b(key, digest_size=32).digest()


def _decode_text(what: str, data: bytes) -> str:
    try:
        text = data.decode()
    except UnicodeDecodeError as exc:
        raise InvalidSampleError(f"{what} is {_show(data)}, which is not UTF-8") from exc
    check_text(what, text)
    return text
