"""The ways to send a body of samples: a WebSocket or a POST, in JSON or MessagePack, and connections torn in mid-frame.

Raises `LinkLostError` if it is not known whether the daemon took the body, and `RefusedError` if it took none of it.
"""

import asyncio
import json
import os
import socket
import struct
from collections import Counter
from typing import Any

import aiohttp
import msgspec
import numpy as np
from aiohttp import WSMsgType

from streamd.tools.loadtest.links import CONNECT_SECONDS

ANSWER_SECONDS = 30.0
MSGPACK, JSON = "application/msgpack", "application/json"


class LinkLostError(Exception):
    """The connection ended, or the answer did not come."""


class RefusedError(Exception):
    """The daemon refused the whole body; `code` is the code of the error."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


class SampleLink:
    """Sends bodies of samples one after the other; connects when it must."""

    def __init__(
        self, url: str, headers: dict[str, str], *, is_socket: bool, content_type: str, one_by_one: bool = False
    ) -> None:
        self.content_type = content_type
        self.one_by_one = one_by_one
        """Whether a WebSocket gets a frame for each sample, all of a body before the first answer."""
        self.acked: Counter[str] = Counter()
        """By server: the frames of one sample that were acknowledged."""
        self.is_socket = is_socket
        self.headers = headers
        self._url = url
        self._session: aiohttp.ClientSession | None = None
        self._socket: aiohttp.ClientWebSocketResponse | None = None

    def encode(self, message: dict[str, Any]) -> bytes:
        """Encode a body."""
        return json.dumps(message).encode() if self.content_type == JSON else msgspec.msgpack.encode(message)

    def make_values(self, cells: list[list[float | None]]) -> Any:
        """Return the values of columns as a tensor, where the encoding has tensors; a missing one is NaN."""
        if self.content_type == JSON:
            return cells
        matrix = np.array(cells, "<f4").reshape(len(cells), -1)
        return {"shape": list(matrix.shape), "dtype": "float32", "data": matrix.tobytes()}

    async def exchange(self, payload: bytes) -> dict[str, Any]:
        """Send a body and return its answer; raises `LinkLostError` and `RefusedError`."""
        if self._session is None:
            self._session = aiohttp.ClientSession(headers=self.headers)
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                answer = await (self._exchange_frame if self.is_socket else self._exchange_body)(payload)
        except (aiohttp.ClientError, OSError, TimeoutError) as exc:
            await self.disconnect()
            raise LinkLostError(repr(exc)) from exc
        if answer.get("type") == "error":
            raise RefusedError(answer["code"], answer["message"])
        return answer

    async def disconnect(self) -> None:
        """Close the WebSocket, if there is one; the next exchange opens another."""
        if self._socket is not None:
            await self._socket.close()
            self._socket = None

    async def close(self) -> None:
        """Close everything."""
        await self.disconnect()
        if self._session is not None:
            await self._session.close()

    async def _exchange_frame(self, payload: bytes) -> dict[str, Any]:
        assert self._session is not None
        if self._socket is None:
            self._socket = await self._session.ws_connect(f"{self._url}/v1/ingest", max_msg_size=0)
        samples = self._decode(payload).get("samples") if self.one_by_one else None
        if samples is not None:
            return await self._exchange_singles(self._socket, samples)
        await self._send_frame(self._socket, payload)
        return await self._receive_answer(self._socket)

    async def _exchange_singles(
        self, socket: aiohttp.ClientWebSocketResponse, samples: list[dict[str, Any]]
    ) -> dict[str, Any]:
        """Send a frame for each sample; returns the answers as that to one body."""
        for index, sample in enumerate(samples):
            await self._send_frame(socket, self.encode({"id": index, "samples": [sample]}))
        accepted, errors = 0, []
        for index, sample in enumerate(samples):
            answer = await self._receive_answer(socket)
            if answer.get("id") != index:
                raise aiohttp.ClientPayloadError(f"the answer of frame {answer.get('id')}, expected that of {index}")
            if answer.get("accepted"):
                self.acked[sample["server"]] += 1
                accepted += 1
            else:
                error = answer if answer.get("type") == "error" else answer["errors"][0]
                errors.append({"index": index, "code": error["code"], "message": error["message"]})
        return {"accepted": accepted, "errors": errors}

    async def _send_frame(self, socket: aiohttp.ClientWebSocketResponse, payload: bytes) -> None:
        if self.content_type == JSON:
            await socket.send_str(payload.decode())
        else:
            await socket.send_bytes(payload)

    async def _receive_answer(self, socket: aiohttp.ClientWebSocketResponse) -> dict[str, Any]:
        message = await socket.receive()
        if message.type not in (WSMsgType.TEXT, WSMsgType.BINARY):
            raise aiohttp.ClientConnectionError(f"the socket ended with {message.type.name} {message.data}")
        return self._decode(message.data)

    async def _exchange_body(self, payload: bytes) -> dict[str, Any]:
        assert self._session is not None
        headers = {"Content-Type": self.content_type}
        async with self._session.post(f"{self._url}/v1/samples", data=payload, headers=headers) as response:
            return self._decode(await response.read())

    def _decode(self, data: bytes | str) -> dict[str, Any]:
        try:
            found = msgspec.json.decode(data) if self.content_type == JSON else msgspec.msgpack.decode(_as_bytes(data))
        except msgspec.DecodeError as exc:
            raise aiohttp.ClientPayloadError(f"not an answer: {data[:200]!r}") from exc
        assert isinstance(found, dict), found
        return found


def _as_bytes(data: bytes | str) -> bytes:
    return data if isinstance(data, bytes) else data.encode()


async def send_torn(port: int, link: SampleLink, payload: bytes, share: float) -> None:
    """Send the first `share` of a body on a connection of its own and reset it, without reading any answer."""
    head = _make_head(link, payload)
    sent = payload[: int(share * len(payload))]
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except (OSError, TimeoutError):
        return  # the daemon is down just now
    try:
        raw: socket.socket = writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # closing resets
        writer.write(head)
        if link.is_socket:
            async with asyncio.timeout(CONNECT_SECONDS):
                await reader.readuntil(b"\r\n\r\n")
            writer.write(_make_frame(payload, is_text=link.content_type == JSON)[: 14 + len(sent)])
        else:
            writer.write(sent)
        async with asyncio.timeout(CONNECT_SECONDS):
            await writer.drain()
    except (OSError, TimeoutError, asyncio.IncompleteReadError):
        pass
    finally:
        writer.transport.abort()


def _make_head(link: SampleLink, payload: bytes) -> bytes:
    more = "".join(f"{name}: {value}\r\n" for name, value in link.headers.items())
    if link.is_socket:
        key = "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
        head = f"GET /v1/ingest HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n{key}"
    else:
        head = f"POST /v1/samples HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {link.content_type}\r\n"
        head += f"Content-Length: {len(payload)}\r\n"
    return f"{head}{more}\r\n".encode()


def _make_frame(payload: bytes, *, is_text: bool) -> bytes:
    """Return a masked frame with a header of 14 bytes."""
    mask = os.urandom(4)
    repeated = (mask * (len(payload) // 4 + 1))[: len(payload)]
    masked = (int.from_bytes(payload, "big") ^ int.from_bytes(repeated, "big")).to_bytes(len(payload), "big")
    return bytes((0x81 if is_text else 0x82, 0xFF)) + struct.pack(">Q", len(payload)) + mask + masked
