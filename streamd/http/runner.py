"""Serves an application over `Connection`s, one request of each in its turn."""

import asyncio
from typing import Any

from aiohttp import hdrs, web

from streamd.http.callers import cancel_if_caller_leaves
from streamd.http.connections import Connection, ConnectionParts
from streamd.http.peer_turns import PeerTurns
from streamd.http.wire.codecs import Encoding, encode

URGENT_PATHS = frozenset({"/healthz", "/readyz"})
"""Answered at once: they take microseconds, and a supervisor without an answer ends the daemon."""

CONTINUE = "100-continue"
"""The only expectation that a request may have (RFC 9110, section 10.1.1)."""

URGENT_A_TURN = 64
"""Urgent requests that are answered at once in one turn of the loop, at most one of each connection."""


class UrgentRequests:
    """The connections whose urgent request was answered at once in the present turn; the next ones wait as others do.

    Otherwise a connection that sends probes without waiting for their answers would keep the loop.
    """

    def __init__(self, turns: PeerTurns) -> None:
        self._turns = turns
        self._turn = 0
        self._connections: set[object] = set()

    def is_next(self, request: web.BaseRequest) -> bool:
        """Whether a request is to be answered at once; it counts as answered then."""
        if request.path not in URGENT_PATHS:
            return False
        if self._turn != self._turns.number:
            self._turn = self._turns.number
            self._connections.clear()
        if request.protocol in self._connections or len(self._connections) >= URGENT_A_TURN:
            return False
        self._connections.add(request.protocol)
        return True


class _Server(web.Server):
    def __init__(self, server: web.Server, parts: ConnectionParts, options: dict[str, Any]) -> None:
        super().__init__(self._handle_in_turn, request_factory=server.request_factory)
        self._handle = server.request_handler
        self._parts = parts
        self._options = options
        self._urgent = UrgentRequests(parts.turns)

    def __call__(self) -> web.RequestHandler:
        return Connection(self, loop=asyncio.get_running_loop(), parts=self._parts, **self._options)

    async def _handle_in_turn(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.headers.get(hdrs.EXPECT, CONTINUE).lower() != CONTINUE:
            return _refuse_expectation()
        if self._parts.turns.is_over() and not self._urgent.is_next(request):
            with cancel_if_caller_leaves(request):
                await self._parts.turns.wait()
        return await self._handle(request)


class HttpRunner(web.AppRunner):
    """Serves an application over `Connection`s; bodies arrive as they were sent, compressed or not."""

    __slots__ = ("_parts",)

    def __init__(self, app: web.Application, parts: ConnectionParts, *, shutdown_timeout_seconds: float) -> None:
        super().__init__(app, handle_signals=False, shutdown_timeout=shutdown_timeout_seconds)
        self._parts = parts

    async def _make_server(self) -> web.Server:
        options = {
            "access_log": None,
            "auto_decompress": False,
            "keepalive_timeout": 2 * self._parts.table.limits.idle_timeout_seconds,  # the table closes it before
        }
        return _Server(await super()._make_server(), self._parts, options)

    async def cleanup(self) -> None:
        """Stop, as aiohttp does; then check no more deadlines."""
        await super().cleanup()
        self._parts.table.close()


def _refuse_expectation() -> web.Response:
    """Answer another expectation; aiohttp would repeat it in its text, and fail if it is not UTF-8."""
    message = {"type": "error", "code": "expectation_failed", "message": f"Expect may only be {CONTINUE}"}
    return web.Response(body=encode(message, Encoding.JSON), status=417, content_type=Encoding.JSON.value)
