"""Walks the wire format of protobuf one field at a time, so that a large message is never in memory as objects.

Knows no message types; the callers know the tags of their fields.
"""

from collections.abc import Iterator

from streamd.core.errors import MalformedError

VARINT, FIXED64, LENGTH_DELIMITED, FIXED32 = 0, 1, 2, 5
"""The wire types that are read; groups, which proto3 does not have, are refused."""

_LONGEST_VARINT_BYTES = 10

WireField = tuple[int, int, int]
"""The tag of a field, and the positions of its first byte and of the byte after its last one. The bytes that encode the
length of a text or message do not belong to it."""


def make_tag(number: int, wire_type: int = LENGTH_DELIMITED) -> int:
    """Return the tag that precedes a field."""
    return number << 3 | wire_type


def walk_fields(data: bytes, at: int, end: int) -> Iterator[WireField]:
    """Yield the fields of the message in these bytes; raises `MalformedError` if they are not a message."""
    while at < end:
        tag, begin = read_varint(data, at, end)
        if tag < 8 or tag >= 1 << 32:
            raise MalformedError(f"byte {at}: {tag >> 3} is no field number of protobuf")
        wire_type = tag & 7
        if wire_type == LENGTH_DELIMITED:
            size, begin = read_varint(data, begin, end)
            at = begin + size
        elif wire_type == VARINT:
            _, at = read_varint(data, begin, end)
        elif wire_type in (FIXED32, FIXED64):
            at = begin + (4 if wire_type == FIXED32 else 8)
        else:
            raise MalformedError(f"byte {at}: {wire_type} is no wire type of proto3")
        if at > end:
            raise MalformedError(f"byte {begin}: the message ends within this field")
        yield tag, begin, at


def read_varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    """Return an integer, stored as seven bits a byte with the lowest first, and the position after it.

    Raises `MalformedError` if it is cut off or longer than any integer.
    """
    if at < end and data[at] < 0x80:
        return data[at], at + 1
    value = 0
    for shift, index in enumerate(range(at, min(at + _LONGEST_VARINT_BYTES, end))):
        byte = data[index]
        value |= (byte & 0x7F) << (7 * shift)
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, index + 1
    raise MalformedError(f"byte {at}: expected an integer of protobuf")
