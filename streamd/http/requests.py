"""Reading the bodies of requests, within limits of size, number and time.

Bodies are bytes here; `wire/` decodes them.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from aiohttp import web

from streamd.core.errors import MalformedError, StreamdError, TooBusyError, TooLargeError
from streamd.http.compression import CONTENT_CODINGS, Decompressor, parse_content_encoding
from streamd.http.peers import has_peer_left
from streamd.protocols.block_codings import BLOCK_CODINGS, decode_block
from streamd.runtime.pauses import Pauses


@dataclass(frozen=True, kw_only=True)
class TransportLimits:
    """Limits on requests, WebSockets and event streams."""

    max_body_bytes: int = 8 * 2**20
    """Of one request body, as it is sent and as it is decompressed."""
    max_frame_bytes: int = 2 * 2**20
    """Of one WebSocket frame that is received."""
    max_pending_body_bytes: int = 64 * 2**20
    """Of all bodies that are being read or handled; beyond it a request is answered with `TooBusyError`."""
    max_sockets: int = 4_096
    """WebSockets and event streams that are open at once."""
    body_timeout_seconds: float = 30.0
    """The time in which a body must arrive."""
    send_timeout_seconds: float = 30.0
    """A peer that keeps a send waiting for so long is dropped."""
    heartbeat_seconds: float = 30.0
    """The interval of pings on a WebSocket."""


class BodyReader:
    """A reader of request bodies that bounds the `pending_bytes` of all of them together."""

    def __init__(self, limits: TransportLimits, pauses: Pauses) -> None:
        self._limits = limits
        self._pauses = pauses
        self.pending_bytes = 0

    @asynccontextmanager
    async def read_body(self, request: web.Request, codings: Sequence[str] = CONTENT_CODINGS) -> AsyncIterator[bytes]:
        """Read a body in one of these codings and decompress it; its bytes count as pending until the block ends.

        Raises `UnsupportedEncodingError`, `TooLargeError`, `TooBusyError` if too many bytes are pending already,
        `MalformedError` if the body is cut off, not in its coding or not complete in time, and `ConnectionResetError`
        if the peer leaves before its body is complete.
        """
        encoding = parse_content_encoding(request.headers.getall("Content-Encoding", ()), codings)
        self._check_limits(request)
        is_block = encoding in BLOCK_CODINGS
        # A body that is decoded piece by piece may grow to the limit, whatever its Content-Length is. A block does not
        # grow while it arrives, and its senders are many: with the limit reserved for each, eight would fill the total.
        is_bounded = encoding == "identity" or is_block
        reserved = (is_bounded and request.content_length) or self._limits.max_body_bytes
        self.pending_bytes += reserved
        try:
            body = await self._receive_in_time(request, encoding)
            if is_block:
                body = decode_block(encoding, body, self._limits.max_body_bytes)
                self.pending_bytes += len(body) - reserved
                reserved = len(body)
                self._check_pending(self.pending_bytes - reserved)
            yield body
        finally:
            self.pending_bytes -= reserved

    def _check_limits(self, request: web.Request) -> None:
        limit = self._limits.max_body_bytes
        if (request.content_length or 0) > limit:
            raise TooLargeError(f"the body has {request.content_length} bytes, at most {limit} are accepted")
        self._check_pending(self.pending_bytes)

    def _check_pending(self, others_bytes: int) -> None:
        if others_bytes > self._limits.max_pending_body_bytes:
            raise TooBusyError(f"bodies of {others_bytes} bytes are being handled already")

    async def _receive_in_time(self, request: web.Request, encoding: str) -> bytes:
        try:
            async with self._pauses.timeout(self._limits.body_timeout_seconds):
                return await self._receive(request, encoding)
        except StreamdError:
            raise
        except Exception as exc:  # the errors that aiohttp raises for a body have no common base class
            if has_peer_left(request):
                raise ConnectionResetError("the peer left before its body was complete") from exc
            if isinstance(exc, TimeoutError):
                seconds = self._limits.body_timeout_seconds
                raise MalformedError(f"the body did not arrive within {seconds:g} s") from exc
            raise MalformedError(f"the body cannot be read: {exc}") from exc

    async def _receive(self, request: web.Request, encoding: str) -> bytes:
        """Read a body to its end; the limit holds for the bytes received and for the bytes decoded.

        A block is returned as it was sent.
        """
        limit, received, body = self._limits.max_body_bytes, 0, bytearray()
        is_as_sent = encoding == "identity" or encoding in BLOCK_CODINGS
        decompressor = None if is_as_sent else Decompressor(encoding, limit)
        async for data in request.content.iter_any():
            received += len(data)
            if received > limit:
                raise TooLargeError(f"the body has over {limit} bytes")
            if decompressor is None:
                body += data
            else:
                for piece in decompressor.decode(data):
                    body += piece
        if decompressor is not None:
            decompressor.finish()
        return bytes(body)
