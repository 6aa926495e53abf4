"""Requests that a worker passes on to the engine process, and what that process believes about them.

The caller was admitted by the worker already; the engine process checks it again, by the same token. Who it is by its
connection (its address, its client certificate) only the worker sees, and says so in headers of its own. These are
believed on the socket between the processes only, and no caller can send them: the worker drops what it did not write.
"""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from aiohttp import hdrs, web
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from streamd.core.errors import StreamdError, UnavailableError
from streamd.http.access.credentials import (
    SOCKET_PROTOCOL,
    list_token_protocols,
    read_certificate_names,
)
from streamd.http.access.forwarded import set_forwarded
from streamd.http.access.rules import RouteRule
from streamd.http.access.upgrades import is_upgrade, require_upgrade
from streamd.http.callers import cancel_if_caller_leaves
from streamd.http.errors import Handler, add_error_headers

REMOTE_HEADER = "X-Streamd-Remote"
NAMES_HEADER = "X-Streamd-Certificate-Names"

ENGINE_CONNECT_SECONDS = 5.0
"""The time in which the engine process accepts a connection."""

SMALL_ANSWER_BYTES = 2**16
"""An answer of this size at most is passed on as a whole."""

_OF_ONE_HOP = frozenset(
    name.lower()
    for name in (
        *(hdrs.CONNECTION, hdrs.KEEP_ALIVE, hdrs.TRANSFER_ENCODING, hdrs.TE, hdrs.TRAILER, hdrs.UPGRADE, hdrs.EXPECT),
        *(hdrs.PROXY_AUTHENTICATE, hdrs.PROXY_AUTHORIZATION, REMOTE_HEADER, NAMES_HEADER),
    )
)
"""Headers, in lower case, that are about one connection (RFC 9110, section 7.6.1), and those of our own."""


class EngineForwarder:
    """Passes requests on to the engine process at a Unix socket; `is_up` says whether that process is there."""

    def __init__(self, path: str, is_up: Callable[[], bool]) -> None:
        self._path = path
        self._is_up = is_up
        self._session: aiohttp.ClientSession | None = None

    def make_handler(self, rule: RouteRule) -> Handler:
        """Return a handler that passes the requests of a route on; an error has the form of the route."""

        async def forward(request: web.Request) -> web.StreamResponse:
            if rule.serves_socket:
                require_upgrade(request)  # the header of the answer is of one hop
            try:
                return await self.forward(request)
            except StreamdError as error:
                if rule.refuse is None:
                    raise
                answer = rule.refuse(request, error)
                add_error_headers(answer, error)
                return answer

        return forward

    async def forward(self, request: web.Request) -> web.StreamResponse:
        """Pass a request on and return the answer; raises `UnavailableError` while the engine process is away."""
        if is_upgrade(request):
            raise UnavailableError("this WebSocket is not served by a daemon of several workers; send by POST")
        if not self._is_up():
            raise UnavailableError("the engine process is being restarted")
        try:
            with cancel_if_caller_leaves(request):
                async with self._open_session().request(
                    request.method,
                    # Encoded as it came, so that the engine process sees the path that was checked here.
                    URL(f"http://engine{request.rel_url.raw_path_qs}", encoded=True),
                    headers=_list_request_headers(request),
                    data=request.content if request.body_exists else None,
                    allow_redirects=False,
                ) as answer:
                    return await _pass_back(request, answer)
        except aiohttp.ClientError as exc:
            raise UnavailableError("the engine process has ended; it is being restarted") from exc

    @asynccontextmanager
    async def open_socket(self, request: web.Request, path: str) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        """Open a WebSocket of the engine process with the credentials of a request.

        Raises `UnavailableError` while that process is away, if it refuses, and if it ends meanwhile.
        """
        if not self._is_up():
            raise UnavailableError("the engine process is being restarted")
        headers = _list_request_headers(request)
        protocols = (SOCKET_PROTOCOL, *list_token_protocols(request))
        for name in [each for each in headers if each.lower().startswith("sec-websocket-")]:
            del headers[name]  # those of the new socket are made by the library
        try:
            url = URL(f"http://engine{path}")
            async with self._open_session().ws_connect(
                url, headers=headers, protocols=protocols, max_msg_size=0
            ) as socket:
                yield socket
        except aiohttp.ClientError as exc:
            raise UnavailableError("the engine process has ended; it is being restarted") from exc

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.UnixConnector(self._path, limit=0),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=ENGINE_CONNECT_SECONDS),
                auto_decompress=False,
                skip_auto_headers=(hdrs.USER_AGENT, hdrs.ACCEPT, hdrs.ACCEPT_ENCODING, hdrs.CONTENT_TYPE),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()


def _list_request_headers(request: web.Request) -> CIMultiDict[str]:
    headers = _drop_headers_of_one_hop(request.headers)
    headers[REMOTE_HEADER] = request.remote or ""
    if names := read_certificate_names(request):
        headers[NAMES_HEADER] = json.dumps(names)
    return headers


async def _pass_back(request: web.Request, answer: aiohttp.ClientResponse) -> web.StreamResponse:
    headers = _drop_headers_of_one_hop(answer.headers)
    if answer.content_length is not None and answer.content_length <= SMALL_ANSWER_BYTES:
        return web.Response(status=answer.status, headers=headers, body=await answer.read())
    response = web.StreamResponse(status=answer.status, headers=headers)
    await response.prepare(request)
    try:
        async for data in answer.content.iter_any():
            await response.write(data)
    except aiohttp.ClientError as exc:
        # The head is sent: only the end of the connection tells the caller that the answer is not whole.
        if request.transport is not None:
            request.transport.abort()
        raise ConnectionResetError("the engine process ended in the middle of an answer") from exc
    await response.write_eof()
    return response


def _drop_headers_of_one_hop(headers: CIMultiDictProxy[str]) -> CIMultiDict[str]:
    return CIMultiDict((name, value) for name, value in headers.items() if name.lower() not in _OF_ONE_HOP)


@web.middleware
async def believe_forwarded(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Take the caller's address and certificate from the worker's headers: the first middleware of the engine process.

    Only for an application that nobody but workers can connect to.
    """
    names: Any = request.headers.get(NAMES_HEADER)
    set_forwarded(
        request,
        remote=request.headers.get(REMOTE_HEADER, ""),
        names=() if names is None else tuple(json.loads(names)),
    )
    return await handler(request)
