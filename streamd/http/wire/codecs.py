"""JSON and MessagePack: encoding, decoding, and the one place where decoding errors of msgspec become ours.

Knows no message; `Decoder` is given the type.
"""

from collections.abc import Sequence
from enum import Enum
from typing import Any, TypeVar

import msgspec
import orjson

from streamd.core.errors import MalformedError, UnsupportedMediaTypeError
from streamd.http.foreign_tokens import add_hint

T = TypeVar("T")

MAX_JOINED_ITEMS = 2**16 - 1
"""The largest number of items that `join_array` joins: MessagePack has it in two bytes."""


class Encoding(Enum):
    """The encoding of a body or frame; the value is its Content-Type."""

    JSON = "application/json"
    MSGPACK = "application/msgpack"


CONTENT_TYPES = {
    "application/json": Encoding.JSON,
    "text/json": Encoding.JSON,
    "application/msgpack": Encoding.MSGPACK,
    "application/x-msgpack": Encoding.MSGPACK,
    "application/vnd.msgpack": Encoding.MSGPACK,
}
"""The encoding of each Content-Type."""

DECODING_ERRORS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError)
"""Errors that msgspec may raise on hostile bytes (text that is not UTF-8, deep nesting, ...)."""


def parse_content_type(content_type: str) -> Encoding:
    """Return the encoding that a Content-Type names; raises `UnsupportedMediaTypeError`."""
    encoding = CONTENT_TYPES.get(content_type.partition(";")[0].strip().lower())
    if encoding is None:
        raise UnsupportedMediaTypeError(
            f"Content-Type is {content_type!r}, expected application/json or application/msgpack"
        )
    return encoding


class Decoder:
    """A decoder of both encodings into one type."""

    def __init__(self, type_: Any) -> None:
        self._json = msgspec.json.Decoder(type_)
        self._msgpack = msgspec.msgpack.Decoder(type_)

    def decode_raw(self, data: bytes | str, encoding: Encoding) -> Any:
        """Decode; raises one of `DECODING_ERRORS`, not translated. For callers that try another type next."""
        if encoding is Encoding.JSON:
            return self._json.decode(data)
        assert isinstance(data, bytes), "MessagePack is never text"
        return self._msgpack.decode(data)

    def decode(self, data: bytes | str, encoding: Encoding) -> Any:
        """Decode; raises `MalformedError`, which states the fault and its place."""
        try:
            return self.decode_raw(data, encoding)
        except DECODING_ERRORS as exc:
            raise translate_decoding_error(exc, data) from exc


def translate_decoding_error(exc: Exception, data: bytes | str = b"") -> MalformedError:
    """Translate one of `DECODING_ERRORS`; given the data, the message names a token that is not JSON."""
    if isinstance(exc, UnicodeDecodeError):
        return MalformedError("text is not valid UTF-8")
    if isinstance(exc, RecursionError):
        return MalformedError("nested too deeply")
    return MalformedError(add_hint(str(exc), data.encode() if isinstance(data, str) else data))


def join_array(items: Sequence[msgspec.Raw], encoding: Encoding) -> bytes:
    """Return encoded values as one encoded list; at most `MAX_JOINED_ITEMS`."""
    if encoding is Encoding.JSON:
        return b"[" + b",".join(items) + b"]"
    return b"\xdc" + len(items).to_bytes(2, "big") + b"".join(items)


def encode(message: Any, encoding: Encoding) -> bytes:
    """Encode a message; numpy arrays in it become nested lists in JSON (they must be tensors in MessagePack)."""
    if encoding is Encoding.JSON:
        return orjson.dumps(message, option=orjson.OPT_SERIALIZE_NUMPY)
    return msgspec.msgpack.encode(message)
