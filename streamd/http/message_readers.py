"""Reads the messages of a WebSocket, one by one or in batches, in slices that are fair to other connections."""

from collections.abc import Callable
from typing import Any

from aiohttp import WSMessage, WSMsgType, web

from streamd.http.connections import Connection
from streamd.http.peer_turns import FrameSlices
from streamd.http.turn_reader import SMALL_BYTES

CHECKED_MESSAGES = 8
"""After so many small messages, or one large, it is checked whether it is the turn of others: it takes 0.5 us."""

BATCHED_MESSAGES = 32
"""Small messages that are handled together, at most: 32 samples take 0.2 ms."""

BATCHED_BYTES = 2**14
"""After so many bytes, no other small message is added to a batch."""


class FrameReader:
    """Iterates over the messages of a WebSocket, in slices that are fair to other connections, and answers its pings.

    A large message counts as pending until the next one is requested. `has_read_all` returns whether the peer has read
    everything that was sent so far.
    """

    def __init__(
        self,
        connection: Connection,
        socket: web.WebSocketResponse,
        slices: FrameSlices,
        has_read_all: Callable[[web.WebSocketResponse], bool],
    ) -> None:
        self._has_read_all = has_read_all
        self._connection = connection
        self._socket = socket
        self._slices = slices
        self._unchecked = 0
        self._is_large = False

    def __aiter__(self) -> "FrameReader":
        return self

    async def __anext__(self) -> WSMessage:
        """Return the next message, neither ping nor pong; raises `StopAsyncIteration` at the end."""
        if self._is_large:
            self._is_large = False
            self._connection.release_message()
        while True:
            message = await self._socket.receive()
            kind, data = message.type, message.data
            is_data = kind is WSMsgType.TEXT or kind is WSMsgType.BINARY
            self._unchecked += 1
            if self._unchecked >= CHECKED_MESSAGES or (is_data and len(data) >= SMALL_BYTES):
                await self._check_turn(len(data) if is_data else 0)
            if is_data:
                return message
            if kind is WSMsgType.PING:
                # A peer that does not read gets no pong; a later one answers all pings before it.
                if self._has_read_all(self._socket):
                    await self._socket.pong(data)
            elif kind is not WSMsgType.PONG:
                raise StopAsyncIteration

    async def is_over(self) -> bool:
        """Whether the WebSocket was closed, after a message that took long and a wait if it is the turn of others."""
        try:
            await self._check_turn(0)
        except StopAsyncIteration:
            return True
        return self._socket.closed

    def note_read(self, messages: int) -> None:
        """Count small messages that were read beside this iterator."""
        self._unchecked += messages
        if self._connection.is_holding:
            self._connection.note_messages_read()

    async def _check_turn(self, size_bytes: int) -> None:
        """Wait if it is the turn of others. Raises `StopAsyncIteration` if the connection was dropped meanwhile."""
        connection = self._connection
        if connection.is_holding:
            connection.note_messages_read()
        if size_bytes >= SMALL_BYTES:
            self._is_large = True
            connection.hold_message(size_bytes)
        if self._slices.is_over(self._unchecked):
            await self._slices.wait()
        self._unchecked = 0
        if connection.is_dropped:
            raise StopAsyncIteration


class BatchReader:
    """Iterates over the messages of a WebSocket in batches: one message, or several small ones that are buffered.

    A batch is handled without a turn of the loop for each message. Pings, closing frames and large messages are read
    by the `FrameReader`, which also decides whose turn it is before each batch.
    """

    def __init__(self, frames: FrameReader, queue: Any, most: int) -> None:
        self.frames = frames
        self._queue = queue
        self._most = most

    def __aiter__(self) -> "BatchReader":
        return self

    async def __anext__(self) -> list[WSMessage]:
        """Return the next messages; raises `StopAsyncIteration` at the end."""
        messages = [await self.frames.__anext__()]
        size_bytes, buffer, read = len(messages[0].data), self._queue._buffer, self._queue.read
        while buffer and size_bytes < BATCHED_BYTES and len(messages) < self._most:
            kind, data, _ = buffer[0][0]
            if not (kind is WSMsgType.TEXT or kind is WSMsgType.BINARY) or len(data) >= SMALL_BYTES:
                break
            size_bytes += len(data)
            messages.append(await read())  # does not wait, since the buffer is not empty
        if len(messages) > 1:
            self.frames.note_read(len(messages) - 1)
        return messages
