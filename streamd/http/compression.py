"""Compressed bodies: the values of `Content-Encoding`, and decoding that stops at a limit. No I/O.

Every route takes gzip and deflate: the standard library decodes them in every Python that streamd runs on. The codings
of `protocols/block_codings.py` are taken by the routes that name them; such a body is decoded when it is complete.
"""

import zlib
from collections.abc import Iterator, Sequence

from streamd.core.errors import MalformedError, TooLargeError, UnsupportedEncodingError

_GZIP_WBITS, _ZLIB_WBITS, _RAW_WBITS = 31, 15, -15

DECODED_PIECE_BYTES = 16_384
"""Bytes that are decoded at once. Small, because zlib copies what follows a gzip member, for each member."""

MAX_PIECE_BYTES = 2**18
"""Bytes that are decoded to at once: 16 KiB of zeros decode to 16 MB, which takes 50 ms. This takes 1 ms."""

MAX_MEMBERS = 1_000
"""Gzip members in one body. A member may decode to nothing, so the limit on decoded bytes does not bound them."""

CONTENT_CODINGS = ("gzip", "deflate", "identity")
"""The content codings that are accepted, unless a route names others."""


def parse_content_encoding(fields: Sequence[str], codings: Sequence[str] = CONTENT_CODINGS) -> str:
    """Return the coding that the Content-Encoding fields of a request name.

    A request that names none has the coding identity if that is one of `codings`, else the first of them. Raises
    `UnsupportedEncodingError` for a coding that is not one of `codings`, and for more than one.
    """
    names = [name.strip().lower() for field in fields for name in field.split(",") if name.strip()]
    coded = ["gzip" if name == "x-gzip" else name for name in names if name != "identity"] or names[:1]
    if not coded:
        return "identity" if "identity" in codings else codings[0]
    if len(coded) > 1 or coded[0] not in codings:
        raise UnsupportedEncodingError(
            f"Content-Encoding is {', '.join(fields)[:64]!r}, expected one of {', '.join(codings)}"
        )
    return coded[0]


class Decompressor:
    """A decoder of one body that arrives in pieces; it decodes to at most `limit_bytes`."""

    def __init__(self, encoding: str, limit_bytes: int) -> None:
        self._encoding = encoding
        self._left_bytes = limit_bytes
        self._limit_bytes = limit_bytes
        self._members = 0
        self._stream: zlib._Decompress | None = None

    def decode(self, data: bytes) -> Iterator[bytes]:
        """Yield the decoded bytes of this piece, at most `MAX_PIECE_BYTES` at once; other work may be done in between.

        Raises `TooLargeError` if the body decodes to more than the limit, `MalformedError` if it is not in its coding.
        """
        try:
            for begin in range(0, len(data), DECODED_PIECE_BYTES):
                yield from self._decode_piece(data[begin : begin + DECODED_PIECE_BYTES])
        except zlib.error as exc:
            raise MalformedError(f"the body is not valid {self._encoding}: {exc}") from exc

    def finish(self) -> None:
        """End the body; raises `MalformedError` if it is cut off. A body of no bytes is empty in every coding."""
        if self._stream is not None and not self._stream.eof:
            raise MalformedError(f"the body ends in the middle of its {self._encoding} data")

    def _decode_piece(self, rest: bytes) -> Iterator[bytes]:
        while rest:
            stream = self._stream
            if stream is None or stream.eof:
                stream = self._stream = self._begin_member(rest)
            out = stream.decompress(rest, min(self._left_bytes + 1, MAX_PIECE_BYTES))
            yield self._count(out)
            rest = stream.unconsumed_tail
            while not rest and len(out) == MAX_PIECE_BYTES:  # zlib may hold more, though it has read everything
                out = stream.decompress(b"", min(self._left_bytes + 1, MAX_PIECE_BYTES))
                yield self._count(out)
            rest = rest or stream.unused_data

    def _count(self, out: bytes) -> bytes:
        """Count decoded bytes and return them; raises `TooLargeError` if there are too many."""
        self._left_bytes -= len(out)
        if self._left_bytes < 0:
            raise TooLargeError(f"the body decodes to over {self._limit_bytes} bytes")
        return out

    def _begin_member(self, data: bytes) -> "zlib._Decompress":
        self._members += 1
        if self._members > (MAX_MEMBERS if self._encoding == "gzip" else 1):
            raise MalformedError(f"the body continues after the end of its {self._encoding} data")
        if self._encoding == "gzip":
            return zlib.decompressobj(_GZIP_WBITS)
        # The standard's deflate has zlib's header, whose low four bits are 8; some senders leave the header out.
        return zlib.decompressobj(_ZLIB_WBITS if data[0] & 0x0F == 8 else _RAW_WBITS)
