"""Reading bodies within bounds of size, number and time."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from aiohttp import web

from streamd.core.errors import MalformedError, StreamdError, TooBusyError, TooLargeError
from streamd.http.compression import Decompressor, parse_content_encoding
from streamd.http.peers import has_peer_left
from streamd.runtime.pauses import Pauses


@dataclass(frozen=True)
class TransportLimits:
    """The bounds at the doors."""

    max_body_bytes: int = 8 * 2**20
    max_frame_bytes: int = 2 * 2**20
    max_pending_body_bytes: int = 64 * 2**20
    max_sockets: int = 4_096
    body_timeout_seconds: float = 30.0
    send_timeout_seconds: float = 30.0
    heartbeat_seconds: float = 30.0


class BodyReader:
    """Reads request bodies; `pending_bytes` of all of them together are bounded."""

    def __init__(self, limits: TransportLimits, pauses: Pauses) -> None:
        self._limits = limits
        self._pauses = pauses
        self.pending_bytes = 0

    @asynccontextmanager
    async def read_body(self, request: web.Request) -> AsyncIterator[bytes]:
        """Read a body, decompressed; its bytes count as pending until the block ends.

        Raises `UnsupportedEncodingError`, `TooLargeError`, `TooBusyError` where too much is pending already,
        `MalformedError` for a body that is cut off, not in its coding or not in time, and `ConnectionResetError`
        where the peer leaves in the midst of it.
        """
        encoding = parse_content_encoding(request.headers.getall("Content-Encoding", ()))
        self._check(request)
        # A compressed body may grow to the limit, whatever its length says.
        reserved = (encoding == "identity" and request.content_length) or self._limits.max_body_bytes
        self.pending_bytes += reserved
        try:
            yield await self._body(request, encoding)
        finally:
            self.pending_bytes -= reserved

    def _check(self, request: web.Request) -> None:
        limit = self._limits.max_body_bytes
        if (request.content_length or 0) > limit:
            raise TooLargeError(f"the body has {request.content_length} bytes, at most {limit} are taken")
        if self.pending_bytes > self._limits.max_pending_body_bytes:
            raise TooBusyError(f"bodies of {self.pending_bytes} bytes are being taken already")

    async def _body(self, request: web.Request, encoding: str) -> bytes:
        try:
            async with self._pauses.timeout(self._limits.body_timeout_seconds):
                return await self._decoded(request, encoding)
        except StreamdError:
            raise
        except Exception as exc:  # aiohttp's errors of a body have no common root
            if has_peer_left(request):
                raise ConnectionResetError("the peer left in the midst of its body") from exc
            if isinstance(exc, TimeoutError):
                seconds = self._limits.body_timeout_seconds
                raise MalformedError(f"the body did not come within {seconds:g} s") from exc
            raise MalformedError(f"the body cannot be read: {exc}") from exc

    async def _decoded(self, request: web.Request, encoding: str) -> bytes:
        """Read to the end; the bound holds for what came and for what it decodes to."""
        limit, came, body = self._limits.max_body_bytes, 0, bytearray()
        decompressor = None if encoding == "identity" else Decompressor(encoding, limit)
        async for data in request.content.iter_any():
            came += len(data)
            if came > limit:
                raise TooLargeError(f"the body has over {limit} bytes")
            if decompressor is None:
                body += data
            else:
                for piece in decompressor.decode(data):
                    body += piece
        if decompressor is not None:
            decompressor.finish()
        return bytes(body)
