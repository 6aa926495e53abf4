"""A reader that reads almost nothing until it is asked to, and a model whose forecasts fill any buffer."""

import asyncio
import json
import socket
import struct
from collections.abc import Sequence

from streamd.core.contract import ModelContract
from tests.support.http_harness import NEED, Message

BIG = ModelContract(("a", "b"), ("a", "b"), (0.1, 0.5, 0.9), context_length=NEED, horizon=500, step_seconds=60)


class StalledReader:
    """A hand-written WebSocket client on a socket that buffers almost nothing before it is read."""

    def __init__(self) -> None:
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        self._socket.setblocking(False)
        self._data = b""

    async def connect(self, port: int, path: str) -> None:
        loop = asyncio.get_running_loop()
        await loop.sock_connect(self._socket, ("127.0.0.1", port))
        head = (
            f"GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        )
        await loop.sock_sendall(self._socket, head.encode())
        while b"\r\n\r\n" not in self._data:
            self._data += await loop.sock_recv(self._socket, 1_024)
        head_bytes, _, self._data = self._data.partition(b"\r\n\r\n")
        assert head_bytes.startswith((b"HTTP/1.1 101", b"HTTP/1.1 200"))

    async def send(self, texts: Sequence[bytes]) -> None:
        """Send text frames, masked with zeros."""
        frames = b""
        for text in texts:
            size = bytes([0x80 | len(text)]) if len(text) < 126 else b"\xfe" + struct.pack(">H", len(text))
            frames += b"\x81" + size + bytes(4) + text
        await asyncio.get_running_loop().sock_sendall(self._socket, frames)

    async def receive(self) -> Message:
        """Return the next message; frames of a server are never masked."""
        size = (await self._read_exactly(2))[1] & 0x7F
        if size == 126:
            (size,) = struct.unpack(">H", await self._read_exactly(2))
        elif size == 127:
            (size,) = struct.unpack(">Q", await self._read_exactly(8))
        message = json.loads(await self._read_exactly(size))
        assert isinstance(message, dict)
        return message

    async def _read_exactly(self, count: int) -> bytes:
        while len(self._data) < count:
            more = await asyncio.get_running_loop().sock_recv(self._socket, 65_536)
            assert more, "the daemon closed the connection"
            self._data += more
        taken, self._data = self._data[:count], self._data[count:]
        return taken

    def close(self) -> None:
        self._socket.close()
