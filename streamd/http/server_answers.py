"""Calls about one server: what their handlers read of a request, so that another node of a cluster may answer them.

Knows no cluster. In a daemon that is alone, each call is answered here.
"""

from collections.abc import Awaitable, Callable, Mapping
from enum import StrEnum
from typing import Any, NamedTuple, Protocol

import msgspec
import structlog
from aiohttp import web

from streamd.core.errors import InvalidInputError, StreamdError
from streamd.http.errors import choose_encoding, choose_status, list_error_headers, make_error_message
from streamd.http.names import read_server_name
from streamd.http.wire.codecs import Encoding, encode

log = structlog.get_logger(__name__)

NO_CONTENT = 204


class ServerCallKind(StrEnum):
    """The question of a call about a server."""

    FORECAST = "forecast"
    WINDOW = "window"
    ACCURACY = "accuracy"
    FORGET = "forget"


class ServerCall(msgspec.Struct, frozen=True, kw_only=True):
    """A call about one server, whose caller has the right to make it."""

    kind: ServerCallKind
    server: str
    query: tuple[tuple[str, str], ...] = ()
    """The parameters of the request, in their order."""
    encoding: Encoding = Encoding.JSON
    """The encoding of the answer."""


class ServerAnswer(NamedTuple):
    """The message that answers a call, not encoded; without a message the answer has no body."""

    message: Mapping[str, Any] | None
    status: int = 200


class EncodedAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The whole answer to a call, errors included, as it goes out to the caller."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = {}


Answerer = Callable[[ServerCall], Awaitable[ServerAnswer]]
"""Answers the calls of one kind from the state of this process; raises `StreamdError`."""


class ServersElsewhere(Protocol):
    """The other nodes of a cluster, as the calls about servers need them."""

    async def answer(self, call: ServerCall) -> EncodedAnswer | None:
        """Return the answer of the node that has the server; `None` if that is this one.

        Raises `UnavailableError` if no node has it now, or its node does not answer.
        """
        ...


class ServerAnswers:
    """The answers to calls about servers: given here, or by the node that has the server."""

    def __init__(self, elsewhere: ServersElsewhere | None = None) -> None:
        self._elsewhere = elsewhere
        self._answerers: dict[ServerCallKind, Answerer] = {}

    def add(self, kind: ServerCallKind, answerer: Answerer) -> None:
        """Add what answers the calls of a kind."""
        self._answerers[kind] = answerer

    async def answer(self, request: web.Request, kind: ServerCallKind) -> web.Response:
        """Answer a request; raises `InvalidInputError` if it names no server, and the errors of its answer."""
        server = read_server_name(request)
        if server is None:
            raise InvalidInputError("no server is named, expected its name in the path, or ?server=NAME")
        encoding = choose_encoding(request)
        call = ServerCall(kind=kind, server=server, query=tuple(request.query.items()), encoding=encoding)
        if self._elsewhere is not None and (found := await self._elsewhere.answer(call)) is not None:
            content_type = encoding.value if found.body else None
            return web.Response(body=found.body, status=found.status, headers=found.headers, content_type=content_type)
        answer = await self._answerers[kind](call)
        if answer.message is None:
            return web.Response(status=answer.status)
        body = encode(answer.message, encoding)
        return web.Response(body=body, status=answer.status, content_type=encoding.value)

    async def answer_here(self, call: ServerCall) -> EncodedAnswer:
        """Answer a call that another node passed on; an error becomes an answer, too."""
        try:
            answer = await self._answerers[call.kind](call)
        except StreamdError as error:
            body = encode(make_error_message(error), call.encoding)
            return EncodedAnswer(status=choose_status(error), body=body, headers=list_error_headers(error))
        except Exception:
            log.exception("call_failed", kind=call.kind)
            failed = StreamdError("a defect of the node that has the server; its log has the details")
            return EncodedAnswer(status=500, body=encode(make_error_message(failed), call.encoding))
        body = b"" if answer.message is None else encode(answer.message, call.encoding)
        return EncodedAnswer(status=answer.status, body=body)
