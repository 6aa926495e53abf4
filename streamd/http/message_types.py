"""The type of a message, which says how the rest of it is read. Knows no message."""

import msgspec

from streamd.http.wire.codecs import DECODING_ERRORS, Decoder, Encoding


class _AnyMessage(msgspec.Struct):
    type: str = ""


_decoder = Decoder(_AnyMessage)


def read_message_type(data: bytes | str, encoding: Encoding) -> str:
    """Return the `type` of a message; empty if it has none, or cannot be decoded."""
    try:
        return str(_decoder.decode_raw(data, encoding).type)
    except DECODING_ERRORS:
        return ""
