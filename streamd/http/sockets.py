"""WebSockets and event streams within bounds: how many, how large a frame, how long a send may take."""

import asyncio
import socket as sockets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiohttp import WSCloseCode, WSMsgType, web

from streamd.core.errors import DrainingError, TooBusyError
from streamd.http.connections import Connection
from streamd.http.peers import PEER_LEFT_ERRORS, has_peer_left
from streamd.http.requests import TransportLimits
from streamd.http.wire.codecs import Encoding
from streamd.runtime.pauses import Pauses

KEEP_ALIVE_SECONDS = 15.0
"""An event stream without events gets a comment after this long."""


class Sockets:
    """All open WebSockets and event streams; `close_all` ends the former when the daemon stops.

    A peer that keeps a send waiting for the whole limit is dropped: one watch over all sends stands in for a
    timer a frame, which would cost more than the frame.
    """

    def __init__(self, limits: TransportLimits, pauses: Pauses) -> None:
        self._limits = limits
        self._pauses = pauses
        self._open: dict[web.StreamResponse, asyncio.Transport | None] = {}
        self._sending: dict[web.StreamResponse, float] = {}  # since when (monotonic seconds)
        self._watch: asyncio.TimerHandle | None = None
        self.draining = False

    def __len__(self) -> int:
        return len(self._open)

    @asynccontextmanager
    async def accept_websocket(self, request: web.Request) -> AsyncIterator[web.WebSocketResponse]:
        """Upgrade a request; raises `TooBusyError` or `DrainingError` before that."""
        socket = web.WebSocketResponse(
            max_msg_size=self._limits.max_frame_bytes + 1,  # aiohttp refuses from this size on
            heartbeat=self._limits.heartbeat_seconds,
            compress=False,
        )
        async with self._opened(request, socket):
            yield socket

    @asynccontextmanager
    async def stream(self, request: web.Request) -> AsyncIterator[web.StreamResponse]:
        """Begin an event stream; raises `TooBusyError` or `DrainingError` before that."""
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
        async with self._opened(request, response):
            _limit_silence(request, KEEP_ALIVE_SECONDS + self._limits.send_timeout_seconds)
            yield response

    def call_when_lost(self, request: web.Request, callback: Callable[[], None]) -> None:
        """Call back once this peer is gone: now, where it is gone already.

        A handler that only writes learns of a lost connection by its next write, which may be long in coming.
        """
        connection = request.protocol
        assert isinstance(connection, Connection)
        if has_peer_left(request):
            callback()
        else:
            connection.on_lost = callback

    @asynccontextmanager
    async def _opened(self, request: web.Request, response: web.StreamResponse) -> AsyncIterator[None]:
        if self.draining:
            raise DrainingError("the daemon is stopping")
        if len(self) >= self._limits.max_sockets:
            raise TooBusyError(f"{self._limits.max_sockets} sockets are open already")
        # Counted before it is prepared: many that open at once do not slip past the bound.
        self._open[response] = request.transport
        try:
            await self._prepare(request, response)
            yield
        except PEER_LEFT_ERRORS as exc:
            self.abort(response)
            raise ConnectionResetError(f"the peer left: {exc}") from exc
        finally:
            del self._open[response]

    async def _prepare(self, request: web.Request, response: web.StreamResponse) -> None:
        """Send the head; raises `ConnectionResetError` where the peer has left, whatever aiohttp stumbles over then."""
        try:
            await response.prepare(request)
        except Exception as exc:
            if has_peer_left(request):
                raise ConnectionResetError("the peer left before the stream began") from exc
            raise

    async def send(self, socket: web.WebSocketResponse, frame: bytes, encoding: Encoding) -> None:
        """Send one frame; raises `ConnectionError` where the peer is gone or does not read in time."""
        self._begin(socket)
        try:
            if encoding is Encoding.JSON:
                await socket.send_frame(frame, WSMsgType.TEXT)
            else:
                await socket.send_bytes(frame)
        finally:
            self._sending.pop(socket, None)

    def has_read_all(self, socket: web.WebSocketResponse) -> bool:
        """Whether the peer has taken what was sent so far, so that a send would not wait for it."""
        transport = self._open.get(socket)
        return transport is not None and transport.get_write_buffer_size() == 0

    async def write(self, response: web.StreamResponse, data: bytes) -> None:
        """Write to an event stream; raises `ConnectionError` where the peer is gone or does not read in time."""
        self._begin(response)
        try:
            await response.write(data)
        finally:
            self._sending.pop(response, None)

    def _begin(self, response: web.StreamResponse) -> None:
        self._sending[response] = self._pauses.clock()
        if self._watch is None:
            self._watch = asyncio.get_running_loop().call_later(self._limits.send_timeout_seconds, self._drop_stalled)

    def _drop_stalled(self) -> None:
        """Drop who has kept a send waiting for the whole limit; look again while any waits."""
        self._watch = None
        limit = self._limits.send_timeout_seconds
        for response, since in list(self._sending.items()):
            if self._pauses.count_running_seconds(since) >= limit:
                self.abort(response)
                del self._sending[response]
        if self._sending:
            again = limit - max(map(self._pauses.count_running_seconds, self._sending.values()))
            self._watch = asyncio.get_running_loop().call_later(max(again, 0.001), self._drop_stalled)

    def abort(self, response: web.StreamResponse) -> None:
        """Drop a peer that is gone or no longer reads: a closing handshake would only wait for it again."""
        transport = self._open.get(response)
        if transport is not None:
            transport.abort()

    async def close_all(self) -> None:
        """Close every WebSocket as going away."""
        self.draining = True
        sockets = [each for each in self._open if isinstance(each, web.WebSocketResponse)]
        closing = [socket.close(code=WSCloseCode.GOING_AWAY, message=b"the daemon is stopping") for socket in sockets]
        await asyncio.gather(*closing, return_exceptions=True)
        if self._watch is not None:
            self._watch.cancel()


def _limit_silence(request: web.Request, seconds: float) -> None:
    """Let the kernel drop a peer that acknowledges nothing for this long, such as a machine that lost its power."""
    option = getattr(sockets, "TCP_USER_TIMEOUT", None)  # Linux has it
    connection = request.get_extra_info("socket")
    if option is not None and connection is not None and connection.family in (sockets.AF_INET, sockets.AF_INET6):
        connection.setsockopt(sockets.IPPROTO_TCP, option, int(seconds * 1e3))
