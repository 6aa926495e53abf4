"""Reading bodies within bounds of size, number and time."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from aiohttp import web

from streamd.core.errors import MalformedError, TooBusyError, TooLargeError
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
    async def read(self, request: web.Request) -> AsyncIterator[bytes]:
        """Read a body; its bytes count as pending until the block ends.

        Raises `TooLargeError`, `TooBusyError` where too much is pending already, `MalformedError` for a body
        that is cut off or does not come in time.
        """
        self._check(request)
        # A compressed body may grow to the limit, whatever its length says.
        plain = "Content-Encoding" not in request.headers
        reserved = (plain and request.content_length) or self._limits.max_body_bytes
        self.pending_bytes += reserved
        try:
            yield await self._body(request)
        finally:
            self.pending_bytes -= reserved

    def _check(self, request: web.Request) -> None:
        limit = self._limits.max_body_bytes
        if (request.content_length or 0) > limit:
            raise TooLargeError(f"the body has {request.content_length} bytes, at most {limit} are taken")
        if self.pending_bytes > self._limits.max_pending_body_bytes:
            raise TooBusyError(f"bodies of {self.pending_bytes} bytes are being taken already")

    async def _body(self, request: web.Request) -> bytes:
        try:
            async with self._pauses.timeout(self._limits.body_timeout_seconds):
                return await request.read()
        except TimeoutError as exc:
            raise MalformedError(f"the body did not come within {self._limits.body_timeout_seconds:g} s") from exc
        except web.HTTPRequestEntityTooLarge as exc:
            raise TooLargeError(f"the body has over {self._limits.max_body_bytes} bytes") from exc
        except (web.HTTPException, ConnectionError):
            raise
        except Exception as exc:  # aiohttp's decompression and chunk errors have no common root
            raise MalformedError(f"the body cannot be read: {exc}") from exc
