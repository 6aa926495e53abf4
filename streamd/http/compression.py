"""Compressed bodies: what `Content-Encoding` may say, and decoding that stops at a bound.

Gzip and deflate are what the standard library decodes in every Python that streamd runs on.
"""

import zlib
from collections.abc import Iterator, Sequence

from streamd.core.errors import MalformedError, TooLargeError, UnsupportedEncodingError

_GZIP_WBITS, _ZLIB_WBITS, _RAW_WBITS = 31, 15, -15

PIECE_BYTES = 16_384
"""How much is decoded at once: what lies behind the end of a gzip member is copied for each member."""

MAX_MEMBERS = 1_000
"""Gzip members in one body; each may be empty, so that no bound on what comes out limits them."""

CONTENT_CODINGS = ("gzip", "deflate", "identity")
"""The content codings that are taken."""


def parse_content_encoding(fields: Sequence[str]) -> str:
    """Return the coding that a request's Content-Encoding fields name; without any it is identity.

    Raises `UnsupportedEncodingError` for a coding that is not in `CONTENT_CODINGS`, and for more than one.
    """
    names = [name.strip().lower() for field in fields for name in field.split(",")]
    coded = ["gzip" if name == "x-gzip" else name for name in names if name not in ("", "identity")]
    if not coded:
        return "identity"
    if len(coded) > 1 or coded[0] not in CONTENT_CODINGS:
        raise UnsupportedEncodingError(
            f"Content-Encoding is {', '.join(fields)[:64]!r}, expected one of {', '.join(CONTENT_CODINGS)}"
        )
    return coded[0]


class Decompressor:
    """Decodes one body that arrives in pieces, up to `limit_bytes` of what comes out."""

    def __init__(self, encoding: str, limit_bytes: int) -> None:
        self._encoding = encoding
        self._left_bytes = limit_bytes
        self._limit_bytes = limit_bytes
        self._members = 0
        self._stream: zlib._Decompress | None = None

    def decode(self, data: bytes) -> Iterator[bytes]:
        """Yield what this piece decodes to.

        Raises `TooLargeError` where more than the limit comes out, `MalformedError` for what is not in the coding.
        """
        try:
            for begin in range(0, len(data), PIECE_BYTES):
                yield from self._decode(data[begin : begin + PIECE_BYTES])
        except zlib.error as exc:
            raise MalformedError(f"the body is not valid {self._encoding}: {exc}") from exc

    def finish(self) -> None:
        """End the body; raises `MalformedError` where it is cut off. A body of no bytes is empty in every coding."""
        if self._stream is not None and not self._stream.eof:
            raise MalformedError(f"the body ends in the midst of its {self._encoding} data")

    def _decode(self, rest: bytes) -> Iterator[bytes]:
        while rest:
            stream = self._stream
            if stream is None or stream.eof:
                stream = self._stream = self._begin(rest)
            out = stream.decompress(rest, self._left_bytes + 1)
            self._left_bytes -= len(out)
            if self._left_bytes < 0:
                raise TooLargeError(f"the body decodes to over {self._limit_bytes} bytes")
            yield out
            rest = stream.unconsumed_tail or stream.unused_data

    def _begin(self, data: bytes) -> "zlib._Decompress":
        self._members += 1
        if self._members > (MAX_MEMBERS if self._encoding == "gzip" else 1):
            raise MalformedError(f"the body goes on behind the end of its {self._encoding} data")
        if self._encoding == "gzip":
            return zlib.decompressobj(_GZIP_WBITS)
        # The standard's deflate has zlib's header, whose low four bits are 8; some senders leave the header out.
        return zlib.decompressobj(_ZLIB_WBITS if data[0] & 0x0F == 8 else _RAW_WBITS)
