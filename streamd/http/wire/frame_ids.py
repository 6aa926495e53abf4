"""The id at the end of a frame of forecasts, for readers that continue where they left.

Knows the two encodings; `http/resuming.py` decides which id a frame gets.
"""

import msgspec

from streamd.http.wire.codecs import Encoding

FRAME_ID_FIELD = "id"
"""The name of the field."""

_FIXED_MAP, _LARGEST_FIXED_MAP, _MAP_16 = 0x80, 0x8F, 0xDE
"""The first byte of a map in MessagePack: with its number of fields, up to 15; or followed by it in two bytes."""


def add_frame_id(frame: bytes | memoryview, identifier: int, encoding: Encoding) -> bytes:
    """Return a copy of an encoded object, which has fields, with `identifier` as its last field.

    The frame itself is one for all readers of its form; the id is of one reader.
    """
    content = memoryview(frame)
    if encoding is Encoding.JSON:
        return b"".join((content[:-1], b',"%b":%d}' % (FRAME_ID_FIELD.encode(), identifier)))
    field = msgspec.msgpack.encode(FRAME_ID_FIELD) + msgspec.msgpack.encode(identifier)
    if content[0] < _LARGEST_FIXED_MAP:
        return b"".join((bytes([content[0] + 1]), content[1:], field))
    is_fixed = content[0] == _LARGEST_FIXED_MAP
    count = content[0] - _FIXED_MAP if is_fixed else int.from_bytes(content[1:3], "big")
    return b"".join((bytes([_MAP_16]), (count + 1).to_bytes(2, "big"), content[1 if is_fixed else 3 :], field))
