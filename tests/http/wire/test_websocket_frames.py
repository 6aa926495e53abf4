"""Tests `streamd/http/wire/websocket_frames.py`: aiohttp's client reads the same messages back."""

import asyncio
from unittest.mock import Mock

import pytest
from aiohttp import WSMsgType
from aiohttp._websocket.reader import WebSocketDataQueue, WebSocketReader

from streamd.http.wire.codecs import Encoding
from streamd.http.wire.websocket_frames import frame_message

SIZES = [0, 1, 125, 126, 127, 65_535, 65_536, 70_000]


@pytest.mark.parametrize("size", SIZES)
async def test_a_message_of_any_size_is_read_back(size: int) -> None:
    text, binary = b"x" * size, bytes(range(256)) * (size // 256) + b"\xff" * (size % 256)
    frames = frame_message(text, Encoding.JSON) + frame_message(binary, Encoding.MSGPACK)
    assert await read_messages(frames, 2) == [(WSMsgType.TEXT, text.decode()), (WSMsgType.BINARY, binary)]


async def read_messages(frames: bytes, count: int) -> list[tuple[WSMsgType, str | bytes]]:
    queue = WebSocketDataQueue(Mock(_reading_paused=False), 2**20, loop=asyncio.get_running_loop())
    reader = WebSocketReader(queue, 2**20, compress=False, decode_text=True)
    assert reader.feed_data(frames) == (False, b"")
    messages = [await queue.read() for _ in range(count)]
    assert not queue._buffer
    return [(message.type, message.data) for message in messages]
