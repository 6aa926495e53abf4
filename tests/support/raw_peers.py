"""Peers that speak over plain sockets, so that they may stop, flood or send half of anything."""

import asyncio
import contextlib
import socket
import struct

HEAD = "Host: localhost\r\n"

UPGRADE_HEAD = (
    f"{HEAD}Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)


def make_masked_frame(content: bytes, first: int = 0x81) -> bytes:
    """Make a frame that is masked with zeros; `first` is its first byte."""
    if len(content) < 126:
        size = bytes([0x80 | len(content)])
    elif len(content) < 2**16:
        size = b"\xfe" + struct.pack(">H", len(content))
    else:
        size = b"\xff" + struct.pack(">Q", len(content))
    return bytes([first]) + size + bytes(4) + content


class RawPeer:
    """One connection to a daemon, on a socket that does not block the loop."""

    def __init__(self) -> None:
        self.socket = socket.socket()
        self.socket.setblocking(False)

    async def connect(self, port: int) -> None:
        """Connect to a port of this machine."""
        await asyncio.get_running_loop().sock_connect(self.socket, ("127.0.0.1", port))

    async def open_websocket(self, port: int, path: str) -> None:
        """Connect and upgrade to a WebSocket."""
        await self.connect(port)
        await self.send(f"GET {path} HTTP/1.1\r\n{UPGRADE_HEAD}".encode())
        assert (await self.receive_until(b"\r\n\r\n")).startswith(b"HTTP/1.1 101")

    async def send(self, data: bytes) -> None:
        """Send all of it; waits as long as the daemon does not read."""
        await asyncio.get_running_loop().sock_sendall(self.socket, data)

    def send_what_fits(self, data: bytes) -> int:
        """Send as much as the kernel takes now; returns the number of bytes."""
        with contextlib.suppress(BlockingIOError):
            return self.socket.send(data)
        return 0

    async def receive_until(self, end: bytes) -> bytes:
        """Return what arrives up to these bytes; raises `AssertionError` if the daemon closes before."""
        data = b""
        while not data.endswith(end):
            more = await asyncio.get_running_loop().sock_recv(self.socket, 1)
            assert more, f"the daemon closed the connection after {data!r}"
            data += more
        return data

    async def receive_rest(self) -> bytes:
        """Return what arrives until the daemon closes the connection."""
        data = b""
        with contextlib.suppress(ConnectionResetError):
            while more := await asyncio.get_running_loop().sock_recv(self.socket, 2**16):
                data += more
        return data

    def close(self) -> None:
        """Close the socket."""
        self.socket.close()
