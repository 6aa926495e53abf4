"""Pushes the frames of one subscription on a WebSocket, in a task of its own. Knows no message."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator

from aiohttp import web

from streamd.core.errors import StreamdError
from streamd.http.errors import make_error_message
from streamd.http.peers import PEER_LEFT_ERRORS
from streamd.http.sockets import Sockets
from streamd.http.wire.codecs import Encoding, encode


class FramePusher:
    """The task that sends what a source of frames yields."""

    def __init__(self, sockets: Sockets, socket: web.WebSocketResponse) -> None:
        self._sockets = sockets
        self._socket = socket
        self._task: asyncio.Task[None] | None = None

    async def start(self, answer: object, frames: AsyncGenerator[bytes, None], encoding: Encoding) -> None:
        """Send an answer and then frames, in place of the frames before."""
        await self.close()
        await self._sockets.send(self._socket, encode(answer, encoding), encoding)
        self._task = asyncio.create_task(self._push(frames, encoding))

    async def close(self) -> None:
        """End the frames; a second call does nothing."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    async def _push(self, frames: AsyncGenerator[bytes, None], encoding: Encoding) -> None:
        try:
            try:
                async with contextlib.aclosing(frames):
                    async for frame in frames:
                        await self._sockets.send(self._socket, frame, encoding)
            except StreamdError as error:
                await self._sockets.send(self._socket, encode(make_error_message(error), encoding), encoding)
        except PEER_LEFT_ERRORS:
            if not self._socket.closed:  # else the daemon is closing it, and its closing frame must go out
                self._sockets.drop_peer(self._socket)
