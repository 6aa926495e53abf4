"""Content codings whose bodies are decoded as a whole: snappy in its block format, and zstd. No I/O.

A limit on the decoded size holds before or during decoding, whatever size the body declares.
"""

import cramjam

from streamd.core.errors import MalformedError, TooLargeError

BLOCK_CODINGS = ("snappy", "zstd")
"""The names of these codings in `Content-Encoding`."""


def decode_block(coding: str, data: bytes, limit_bytes: int) -> bytes:
    """Decode a body in one of `BLOCK_CODINGS`; a body of no bytes is empty in each of them.

    Raises `TooLargeError` if it decodes to more than the limit, `MalformedError` if it is not in its coding.
    """
    if not data:
        return b""
    decode = _decode_snappy if coding == "snappy" else _decode_zstd
    try:
        return decode(data, limit_bytes)
    except cramjam.DecompressionError as exc:
        raise MalformedError(f"the body is not valid {coding}: {exc}") from exc


def _decode_snappy(data: bytes, limit_bytes: int) -> bytes:
    # The length is declared by the first bytes; a block that decodes to another length is not valid.
    declared = cramjam.snappy.decompress_raw_len(data)
    if declared > limit_bytes:
        raise TooLargeError(f"the body declares {declared} bytes of snappy data, at most {limit_bytes} are accepted")
    return bytes(cramjam.snappy.decompress_raw(data, output_len=declared))


def _decode_zstd(data: bytes, limit_bytes: int) -> bytes:
    # A frame need not declare its size, and a body may have several frames. So the buffer is the limit: its pages take
    # no memory until they are written. The library refuses windows over 128 MiB.
    buffer = bytearray(limit_bytes)
    try:
        size = cramjam.zstd.decompress_into(data, buffer)
    except cramjam.DecompressionError as exc:
        if _BUFFER_IS_FULL in str(exc):
            raise TooLargeError(f"the body decodes to over {limit_bytes} bytes") from exc
        raise
    return bytes(memoryview(buffer)[:size])


_BUFFER_IS_FULL = "whole buffer"
"""A part of the message of cramjam 2.x (Rust's `write_all`) if the output is longer than its buffer."""
