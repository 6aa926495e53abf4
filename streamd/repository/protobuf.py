"""Reads protobuf's wire format: the fields of a message and where their bytes are, without copying them."""

import mmap
from collections.abc import Iterator

Buffer = bytes | mmap.mmap
Span = tuple[int, int]

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types
_LONGEST_VARINT_BYTES = 10


def read_fields(data: Buffer, span: Span) -> Iterator[tuple[int, Span]]:
    """Yield a message's fields: (number, where its bytes are), or for an integer (number, (value, value)).

    Raises `ValueError` where the bytes are no message.
    """
    at, end = span
    while at < end:
        key, at = _varint(data, at, end)
        kind = key & 7
        if kind == _VARINT:
            value, at = _varint(data, at, end)
            yield key >> 3, (value, value)
            continue
        if kind == _BYTES:
            size, at = _varint(data, at, end)
        elif kind in (_FIXED32, _FIXED64):
            size = 4 if kind == _FIXED32 else 8
        else:
            raise ValueError(f"byte {at} has no wire type of a protobuf")
        if at + size > end:
            raise ValueError(f"it ends within the field at byte {at}")
        yield key >> 3, (at, at + size)
        at += size


def decode_text(data: Buffer, span: Span) -> str:
    """The string in these bytes; raises `ValueError` where they are no UTF-8."""
    return bytes(data[span[0] : span[1]]).decode()


def _varint(data: Buffer, at: int, end: int) -> tuple[int, int]:
    value = 0
    for count in range(_LONGEST_VARINT_BYTES):
        if at + count >= end:
            raise ValueError("it is cut short")
        byte = data[at + count]
        value |= (byte & 0x7F) << (7 * count)
        if byte < 0x80:
            return value, at + count + 1
    raise ValueError(f"byte {at} begins no protobuf number")
