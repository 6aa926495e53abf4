"""HTTP connections: the answer to bytes that are not HTTP, and the event of a connection that is lost.

aiohttp logs peers that leave early and bytes that are not HTTP with a traceback, and answers in plain text. Here each
is counted, logged as one event at debug level, and answered in the usual form of an error.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import structlog
from aiohttp import web
from aiohttp.http import HttpProcessingError

from streamd.core.errors import MalformedError, StreamdError
from streamd.http.errors import make_error_message
from streamd.http.peers import PEER_LEFT_ERRORS, has_peer_left
from streamd.http.wire.codecs import Encoding, encode

log = structlog.get_logger(__name__)

NOT_HTTP_ERRORS = (HttpProcessingError, web.RequestPayloadError)
"""Errors that aiohttp raises for a request, or for chunks of a body, that it cannot parse."""


@dataclass
class ConnectionCounts:
    """Counts of connections that ended badly, since the start."""

    peers_left: int = 0
    """Requests whose peer left before they were answered."""
    malformed_requests: int = 0
    """Requests that are not HTTP."""


class Connection(web.RequestHandler):
    """One connection. It has one request at a time, so one callback suffices: see `call_when_lost`."""

    __slots__ = ("_counts", "on_lost")

    def __init__(self, manager: web.Server, *, counts: ConnectionCounts, **options: Any) -> None:
        super().__init__(manager, **options)
        self._counts = counts
        self.on_lost: Callable[[], None] | None = None

    def connection_lost(self, exc: BaseException | None) -> None:
        """End the connection as aiohttp does, then call the callback of the request that is being handled."""
        super().connection_lost(exc)
        on_lost, self.on_lost = self.on_lost, None
        if on_lost is not None:
            on_lost()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what no route could; raises `ConnectionError` if the peer has left or an answer has begun."""
        error: StreamdError
        if isinstance(exc, NOT_HTTP_ERRORS):
            reason = _take_first_line(message or str(exc))
            self._note_malformed(reason)
            error = MalformedError(f"the request is not valid HTTP: {reason}")
        else:
            self.log_exception("Error handling request", exc_info=exc)
            error = StreamdError("a defect of the daemon; its log has the details")
        if isinstance(exc, PEER_LEFT_ERRORS) or request.writer.output_size > 0:
            raise ConnectionResetError("no answer can be sent on this connection") from exc
        data = encode(make_error_message(error), Encoding.JSON)
        response = web.Response(body=data, status=status, content_type=Encoding.JSON.value)
        response.force_close()
        return response

    def log_exception(self, *args: Any, **options: Any) -> None:
        """Count errors that peers cause; log defects of the daemon."""
        exc = options.get("exc_info")
        if isinstance(exc, PEER_LEFT_ERRORS):
            self._counts.peers_left += 1
            log.debug("peer_left", reason=str(exc))
        elif isinstance(exc, NOT_HTTP_ERRORS):
            self._note_malformed(_take_first_line(str(exc)))
        else:
            log.error("connection_failed", reason=args[0] % args[1:] if args else "", exc_info=exc)

    def _note_malformed(self, reason: str) -> None:
        self._counts.malformed_requests += 1
        log.debug("malformed_request", reason=reason)


class _Server(web.Server):
    def __init__(self, server: web.Server, options: dict[str, Any]) -> None:
        super().__init__(server.request_handler, request_factory=server.request_factory)
        self._options = options

    def __call__(self) -> web.RequestHandler:
        return Connection(self, loop=asyncio.get_running_loop(), **self._options)


class HttpRunner(web.AppRunner):
    """Serves an application over `Connection`s; bodies arrive as they were sent, compressed or not."""

    __slots__ = ("_counts",)

    def __init__(self, app: web.Application, counts: ConnectionCounts, *, shutdown_timeout_seconds: float) -> None:
        super().__init__(app, handle_signals=False, shutdown_timeout=shutdown_timeout_seconds)
        self._counts = counts

    async def _make_server(self) -> web.Server:
        options = {"counts": self._counts, "access_log": None, "auto_decompress": False}
        return _Server(await super()._make_server(), options)


@contextmanager
def call_when_lost(request: web.Request, callback: Callable[[], None]) -> Iterator[None]:
    """Call `callback` at once if the connection of a request is lost while the block runs.

    A handler that only waits or writes does not notice a lost connection before its next write. Raises
    `ConnectionResetError` if the peer has left already.
    """
    connection = request.protocol
    assert isinstance(connection, Connection)
    if has_peer_left(request):
        raise ConnectionResetError("the peer has left")
    connection.on_lost = callback
    try:
        yield
    finally:
        connection.on_lost = None


def _take_first_line(text: str) -> str:
    """Return the first line of a message as ASCII; it may contain arbitrary bytes of the caller."""
    lines = [line.strip(" :") for line in text.splitlines() if line.strip()]
    return lines[0][:200].encode("ascii", "backslashreplace").decode() if lines else "unknown"
