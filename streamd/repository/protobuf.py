"""Reads the wire format of protobuf: the fields of a message and the spans of their bytes, without copying them.

Knows no message types; the callers know the numbers of fields.
"""

import mmap
from collections.abc import Iterator

Buffer = bytes | mmap.mmap
Span = tuple[int, int]
"""The first byte and the one behind the last."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types
_LONGEST_VARINT_BYTES = 10


def read_fields(data: Buffer, span: Span) -> Iterator[tuple[int, Span]]:
    """Yield the number and the span of each field of a message; for an integer `(value, value)` instead of the span.

    Raises `ValueError` if the bytes are no message.
    """
    at, end = span
    while at < end:
        key, at = _read_varint(data, at, end)  # the number of the field, and in the last three bits its wire type
        kind = key & 7
        if kind == _VARINT:
            value, at = _read_varint(data, at, end)
            yield key >> 3, (value, value)
            continue
        if kind == _BYTES:
            size, at = _read_varint(data, at, end)
        elif kind in (_FIXED32, _FIXED64):
            size = 4 if kind == _FIXED32 else 8
        else:
            raise ValueError(f"byte {at} has no wire type of a protobuf")
        if at + size > end:
            raise ValueError(f"it ends within the field at byte {at}")
        yield key >> 3, (at, at + size)
        at += size


def decode_text(data: Buffer, span: Span) -> str:
    """Return the string in these bytes; raises `ValueError` if they are no UTF-8."""
    return bytes(data[span[0] : span[1]]).decode()


def _read_varint(data: Buffer, at: int, end: int) -> tuple[int, int]:
    """Return an integer of seven bits a byte, the lowest first, and the byte behind it."""
    value = 0
    for count in range(_LONGEST_VARINT_BYTES):
        if at + count >= end:
            raise ValueError("it is cut short")
        byte = data[at + count]
        value |= (byte & 0x7F) << (7 * count)
        if byte < 0x80:
            return value, at + count + 1
    raise ValueError(f"byte {at} begins no protobuf number")
