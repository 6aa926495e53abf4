"""JSON arrays whose items are decoded one by one, so that a bad item costs only itself. Knows no protocol.

The whole array is decoded into its type first, which is fastest. Only if that fails, the array is read with the
standard library, which also takes what is not JSON but is sent as such (NaN, a raw control character, half a surrogate
pair, text that is not UTF-8), and each item is converted alone.
"""

import json
import re
from collections.abc import Hashable, Iterable, Mapping
from typing import Any, Generic, TypeVar

import msgspec

from streamd.core.errors import InvalidSampleError, InvalidTimeError, InvalidValueError, MalformedError
from streamd.core.mapping.series import PointSink, SeriesEntry, SourceSeries

DecodedItem = TypeVar("DecodedItem")

SLICE_ITEMS = 1_000
"""A decoder of items yields after so many of them, so that the event loop gets its turn."""

MISSING = "missing value"
"""The reason for skipping null and NaN."""

_MAX_FLOAT = 1.7976931348623157e308
"""A whole number in JSON may be larger; it is no value then."""

_MAX_TEXT_BYTES = 1_024
"""Of the name of a series, and of the name or the value of a label."""

_MAX_LABELS = 64
"""Of one series."""

_FAULTS = (msgspec.DecodeError, RecursionError, ValueError, OverflowError)
"""Errors that msgspec may raise on hostile bytes or text."""

_LONGEST_INTEGER = 400
"""Digits of a whole number that is read as such; one with more is infinite."""

_NUMBER = re.compile(r"[-+]?(?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|nan|inf|infinity)", re.IGNORECASE)
"""Less than `float` takes: no spaces, underscores or digits of other scripts."""


class ItemDecoder(Generic[DecodedItem]):
    """A decoder of the items of an array, which have one type."""

    def __init__(self, type_: type[DecodedItem]) -> None:
        self._whole = msgspec.json.Decoder(list[type_])  # type: ignore[valid-type]
        self._type = type_

    def decode(self, body: bytes) -> Iterable[DecodedItem | InvalidSampleError]:
        """Return the items in order; one that cannot be decoded is its error.

        Raises `MalformedError` if the body is neither an array nor an object.
        """
        items = self.decode_whole(body)
        return (self._convert_or_explain(item) for item in read_items(body)) if items is None else items

    def decode_whole(self, body: bytes) -> list[DecodedItem] | None:
        """Return the items, or `None` if the body is not an array of nothing but such items."""
        try:
            items: list[DecodedItem] = self._whole.decode(body)
        except _FAULTS:
            return None
        return items

    def convert(self, item: Any) -> DecodedItem:
        """Convert one item that `read_items` returned; raises `InvalidSampleError`."""
        try:
            return msgspec.convert(item, self._type)
        except _FAULTS as exc:
            raise InvalidSampleError(_explain_fault(exc)) from exc

    def _convert_or_explain(self, item: Any) -> DecodedItem | InvalidSampleError:
        try:
            return self.convert(item)
        except InvalidSampleError as error:
            return error


def read_items(body: bytes) -> list[Any]:
    """Return the items of an array, or an object as the only item; raises `MalformedError`."""
    value = read_value(body)
    if isinstance(value, dict):
        return [value]
    if not isinstance(value, list):
        raise MalformedError("the body is one value, expected a JSON array of objects")
    return value


def read_value(body: bytes) -> Any:
    """Read JSON leniently; numbers may be NaN or infinite, and text may hold surrogates. Raises `MalformedError`."""
    text = body.decode("utf-8", "surrogateescape")
    if not text.strip():
        raise MalformedError("the body is empty, expected JSON")
    try:
        return _READER.decode(text)
    except RecursionError as exc:
        raise MalformedError("nested too deeply") from exc
    except ValueError as exc:
        raise MalformedError(f"the body is not JSON: {exc}") from exc


def _read_integer(digits: str) -> int | float:
    """Read a whole number; Python refuses thousands of digits, with an error that would cost the whole body."""
    return int(digits) if len(digits) <= _LONGEST_INTEGER else float(digits)


_READER = json.JSONDecoder(parse_int=_read_integer, strict=False)


def _explain_fault(exc: Exception) -> str:
    if isinstance(exc, UnicodeError):
        return "text is not valid Unicode"
    if isinstance(exc, RecursionError):
        return "nested too deeply"
    return str(exc)


def _find_label_fault(name: str, labels: Mapping[str, str]) -> str | None:
    """Return why a series cannot have this name and these labels, or `None`."""
    if len(labels) > _MAX_LABELS:
        return f"{len(labels)} labels, at most {_MAX_LABELS} are taken"
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
    fault = _find_label_fault(series.name, series.labels)
    if fault is not None:
        raise InvalidSampleError(fault)
    return sink.bind(key, series)


def read_number(value: float | None) -> float | None:
    """Return a value as a float, or `None` if it is missing: null or NaN. Raises `InvalidValueError`."""
    if value is None or value != value:
        return None
    if not -_MAX_FLOAT <= value <= _MAX_FLOAT:
        raise InvalidValueError("the value is out of range, expected a finite number")
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
