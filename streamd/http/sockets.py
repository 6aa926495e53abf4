"""WebSockets and event streams, within limits of their number, of the size of a frame and of the time of a send.

Sends bytes; the routes decide which, and when.
"""

import asyncio
import socket as sockets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import cast

from aiohttp import WSCloseCode, WSMsgType, web

from streamd.core.access.caller import Caller
from streamd.core.errors import DrainingError, TooBusyError, UnauthorizedError
from streamd.http.access.context import get_caller
from streamd.http.access.credentials import SOCKET_PROTOCOL, require_socket_protocol
from streamd.http.access.upgrades import require_upgrade
from streamd.http.connections import WRITE_BUFFER_BYTES, Connection
from streamd.http.message_readers import BatchReader, FrameReader
from streamd.http.peer_turns import FrameSlices, PeerTurns
from streamd.http.peers import PEER_LEFT_ERRORS, has_peer_left
from streamd.http.requests import TransportLimits
from streamd.http.wire.codecs import Encoding
from streamd.runtime.background_tasks import BackgroundTasks
from streamd.runtime.pauses import Pauses

KEEP_ALIVE_SECONDS = 15.0
"""An event stream without events is sent a comment after this long."""

EVENT_STREAM_HEADERS = {
    "Content-Type": "text/event-stream",
    "Cache-Control": "no-store",
    # nginx would gather events in its buffers otherwise, and pass them on when one is full.
    "X-Accel-Buffering": "no",
}
"""The headers of each event stream."""

REVOKED_MESSAGE = b"the token was revoked, or has expired"
"""The reason in the closing frame, with the code 1008, of a socket whose token does not hold any more."""


class Sockets:
    """All open WebSockets and event streams; `close_all` closes the WebSockets when the daemon stops.

    A peer that does not read for `send_timeout_seconds` is dropped by the `ConnectionTable`.
    """

    def __init__(self, limits: TransportLimits, pauses: Pauses, turns: PeerTurns) -> None:
        self._limits = limits
        self._turns = turns
        self._pauses = pauses
        self._open: dict[web.StreamResponse, asyncio.Transport | None] = {}
        self._callers: dict[web.StreamResponse, Caller] = {}
        self._closing = BackgroundTasks()
        self.is_draining = False

    def __len__(self) -> int:
        return len(self._open)

    @asynccontextmanager
    async def accept_websocket(self, request: web.Request) -> AsyncIterator[web.WebSocketResponse]:
        """Upgrade a request to a WebSocket.

        Raises `TooBusyError`, `DrainingError` or `UnauthorizedError` before that, and `web.HTTPUpgradeRequired` if it
        requests none.
        """
        require_upgrade(request)
        require_socket_protocol(request)
        # A sender that its token holds back is not read, and neither are its pongs: then the kernel looks after it.
        is_held_back = get_caller(request).has_row_limit
        socket = web.WebSocketResponse(
            max_msg_size=self._limits.max_frame_bytes + 1,  # aiohttp refuses from this size on
            heartbeat=None if is_held_back else self._limits.heartbeat_seconds,
            compress=False,
            autoping=False,  # `read_frames` answers: aiohttp would answer all that are buffered in one go
            writer_limit=WRITE_BUFFER_BYTES,
            protocols=(SOCKET_PROTOCOL,),
        )
        if is_held_back:
            _probe_peer(request, self._limits.heartbeat_seconds)
        async with self._register(request, socket):
            get_connection(request).watch_queue(socket._reader)
            yield socket

    def read_frames(self, request: web.Request, socket: web.WebSocketResponse) -> FrameReader:
        """Return an iterator over the messages of a WebSocket, until it is closed."""
        return FrameReader(get_connection(request), socket, FrameSlices(self._turns), self.has_read_all)

    def read_batches(self, request: web.Request, socket: web.WebSocketResponse, most: int) -> BatchReader:
        """Return an iterator over the messages of a WebSocket in batches of at most so many, until it is closed."""
        return BatchReader(self.read_frames(request, socket), socket._reader, most)

    @asynccontextmanager
    async def open_event_stream(self, request: web.Request) -> AsyncIterator[web.StreamResponse]:
        """Answer a request with an event stream; raises `TooBusyError` or `DrainingError` before that."""
        response = web.StreamResponse(headers=EVENT_STREAM_HEADERS)
        async with self._register(request, response):
            _limit_silence(request, KEEP_ALIVE_SECONDS + self._limits.send_timeout_seconds)
            yield response

    @asynccontextmanager
    async def _register(self, request: web.Request, response: web.StreamResponse) -> AsyncIterator[None]:
        if self.is_draining:
            raise DrainingError("the daemon is stopping")
        if len(self) >= self._limits.max_sockets:
            raise TooBusyError(f"{self._limits.max_sockets} sockets are open already")
        caller = get_caller(request)
        if caller.is_revoked:
            raise UnauthorizedError(REVOKED_MESSAGE.decode())
        caller.usage.open_socket()
        # It counts before its head is sent, so that many that open at once do not exceed the limit.
        self._open[response] = request.transport
        self._callers[response] = caller
        try:
            await self._prepare(request, response)
            yield
        except PEER_LEFT_ERRORS as exc:
            self.drop_peer(response)
            raise ConnectionResetError(f"the peer left: {exc}") from exc
        finally:
            del self._open[response], self._callers[response]
            caller.usage.close_socket()

    async def _prepare(self, request: web.Request, response: web.StreamResponse) -> None:
        """Send the head; raises `ConnectionResetError` if the peer has left, whatever aiohttp raises for it."""
        try:
            await response.prepare(request)
        except Exception as exc:
            if has_peer_left(request):
                raise ConnectionResetError("the peer left before the stream began") from exc
            raise

    async def send(self, socket: web.WebSocketResponse, frame: bytes | memoryview, encoding: Encoding) -> None:
        """Send one frame; raises `ConnectionError` if the peer has left or does not read in time."""
        if encoding is Encoding.JSON:
            await socket.send_frame(bytes(frame), WSMsgType.TEXT)
        else:
            await socket.send_bytes(cast("bytes", frame))  # any buffer, whatever the annotation says

    async def send_frames(self, request: web.Request, socket: web.WebSocketResponse, frames: bytes) -> None:
        """Send whole frames (`wire/websocket_frames.py`) with one write; raises `ConnectionError` as `send` does."""
        if not self.write_frames(socket, frames):
            raise ConnectionResetError("the socket is closed")
        await self.wait_until_written(request)

    def write_frames(self, socket: web.WebSocketResponse, frames: bytes) -> bool:
        """Send whole frames without a wait; returns `False` if the socket is closed."""
        transport = self._open.get(socket)
        if transport is None or transport.is_closing() or socket.closed:
            return False
        transport.write(frames)
        return True

    async def wait_until_written(self, request: web.Request) -> None:
        """Wait until the peer has read so much that more may be sent; raises `ConnectionError` as `send` does."""
        connection = get_connection(request)
        if connection.writing_paused:
            await connection.wait_until_written()

    def has_read_all(self, socket: web.WebSocketResponse) -> bool:
        """Whether everything sent so far has left the write buffer, so that a send would not wait for the peer."""
        transport = self._open.get(socket)
        return transport is not None and transport.get_write_buffer_size() == 0

    async def send_event(self, response: web.StreamResponse, data: bytes) -> None:
        """Write to an event stream; raises `ConnectionError` if the peer has left or does not read in time."""
        await response.write(data)

    def drop_peer(self, response: web.StreamResponse) -> None:
        """Abort the connection of a peer that has left or does not read: a closing handshake would wait again."""
        transport = self._open.get(response)
        if transport is not None:
            transport.abort()

    def end_revoked(self) -> None:
        """End each socket, with the code 1008, and each event stream whose token does not hold any more."""
        for response in [each for each, caller in self._callers.items() if caller.is_revoked]:
            if isinstance(response, web.WebSocketResponse) and response.prepared:
                self._closing.start(self._close_revoked(response))
            elif (transport := self._open[response]) is not None:
                transport.close()

    async def _close_revoked(self, socket: web.WebSocketResponse) -> None:
        with suppress(TimeoutError, *PEER_LEFT_ERRORS):
            async with self._pauses.timeout(self._limits.send_timeout_seconds):
                await socket.close(code=WSCloseCode.POLICY_VIOLATION, message=REVOKED_MESSAGE)
        self.drop_peer(socket)  # also a peer that does not read, or sends no closing frame

    async def close_all(self) -> None:
        """Close every WebSocket with the code for going away; from then on each new one is refused."""
        self.is_draining = True
        sockets = [each for each in self._open if isinstance(each, web.WebSocketResponse)]
        closing = [socket.close(code=WSCloseCode.GOING_AWAY, message=b"the daemon is stopping") for socket in sockets]
        await asyncio.gather(*closing, return_exceptions=True)


def get_connection(request: web.Request) -> Connection:
    """Return the connection of a request."""
    assert isinstance(request.protocol, Connection), "the runner makes no other"
    return request.protocol


def _limit_silence(request: web.Request, seconds: float) -> None:
    """Let the kernel drop a peer that acknowledges nothing for this long, such as a machine without power."""
    option = getattr(sockets, "TCP_USER_TIMEOUT", None)  # only Linux has it
    connection = request.get_extra_info("socket")
    if option is not None and connection is not None and connection.family in (sockets.AF_INET, sockets.AF_INET6):
        connection.setsockopt(sockets.IPPROTO_TCP, option, int(seconds * 1e3))


def _probe_peer(request: web.Request, seconds: float) -> None:
    """Let the kernel probe a silent peer at this interval, and end the connection after three probes."""
    connection = request.get_extra_info("socket")
    if connection is not None and connection.family in (sockets.AF_INET, sockets.AF_INET6):
        connection.setsockopt(sockets.SOL_SOCKET, sockets.SO_KEEPALIVE, 1)
        for name, value in (("TCP_KEEPIDLE", seconds), ("TCP_KEEPINTVL", seconds), ("TCP_KEEPCNT", 3)):
            if (option := getattr(sockets, name, None)) is not None:
                connection.setsockopt(sockets.IPPROTO_TCP, option, max(int(value), 1))
