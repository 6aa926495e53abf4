"""Tokens that some encoders write though they are not JSON: NaN, Infinity, and surrogates without their other half.

A decoder refuses the whole body for one of them. Here each is replaced by a string that is not UTF-8 (it is marked):
a decoder skips such a string while it looks for the end of a sample, and refuses it only when it decodes that sample.
So one sample is refused, not all. Only bytes and errors here; `wire/` decodes.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

from streamd.core.errors import (
    InvalidInputError,
    InvalidSampleError,
    InvalidServerError,
    InvalidTimeError,
    InvalidValueError,
    MalformedError,
)

_MARK = b"\xff"
"""A byte that never occurs in UTF-8."""
_ESCAPE = re.compile(rb"\\[^u]", re.DOTALL)
_PAIR = re.compile(rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}")
_FOREIGN = re.compile(rb"\\u[dD][89a-fA-F][0-9a-fA-F]{2}|(?:NaN|-?Infinity)(?!\s*:)")
_CUT = re.compile(rb'[,"]')
_PIECE_BYTES, _MAX_PIECE_BYTES = 2**16, 2**18
"""Bytes that are searched at once, which takes 6 ms at most, and how many more to look for a place to cut."""
_MARKED = re.compile(rb"\xff(u[dD][89a-fA-F][0-9a-fA-F]{2}|NaN|-?Infinity)")
_MARKED_TEXT = re.compile(r"\udcff(u[dD][89a-fA-F][0-9a-fA-F]{2}|NaN|-?Infinity)")
"""`_MARKED` for text whose bytes were decoded with `surrogateescape`."""

SEND_NULL = "send null where a value is missing"


def mark_foreign_tokens(data: bytes) -> bytes | None:
    """Return the JSON with its foreign tokens as marked strings, or `None` if it has no foreign token.

    JSON that is malformed in another way stays malformed.
    """
    pieces = list(mark_pieces(data))
    return b"".join(piece for piece, _ in pieces) if any(is_marked for _, is_marked in pieces) else None


def mark_pieces(data: bytes) -> Iterator[tuple[bytes, bool]]:
    """Mark the foreign tokens of JSON piece by piece, so that other work can be done in between.

    Yields the marked pieces, and whether each has a mark. Raises `MalformedError` if a string is so long that it cannot
    be cut.
    """
    is_in_string = False
    for piece in _cut_pieces(data):
        marked, is_in_string = _mark_piece(piece, is_in_string)
        yield marked, marked is not piece


def _cut_pieces(data: bytes) -> Iterator[bytes]:
    """Yield the data in pieces that end behind a comma or a quote: neither is in a token, or begins an escape."""
    begin = 0
    while len(data) - begin > _PIECE_BYTES:
        match = _CUT.search(data, begin + _PIECE_BYTES, begin + _MAX_PIECE_BYTES)
        if match is None and len(data) - begin <= _MAX_PIECE_BYTES:
            break
        if match is None:
            raise MalformedError(f"it is no JSON, and a string is longer than {_MAX_PIECE_BYTES} bytes")
        yield data[begin : match.end()]
        begin = match.end()
    yield data[begin:]


def _mark_piece(data: bytes, is_in_string: bool) -> tuple[bytes, bool]:
    """Return a piece with its tokens marked, and whether its end is in a string; `is_in_string` is of its begin."""
    if not _FOREIGN.search(data):
        return data, is_in_string ^ _ends_in_string(data)
    # As long as the data, so that places are the same, but without escapes: each quote begins or ends a string. After
    # an odd number of quotes a token is inside a string, where NaN is just text and only a surrogate is foreign.
    plain = _PAIR.sub(b"_" * 12, _ESCAPE.sub(b"__", data))
    pieces, end, quotes = list[bytes](), 0, int(is_in_string)
    for match in _FOREIGN.finditer(plain):
        quotes += plain.count(b'"', end, match.start())
        token = match[0]
        if token.startswith(b"\\"):
            replaced = _MARK + token[1:]
        else:
            replaced = token if quotes % 2 else b'"' + _MARK + token + b'"'
        pieces += [data[end : match.start()], replaced]
        end = match.end()
    quotes += plain.count(b'"', end)
    if not pieces:
        return data, bool(quotes % 2)
    return b"".join([*pieces, data[end:]]), bool(quotes % 2)


def _ends_in_string(data: bytes) -> bool:
    """Whether there is an odd number of quotes that begin or end a string."""
    quotes = data.count(b'"')
    return bool((quotes if b"\\" not in data else _ESCAPE.sub(b"__", data).count(b'"')) % 2)


def explain_sample(raw: bytes) -> InvalidInputError | None:
    """Return the error for the first foreign token of a marked sample, or `None` if no field that is read has one."""
    given = _read_marked(raw)
    if not isinstance(given, dict):
        return None
    return next(_find_sample_faults(given), None)


def explain_row(raw: bytes, features: list[str]) -> InvalidValueError | None:
    """Return the error for a marked row of columns, or `None` if it has no foreign token."""
    given = _read_marked(raw)
    if not isinstance(given, list) or len(given) != len(features):
        return None
    return next(
        (_make_value_error(name, token) for name, token in _find_marked(zip(features, given, strict=True))), None
    )


def explain_field(field: str, raw: bytes) -> InvalidInputError | None:
    """Return the error for a marked server, time or status, or `None` if it has no foreign token."""
    return next((_make_field_error(name, token) for name, token in _find_marked([(field, _read_marked(raw))])), None)


def _read_marked(raw: bytes) -> Any:
    if not _MARKED.search(raw):
        return None
    try:
        return json.loads(raw.decode("utf-8", "surrogateescape"))
    except (ValueError, RecursionError):
        return None


def _find_sample_faults(given: dict[str, Any]) -> Iterator[InvalidInputError]:
    fields = [(name, given.get(name)) for name in ("server", "time", "values", "status")]
    yield from (_make_field_error(name, token) for name, token in _find_marked(fields))
    values = given.get("values")
    if not isinstance(values, dict):
        return
    for _, token in _find_marked((name, name) for name in values):
        yield InvalidSampleError(f"the name of a feature in values holds {_describe_token(token)}")
    yield from (_make_value_error(name, token) for name, token in _find_marked(values.items()))


def _find_marked(named: Any) -> Iterator[tuple[str, str]]:
    """Yield the name and the foreign token of each value that has one."""
    for name, value in named:
        match = _MARKED_TEXT.search(value) if isinstance(value, str) else None
        if match is not None:
            yield name, match[1]


_FIELDS: dict[str, tuple[type[InvalidInputError], str]] = {
    "server": (InvalidServerError, "a name in Unicode"),
    "time": (InvalidTimeError, "epoch seconds or an RFC 3339 string"),
    "values": (InvalidValueError, "an object of numbers"),
    "status": (InvalidSampleError, "a whole number or null"),
}


def _make_field_error(field: str, token: str) -> InvalidInputError:
    error, expected = _FIELDS[field]
    return error(f"{field} holds {_describe_token(token)}, expected {expected}")


def _make_value_error(name: str, token: str) -> InvalidValueError:
    shown = name[:64].encode("ascii", "backslashreplace").decode()
    return InvalidValueError(f"values.{shown} holds {_describe_token(token)}: {SEND_NULL}")


def _describe_token(token: str) -> str:
    if token.startswith("u"):
        return f"\\{token}, a surrogate without its other half, which is not Unicode text"
    return f"{token}, which is not JSON"


_BYTE_PLACE = re.compile(r"\(byte (\d+)\)")


def add_hint(message: str, data: bytes) -> str:
    """Return the message of a JSON decoder, with the foreign token at which it stopped, if it stopped at one."""
    place = _BYTE_PLACE.search(message)
    if place is None or not message.startswith("JSON"):
        return message
    at = int(place[1])
    if "surrogate" in message or "hex escape" in message:
        return f"{message}: a surrogate without its other half is not Unicode text"
    token = re.search(rb"NaN|-?Infinity", data[max(at - 1, 0) : at + 9])
    if token is None:
        return message
    last = data.rfind(b'"', 0, at)
    name = data[data.rfind(b'"', 0, max(last, 0)) + 1 : max(last, 0)][:64].decode("ascii", "backslashreplace")
    return f'{token[0].decode()} at byte {at}, after "{name}", is not JSON: {SEND_NULL}'
