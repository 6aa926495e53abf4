"""WebSockets and event streams, within limits of their number, of the size of a frame and of the time of a send.

Sends bytes; the routes decide which, and when.
"""

import asyncio
import socket as sockets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import WSCloseCode, WSMsgType, web

from streamd.core.errors import DrainingError, TooBusyError
from streamd.http.peers import PEER_LEFT_ERRORS, has_peer_left
from streamd.http.requests import TransportLimits
from streamd.http.wire.codecs import Encoding
from streamd.runtime.pauses import Pauses

KEEP_ALIVE_SECONDS = 15.0
"""An event stream without events is sent a comment after this long."""


class Sockets:
    """All open WebSockets and event streams; `close_all` closes the WebSockets when the daemon stops.

    A peer that keeps a send waiting for `send_timeout_seconds` is dropped. One timer watches all sends: a timer for
    each frame would cost more than the frame.
    """

    def __init__(self, limits: TransportLimits, pauses: Pauses) -> None:
        self._limits = limits
        self._pauses = pauses
        self._open: dict[web.StreamResponse, asyncio.Transport | None] = {}
        self._sending: dict[web.StreamResponse, float] = {}
        """The sends that are waiting, by when they began (monotonic seconds)."""
        self._watch: asyncio.TimerHandle | None = None
        self.is_draining = False

    def __len__(self) -> int:
        return len(self._open)

    @asynccontextmanager
    async def accept_websocket(self, request: web.Request) -> AsyncIterator[web.WebSocketResponse]:
        """Upgrade a request to a WebSocket; raises `TooBusyError` or `DrainingError` before that."""
        socket = web.WebSocketResponse(
            max_msg_size=self._limits.max_frame_bytes + 1,  # aiohttp refuses from this size on
            heartbeat=self._limits.heartbeat_seconds,
            compress=False,
        )
        async with self._register(request, socket):
            yield socket

    @asynccontextmanager
    async def open_event_stream(self, request: web.Request) -> AsyncIterator[web.StreamResponse]:
        """Answer a request with an event stream; raises `TooBusyError` or `DrainingError` before that."""
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
        async with self._register(request, response):
            _limit_silence(request, KEEP_ALIVE_SECONDS + self._limits.send_timeout_seconds)
            yield response

    @asynccontextmanager
    async def _register(self, request: web.Request, response: web.StreamResponse) -> AsyncIterator[None]:
        if self.is_draining:
            raise DrainingError("the daemon is stopping")
        if len(self) >= self._limits.max_sockets:
            raise TooBusyError(f"{self._limits.max_sockets} sockets are open already")
        # It counts before its head is sent, so that many that open at once do not exceed the limit.
        self._open[response] = request.transport
        try:
            await self._prepare(request, response)
            yield
        except PEER_LEFT_ERRORS as exc:
            self.drop_peer(response)
            raise ConnectionResetError(f"the peer left: {exc}") from exc
        finally:
            del self._open[response]

    async def _prepare(self, request: web.Request, response: web.StreamResponse) -> None:
        """Send the head; raises `ConnectionResetError` if the peer has left, whatever aiohttp raises for it."""
        try:
            await response.prepare(request)
        except Exception as exc:
            if has_peer_left(request):
                raise ConnectionResetError("the peer left before the stream began") from exc
            raise

    async def send(self, socket: web.WebSocketResponse, frame: bytes, encoding: Encoding) -> None:
        """Send one frame; raises `ConnectionError` if the peer has left or does not read in time."""
        self._note_send(socket)
        try:
            if encoding is Encoding.JSON:
                await socket.send_frame(frame, WSMsgType.TEXT)
            else:
                await socket.send_bytes(frame)
        finally:
            self._sending.pop(socket, None)

    def has_read_all(self, socket: web.WebSocketResponse) -> bool:
        """Whether everything sent so far has left the write buffer, so that a send would not wait for the peer."""
        transport = self._open.get(socket)
        return transport is not None and transport.get_write_buffer_size() == 0

    async def send_event(self, response: web.StreamResponse, data: bytes) -> None:
        """Write to an event stream; raises `ConnectionError` if the peer has left or does not read in time."""
        self._note_send(response)
        try:
            await response.write(data)
        finally:
            self._sending.pop(response, None)

    def _note_send(self, response: web.StreamResponse) -> None:
        self._sending[response] = self._pauses.clock()
        if self._watch is None:
            self._watch = asyncio.get_running_loop().call_later(self._limits.send_timeout_seconds, self._drop_stalled)

    def _drop_stalled(self) -> None:
        """Drop each peer that has kept a send waiting for the whole limit; check again later if other sends wait."""
        self._watch = None
        limit = self._limits.send_timeout_seconds
        for response, since in list(self._sending.items()):
            if self._pauses.count_running_seconds(since) >= limit:
                self.drop_peer(response)
                del self._sending[response]
        if self._sending:
            remaining = limit - max(map(self._pauses.count_running_seconds, self._sending.values()))
            self._watch = asyncio.get_running_loop().call_later(max(remaining, 0.001), self._drop_stalled)

    def drop_peer(self, response: web.StreamResponse) -> None:
        """Abort the connection of a peer that has left or does not read: a closing handshake would wait again."""
        transport = self._open.get(response)
        if transport is not None:
            transport.abort()

    async def close_all(self) -> None:
        """Close every WebSocket with the code for going away; from then on each new one is refused."""
        self.is_draining = True
        sockets = [each for each in self._open if isinstance(each, web.WebSocketResponse)]
        closing = [socket.close(code=WSCloseCode.GOING_AWAY, message=b"the daemon is stopping") for socket in sockets]
        await asyncio.gather(*closing, return_exceptions=True)
        if self._watch is not None:
            self._watch.cancel()


def _limit_silence(request: web.Request, seconds: float) -> None:
    """Let the kernel drop a peer that acknowledges nothing for this long, such as a machine without power."""
    option = getattr(sockets, "TCP_USER_TIMEOUT", None)  # only Linux has it
    connection = request.get_extra_info("socket")
    if option is not None and connection is not None and connection.family in (sockets.AF_INET, sockets.AF_INET6):
        connection.setsockopt(sockets.IPPROTO_TCP, option, int(seconds * 1e3))
