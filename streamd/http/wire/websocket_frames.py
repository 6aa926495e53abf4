"""Frames of a WebSocket as a server sends them: not masked, not compressed, in one piece (RFC 6455, section 5.2).

So several can be written at once: aiohttp makes one system call for each.
"""

from streamd.http.wire.codecs import Encoding

_TEXT, _BINARY = b"\x81", b"\x82"
"""The first byte of a frame of each kind."""


def frame_message(message: bytes, encoding: Encoding) -> bytes:
    """Return a message as one whole frame: text if it is JSON, else binary."""
    first, size_bytes = _TEXT if encoding is Encoding.JSON else _BINARY, len(message)
    if size_bytes < 126:
        return b"%b%c%b" % (first, size_bytes, message)
    if size_bytes < 2**16:
        return b"%b\x7e%b%b" % (first, size_bytes.to_bytes(2, "big"), message)
    return b"%b\x7f%b%b" % (first, size_bytes.to_bytes(8, "big"), message)
