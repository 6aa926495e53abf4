"""Decodes the items of JSON arrays one by one, so that a bad item is rejected alone. Knows no protocol.

A small array is decoded into its type as a whole, which is fastest. A large one is split first, and each item is
decoded when it is its turn, so that the event loop is free in between. What fails is read with the standard library,
which also takes what is not JSON but is sent as such (NaN, a raw control character, half a surrogate pair, text that is
not UTF-8).
"""

import gc
import json
import re
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

import msgspec

from streamd.core.errors import (
    InvalidSampleError,
    InvalidTimeError,
    InvalidValueError,
    MalformedError,
    TooLargeError,
)
from streamd.core.mapping.series import PointSink, SeriesEntry, SourceSeries
from streamd.core.values import EXPECTED_VALUE, is_value

DecodedItem = TypeVar("DecodedItem")

SLICE_ITEMS = 1_000
"""The number of items after which a decoder yields, so that the event loop can do other work."""

MAX_BODY_ITEMS = 250_000
"""The largest number of items in one array. An item that is one takes over 33 bytes, so a body of 8 MiB has fewer."""

_COUNTED_BYTES, _BYTES_A_VALUE = 2**20, 5
"""A longer body with less than so many bytes for each of its values is refused. What agents send has over ten, and
millions of values would keep the event loop for 0.3 s."""

MAX_PART_BYTES = 2**20
"""A larger body is decoded in parts (items, metrics, plugins), and none of them may be larger. To decode a part of this
size takes up to 20 ms; to decode a body of 8 MiB as a whole took 150 ms."""

MAX_LENIENT_BYTES = 2 * 2**20
"""The largest text that a decoder reads leniently, which takes up to 30 ms for each MiB. Agents that write what is not
JSON send less."""

MISSING = "missing value"
"""The reason for skipping null and NaN."""

_MAX_FLOAT = 1.7976931348623157e308
"""The largest value. A whole number in JSON may be larger, and then it is rejected."""

_MAX_TEXT_BYTES = 1_024
"""The largest size of the name of a series, and of the name or the value of a label."""

_MAX_LABELS = 64
"""The largest number of labels of one series."""

_FAULTS = (msgspec.DecodeError, RecursionError, ValueError, OverflowError)
"""Errors that msgspec may raise on hostile bytes or text."""

_LONGEST_INTEGER = 400
"""The largest number of digits of a whole number; one with more digits becomes infinite."""

_NUMBER = re.compile(r"[-+]?(?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|nan|inf|infinity)", re.IGNORECASE)
"""Stricter than `float`: no spaces, no underscores and no digits of other scripts."""


class ItemDecoder(Generic[DecodedItem]):
    """A decoder of the items of an array, which have one type."""

    def __init__(self, type_: type[DecodedItem]) -> None:
        self._whole = msgspec.json.Decoder(list[type_])  # type: ignore[valid-type]
        self._single = msgspec.json.Decoder(type_)
        self._type = type_
        self._decoded = (type_, InvalidSampleError)

    def decode(self, body: bytes) -> Iterable[DecodedItem | InvalidSampleError]:
        """Return the items in order; in place of an item that cannot be decoded there is its error.

        Raises `MalformedError` if the body is neither an array nor an object.
        """
        return map(self._convert_or_explain, self.decode_or_read(body))

    def decode_or_read(self, body: bytes) -> Iterable[DecodedItem | Any]:
        """Return the items in order, each decoded if it has the type, and else as `read_items` returns it."""
        check_value_count(body)
        if len(body) > MAX_PART_BYTES:
            return read_items(body, self._decode_or_read_part)
        try:
            items: list[DecodedItem] = self._whole.decode(body)
        except _FAULTS:
            return read_items(body)
        return items

    def _decode_or_read_part(self, part: msgspec.Raw) -> DecodedItem | Any:
        try:
            check_part_size(part)
            item: DecodedItem = self._single.decode(part)
        except InvalidSampleError as error:
            return error
        except _FAULTS:
            return _read_item(part)
        return item

    def convert(self, item: Any) -> DecodedItem:
        """Convert one item that `read_items` returned; raises `InvalidSampleError`."""
        try:
            return msgspec.convert(item, self._type)
        except _FAULTS as exc:
            raise InvalidSampleError(_explain_fault(exc)) from exc

    def _convert_or_explain(self, item: Any) -> DecodedItem | InvalidSampleError:
        if isinstance(item, self._decoded):
            return item
        try:
            return self.convert(item)
        except InvalidSampleError as error:
            return error


_split_array = msgspec.json.Decoder(list[msgspec.Raw]).decode


def read_items(body: bytes, read_part: Callable[[msgspec.Raw], Any] | None = None) -> Iterable[Any]:
    """Return the items of an array, or an object as the only item; in place of one that cannot be read is its error.

    Items of strict JSON are read by `read_part` if it is given, each when it is its turn. Raises `MalformedError`, and
    `TooLargeError` if there are over `MAX_BODY_ITEMS`.
    """
    try:
        parts = _split_array(body)
    except _FAULTS as exc:
        if len(body) > MAX_LENIENT_BYTES:
            raise MalformedError(f"the body is not a strict JSON array, as one of {len(body)} bytes must be") from exc
        value = read_value(body)
        if isinstance(value, dict):
            return [value]
        if not isinstance(value, list):
            raise MalformedError("the body is one value, expected a JSON array of objects") from None
        check_item_count(len(value))
        return value
    check_item_count(len(parts))
    return map(read_part or _read_item, parts)


def check_part_size(part: msgspec.Raw, limit_bytes: int = MAX_PART_BYTES) -> None:
    """Raise `InvalidSampleError` if a part of a body is larger than is decoded in one turn of the event loop."""
    if (size := len(part)) > limit_bytes:
        raise InvalidSampleError(f"it has {size} bytes, at most {limit_bytes} are taken")


def check_value_count(body: bytes) -> None:
    """Raise `TooLargeError` if a large body is made of nothing but tiny values; called before the body is read."""
    if len(body) > _COUNTED_BYTES and (count := body.count(b",")) > len(body) // _BYTES_A_VALUE:
        limit = len(body) // _BYTES_A_VALUE
        raise TooLargeError(f"the body of {len(body)} bytes has {count} values, at most {limit} are taken")


def check_item_count(count: int) -> None:
    """Raise `TooLargeError` if a body has more items than are taken."""
    if count > MAX_BODY_ITEMS:
        raise TooLargeError(f"the body has {count} items, at most {MAX_BODY_ITEMS} are taken")


def _read_item(part: msgspec.Raw) -> Any:
    try:
        return msgspec.json.decode(part)
    except _FAULTS:
        try:
            return read_value(bytes(part))
        except MalformedError as error:
            return InvalidSampleError(str(error))


def read_value(body: bytes) -> Any:
    """Read JSON leniently; numbers may be NaN or infinite, and text may hold surrogates. Raises `MalformedError`.

    A body of a caller must not be over `MAX_LENIENT_BYTES`.
    """
    text = body.decode("utf-8", "surrogateescape")
    if not text.strip():
        raise MalformedError("the body is empty, expected JSON")
    try:
        with pause_collection():
            return _decode_text(text)
    except RecursionError as exc:
        raise MalformedError("nested too deeply") from exc
    except ValueError as exc:
        raise MalformedError(f"the body is not JSON: {exc}") from exc


@contextmanager
def pause_collection() -> Iterator[None]:
    """Pause the garbage collector: millions of new lists make it run again and again, for four times as long."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _decode_text(text: str) -> Any:
    try:
        return _QUICK_READER.decode(text)
    except json.JSONDecodeError:
        raise
    except ValueError:  # a whole number of thousands of digits
        return _READER.decode(text)


def _read_integer(digits: str) -> int | float:
    """Read a whole number. Python refuses thousands of digits, and its error would reject the whole body."""
    return int(digits) if len(digits) <= _LONGEST_INTEGER else float(digits)


_QUICK_READER = json.JSONDecoder(strict=False)
_READER = json.JSONDecoder(parse_int=_read_integer, strict=False)


def _explain_fault(exc: Exception) -> str:
    if isinstance(exc, UnicodeError):
        return "text is not valid Unicode"
    if isinstance(exc, RecursionError):
        return "nested too deeply"
    return str(exc)


def check_tag_count(count: int) -> None:
    """Raise `InvalidSampleError` if a series has more labels than are taken; called before they are copied."""
    if count > _MAX_LABELS:
        raise InvalidSampleError(f"{count} labels, at most {_MAX_LABELS} are taken")


def _find_label_fault(name: str, labels: Mapping[str, str]) -> str | None:
    """Return why a series cannot have this name and these labels, or `None`."""
    fault = _find_text_fault(name)
    if fault is not None:
        return f"the name {fault}"
    for label, value in labels.items():
        fault = _find_text_fault(label)
        if fault is not None:
            return f"the name of a label {fault}"
        fault = _find_text_fault(value)
        if fault is not None:
            return f"the label {label[:64]!r} {fault}"
    return None


def _find_text_fault(text: str) -> str | None:
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        return "is not valid Unicode"
    return None if size <= _MAX_TEXT_BYTES else f"has {size} bytes, at most {_MAX_TEXT_BYTES} are taken"


def bind_series(sink: PointSink[SeriesEntry], key: Hashable, series: SourceSeries) -> SeriesEntry:
    """Bind a series whose name and labels are within the limits; raises `InvalidSampleError` if they are not."""
    check_tag_count(len(series.labels))
    fault = _find_label_fault(series.name, series.labels)
    if fault is not None:
        raise InvalidSampleError(fault)
    return sink.bind(key, series)


def read_number(value: float | None) -> float | None:
    """Return a value as a float, or `None` if it is missing: null or NaN. Raises `InvalidValueError`."""
    if value is None or value != value:
        return None
    if not is_value(value):
        raise InvalidValueError(f"the value is out of range, expected {EXPECTED_VALUE}")
    return float(value)


def parse_number(text: str) -> float | None:
    """Return the number that a text holds, which may be NaN or infinite, or `None` if it holds none."""
    if len(text) > _LONGEST_INTEGER or not _NUMBER.fullmatch(text):
        return None
    return float(text)


def check_time(time: float) -> float:
    """Return an epoch time in seconds; raises `InvalidTimeError` if it is not finite."""
    if not -_MAX_FLOAT <= time <= _MAX_FLOAT:
        raise InvalidTimeError(f"the time is {time}, expected epoch seconds")
    return time
