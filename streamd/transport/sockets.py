"""WebSockets within bounds: how many, how large a frame, how long a send may take."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import WSCloseCode, WSMsgType, web

from streamd.core.errors import DrainingError, TooBusyError
from streamd.transport.codecs import Encoding
from streamd.transport.requests import TransportLimits


class Sockets:
    """All open WebSockets and event streams; `close_all` ends them when the daemon stops."""

    def __init__(self, limits: TransportLimits) -> None:
        self._limits = limits
        self._open: dict[web.WebSocketResponse, asyncio.Transport | None] = {}
        self._streams = 0
        self._sending: dict[web.WebSocketResponse, float] = {}  # since when (loop's seconds)
        self._watching: asyncio.TimerHandle | None = None
        self.draining = False

    def __len__(self) -> int:
        return len(self._open) + self._streams

    @asynccontextmanager
    async def accept(self, request: web.Request) -> AsyncIterator[web.WebSocketResponse]:
        """Upgrade a request; raises `TooBusyError` or `DrainingError` before that."""
        self.check_room()
        socket = web.WebSocketResponse(
            max_msg_size=self._limits.max_frame_bytes + 1,  # aiohttp refuses from this size on
            heartbeat=self._limits.heartbeat_seconds,
            compress=False,
        )
        await socket.prepare(request)
        self._open[socket] = request.transport
        try:
            yield socket
        except ConnectionError:
            self.abort(socket)
        finally:
            del self._open[socket]

    @asynccontextmanager
    async def stream(self) -> AsyncIterator[None]:
        """Count an event stream for as long as it is open."""
        self.check_room()
        self._streams += 1
        try:
            yield
        finally:
            self._streams -= 1

    def check_room(self) -> None:
        """Raise unless one more connection may stay open."""
        if self.draining:
            raise DrainingError("the daemon is stopping")
        if len(self) >= self._limits.max_sockets:
            raise TooBusyError(f"{self._limits.max_sockets} sockets are open already")

    async def send(self, socket: web.WebSocketResponse, frame: bytes, encoding: Encoding) -> None:
        """Send one frame; raises `ConnectionError` where the peer is gone or does not read in time.

        One watch over all sends stands in for a timer a frame, which would cost more than the frame.
        """
        loop = asyncio.get_running_loop()
        self._sending[socket] = loop.time()
        if self._watching is None:
            self._watching = loop.call_later(self._limits.send_timeout_seconds, self._drop_stalled)
        try:
            if encoding is Encoding.JSON:
                await socket.send_frame(frame, WSMsgType.TEXT)
            else:
                await socket.send_bytes(frame)
        finally:
            self._sending.pop(socket, None)

    def _drop_stalled(self) -> None:
        """Drop the peers that have kept a send waiting for the whole limit; look again while any waits."""
        self._watching = None
        loop = asyncio.get_running_loop()
        limit = self._limits.send_timeout_seconds
        for socket, since in list(self._sending.items()):
            if loop.time() - since >= limit:
                self.abort(socket)
        if self._sending:
            oldest = min(self._sending.values())
            again = max(oldest + limit - loop.time(), limit / 10)
            self._watching = loop.call_later(again, self._drop_stalled)

    def abort(self, socket: web.WebSocketResponse) -> None:
        """Drop a peer that is gone or no longer reads: a closing handshake would only wait for it again."""
        transport = self._open.get(socket)
        if transport is not None:
            transport.abort()

    async def close_all(self) -> None:
        """Close every socket as going away."""
        self.draining = True
        closing = [
            socket.close(code=WSCloseCode.GOING_AWAY, message=b"the daemon is stopping") for socket in self._open
        ]
        await asyncio.gather(*closing, return_exceptions=True)
