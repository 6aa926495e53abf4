"""Errors of HTTP connections: peers that leave early, and bytes that are not HTTP.

aiohttp logs both with a traceback, and answers in plain text. Here each is counted, logged as one event at debug level,
and answered in the usual form of an error.
"""

import sys
from dataclasses import dataclass
from typing import Any

import structlog
from aiohttp import web
from aiohttp.http import HttpProcessingError

from streamd.core.errors import MalformedError, StreamdError
from streamd.http.errors import make_error_message
from streamd.http.peers import PEER_LEFT_ERRORS
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


class ErrorAnsweringHandler(web.RequestHandler):
    """A connection of aiohttp that counts and answers errors as streamd does."""

    __slots__ = ("_counts",)

    def __init__(self, manager: web.Server, *, counts: ConnectionCounts, **options: Any) -> None:
        super().__init__(manager, **options)
        self._counts = counts

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
            exc.__traceback__ = None  # see `TurnReader._feed`; also an error of a body
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

    def log_debug(self, *args: Any, **options: Any) -> None:
        """Log nothing; free the frames of the error that aiohttp handles here, if any, and of its causes.

        They hold the task that holds the error: thousands of peers that left would wait for the garbage collector,
        which takes 0.4 s for them.
        """
        exc = sys.exception()
        while exc is not None:
            exc.__traceback__ = None
            exc = exc.__cause__ or exc.__context__

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


def _take_first_line(text: str) -> str:
    """Return the first line of a message as ASCII; it may contain arbitrary bytes of the caller."""
    lines = [line.strip(" :") for line in text.splitlines() if line.strip()]
    return lines[0][:200].encode("ascii", "backslashreplace").decode() if lines else "unknown"
