"""Decodes the documents of pcp2json into points, and finds the documents in its output. Touches no state.

As pcp2json of pcp 6.0.3 writes it (seen): comment objects before the document; values as text, or as numbers with `-E`;
local times without an offset, and `@timezone` beside them. `UTC+9` is east of UTC, as in ISO 8601 and not as in POSIX:
`posix_tz_to_utc_offset` in pcp/pmapi.py converts `JST-9` to it.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from typing import Any

import msgspec

from streamd.core.errors import (
    InvalidInputError,
    InvalidSampleError,
    InvalidTimeError,
    MalformedError,
    TooLargeError,
)
from streamd.core.mapping.series import PointSink, SeriesEntry, SourceSeries
from streamd.protocols.json_items import (
    MAX_LENIENT_BYTES,
    MAX_PART_BYTES,
    MISSING,
    SLICE_ITEMS,
    bind_series,
    check_part_size,
    check_value_count,
    parse_number,
    pause_collection,
    read_number,
    read_value,
)

MAX_DOCUMENT_BYTES = 256 * 2**20
"""The largest size of one document in the output of pcp2json; a document holds a whole run."""

MAX_SAMPLE_BYTES = 2 * MAX_PART_BYTES
"""The largest size of one sample in a large body: all values of a host at one time, which take up to 40 ms."""

_MAX_COMMENTS = 100
"""The largest number of comments before a document; pcp2json writes two."""

_LONGEST_NAME = 1_024
"""The largest number of characters of a metric name; objects that are nested more deeply are rejected."""

_COMMENT = re.compile(rb'\s*\{\s*"//"\s*:\s*"(?:[^"\\]|\\.)*"\s*\}\s*', re.DOTALL)
_BRACE = re.compile(rb'"(?:[^"\\]|\\.)*"|[{}]', re.DOTALL)
_ZONE = re.compile(r"UTC(?:([+-])([0-9]{1,2})(?::([0-9]{2}))?)?")
_EPOCH = re.compile(r"[0-9]{9,11}(?:\.[0-9]{1,9})?")


# ---------------------------------------------------------------- a document
def decode_pcp(body: bytes, sink: PointSink[SeriesEntry]) -> Iterator[None]:
    """Write the points of one document to the sink, and yield after each slice.

    Raises `MalformedError` if the body is not such a document.
    """
    check_value_count(body)
    count = 0
    for number, host in enumerate(_list_hosts(body)):
        zone = _read_zone(host.get("@timezone", "UTC"))
        for index, sample in enumerate(host["@metrics"]):
            place = f"@hosts[{number}].@metrics[{index}]"
            for _ in _add_sample(_read_sample(sample), host["@host"], zone, place, sink):
                count += 1
                if count % SLICE_ITEMS == 0:
                    yield


class _Host(msgspec.Struct):
    host: str = msgspec.field(name="@host")
    metrics: list[msgspec.Raw] = msgspec.field(name="@metrics")
    timezone: Any = msgspec.field(name="@timezone", default="UTC")


class _Hosts(msgspec.Struct):
    hosts: list[_Host] = msgspec.field(name="@hosts")


class _Document(msgspec.Struct):
    """A document whose samples are decoded one after the other, because all at once would block the event loop."""

    pcp: _Hosts = msgspec.field(name="@pcp")


_split_document = msgspec.json.Decoder(_Document).decode
_FAULTS = (msgspec.DecodeError, ValueError, RecursionError)
"""Errors that msgspec may raise on hostile bytes or text."""


def _list_hosts(body: bytes) -> list[dict[str, Any]]:
    """Return the hosts of a document as `list_host_tables` does, those of a large one with their samples as bytes."""
    if len(body) <= MAX_PART_BYTES:
        return list_host_tables(read_document(body))
    try:
        document = _split_document(memoryview(body)[_find_document(body) :])
    except _FAULTS as exc:
        if len(body) <= MAX_LENIENT_BYTES:
            return list_host_tables(read_document(body))
        raise MalformedError(f"the body of {len(body)} bytes is not a strict document of pcp2json: {exc}") from exc
    return [{"@host": host.host, "@timezone": host.timezone, "@metrics": host.metrics} for host in document.pcp.hosts]


def _read_sample(part: Any) -> Any:
    """Return a sample of `_list_hosts`, or the error that rejects it."""
    if not isinstance(part, msgspec.Raw):
        return part
    try:
        check_part_size(part, MAX_SAMPLE_BYTES)
        with pause_collection():
            return msgspec.json.decode(part)
    except InvalidSampleError as error:
        return error
    except _FAULTS as exc:
        return InvalidSampleError(f"it is not strict JSON: {exc}")


def _add_sample(
    sample: Any, host: str, zone: tzinfo | InvalidTimeError, place: str, sink: PointSink[SeriesEntry]
) -> Iterator[None]:
    """Add the values of one sample; yields for each, and at least once."""
    try:
        time = _read_time(sample, zone)
    except InvalidInputError as error:
        sink.reject(type(error)(f"{place}: {error}"))
        yield
        return
    for value in _walk_sample(sample):
        _add_value(value, host, time, place, sink)
        yield


def read_document(body: bytes) -> dict[str, Any]:
    """Read a document without the comments before it; raises `MalformedError`."""
    document = read_value(body[_find_document(body) :])
    if not isinstance(document, dict) or not isinstance(document.get("@pcp"), dict):
        raise MalformedError("expected the document of pcp2json: an object with '@pcp'")
    return document


def _find_document(body: bytes) -> int:
    """Return where the document begins, after the comments."""
    begin = 0
    for _ in range(_MAX_COMMENTS):
        comment = _COMMENT.match(body, begin)
        if comment is None:
            break
        begin = comment.end()
    return begin


def list_host_tables(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the hosts of a document, each with its text `@host` and its list `@metrics`; raises `MalformedError`."""
    hosts = document["@pcp"].get("@hosts")
    if not isinstance(hosts, list):
        raise MalformedError("expected the document of pcp2json: '@pcp' with a list '@hosts'")
    for index, host in enumerate(hosts):
        is_host = isinstance(host, dict) and isinstance(host.get("@host"), str)
        if not is_host or not isinstance(host.get("@metrics"), list):
            raise MalformedError(f"@hosts[{index}]: expected an object with a text '@host' and a list '@metrics'")
    return hosts


def _read_zone(text: Any) -> tzinfo | InvalidTimeError:
    """Return the time zone of a host, or the error for each of its local times."""
    match = _ZONE.fullmatch(text) if isinstance(text, str) else None
    if match is None or int(match[2] or 0) > 14 or int(match[3] or 0) > 59:
        return InvalidTimeError(
            f"@timezone is {str(text)[:64]!r}, expected UTC, UTC+9 or UTC+5:30; pcp2json -Z UTC writes UTC+0"
        )
    offset = timedelta(hours=int(match[2] or 0), minutes=int(match[3] or 0))
    return timezone(-offset if match[1] == "-" else offset) if offset else UTC


def _read_time(sample: Any, zone: tzinfo | InvalidTimeError) -> float:
    """Return the epoch time of a sample; raises `InvalidSampleError` or `InvalidTimeError`."""
    if isinstance(sample, InvalidSampleError):
        raise sample
    text = sample.get("@timestamp") if isinstance(sample, dict) else None
    if not isinstance(text, str):
        raise InvalidSampleError("expected an object with a text '@timestamp'")
    if _EPOCH.fullmatch(text):
        return float(text)
    try:
        time = datetime.fromisoformat(text)
        if time.tzinfo is None:
            if isinstance(zone, InvalidTimeError):
                raise zone
            time = time.replace(tzinfo=zone)
        return time.timestamp()
    except (ValueError, OverflowError) as exc:
        raise InvalidTimeError(f"@timestamp is {text[:64]!r}, expected a time like 2026-11-28 21:01:16") from exc


# ---------------------------------------------------------------- a sample
@dataclass(frozen=True, slots=True)
class _Value:
    metric: str
    instance: str | None
    value: Any
    """A number, text or `None`; or an error, if the instance could not be read."""


def _walk_sample(sample: Mapping[str, Any]) -> Iterator[_Value]:
    """Yield the values of a sample; nested keys, joined by dots, are the names of metrics."""
    path = [("", iter(sample.items()))]
    while path:
        prefix, children = path[-1]
        child = next(children, None)
        if child is None:
            path.pop()
            continue
        key, node = child
        name = prefix + key
        if key.startswith("@"):
            continue
        if len(name) > _LONGEST_NAME:
            yield _Value(name[:64], None, InvalidSampleError(f"the name has over {_LONGEST_NAME} characters"))
        elif isinstance(node, dict) and "@instances" not in node and isinstance(node.get("value", node), dict):
            path.append((f"{name}.", iter(node.items())))
        else:
            yield from _read_leaf(name, node)


def _read_leaf(name: str, node: Any) -> Iterator[_Value]:
    if not isinstance(node, dict):
        yield _Value(name, None, InvalidSampleError("expected an object with 'value' or '@instances'"))
    elif "@instances" not in node:
        yield _Value(name, None, node["value"])
    elif isinstance(node["@instances"], list):
        yield from (_read_instance(name, each) for each in node["@instances"])
    else:
        yield _Value(name, None, InvalidSampleError("expected '@instances' with a list"))


def _read_instance(name: str, instance: Any) -> _Value:
    if not isinstance(instance, dict) or not isinstance(instance.get("name"), str) or "value" not in instance:
        return _Value(name, None, InvalidSampleError("expected instances with a text 'name' and a 'value'"))
    return _Value(name, instance["name"], instance["value"])


def _add_value(value: _Value, host: str, time: float, place: str, sink: PointSink[SeriesEntry]) -> None:
    try:
        number = _read_number(value.value)
        if number is None:
            sink.skip(MISSING)
            return
        key = (host, value.metric, value.instance)
        entry = sink.find(key)
        if entry is None:
            labels = {"host": host} if value.instance is None else {"host": host, "instance": value.instance}
            entry = bind_series(sink, key, SourceSeries(value.metric, labels))
        sink.add(entry, time, number)
    except _TextValueError:
        sink.skip("text value")
    except InvalidInputError as error:
        sink.reject(type(error)(f"{place}.{value.metric}: {error}"))


class _TextValueError(Exception):
    """The value is text, such as the release of the kernel."""


def _read_number(value: Any) -> float | None:
    if isinstance(value, InvalidInputError):
        raise value
    if isinstance(value, str):
        number = parse_number(value)
        if number is None:
            raise _TextValueError
        return read_number(number)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise InvalidSampleError(f"the value is of type {type(value).__name__}, expected a number or text")
    return read_number(value)


# ---------------------------------------------------------------- the output of pcp2json
def split_documents(lines: Iterable[bytes], max_bytes: int = MAX_DOCUMENT_BYTES) -> Iterator[bytes]:
    """Yield each document of an output once its last line has come, without the comments.

    Raises `TooLargeError` if a document is over `max_bytes`, and `MalformedError` if the last one is cut off.
    """
    parts, size, depth = list[bytes](), 0, 0
    for line in lines:
        parts.append(line)
        size += len(line)
        if size > max_bytes:
            raise TooLargeError(f"a document has over {max_bytes} bytes; let pcp2json write fewer samples (-s)")
        depth += sum({b"{": 1, b"}": -1}.get(token, 0) for token in _BRACE.findall(line))
        if depth <= 0:
            document = b"".join(parts)
            parts, size, depth = [], 0, 0
            if document.strip() and not _COMMENT.fullmatch(document):
                yield document
    if parts:
        raise MalformedError("the input ends in the middle of a document")
