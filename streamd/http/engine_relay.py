"""Frames of the engine process for the readers of a worker. Knows no message but its type."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Collection
from typing import Any

from aiohttp import WSMsgType, web

from streamd.core.errors import UnavailableError
from streamd.http.forwarding import EngineForwarder
from streamd.http.message_types import read_message_type
from streamd.http.wire.codecs import Encoding, encode

RELAY_WAIT_SECONDS = 0.5
"""The wait before the engine process is asked again, after it was away."""

FORECASTS_PATH = "/v1/forecasts"
"""The WebSocket on which the engine process serves all subscriptions."""

_ENCODINGS = {WSMsgType.TEXT: Encoding.JSON, WSMsgType.BINARY: Encoding.MSGPACK}


class EngineRelay:
    """Subscribes at the engine process in the place of a reader, with its credentials."""

    def __init__(self, forwarder: EngineForwarder) -> None:
        self._forwarder = forwarder

    async def read_frames(
        self, request: web.Request, wanted: dict[str, Any], types: Collection[str], encoding: Encoding
    ) -> AsyncGenerator[bytes, None]:
        """Yield the frames of these types that the message `wanted` subscribes to, as they are.

        While the engine process is started again, the reader waits; then it is subscribed again.
        """
        message = encode(wanted, encoding)
        while True:
            # If the engine process refuses the caller, its token was revoked: then this worker ends the socket too.
            with contextlib.suppress(UnavailableError):
                async with self._forwarder.open_socket(request, FORECASTS_PATH) as socket:
                    if encoding is Encoding.JSON:
                        await socket.send_str(message.decode())
                    else:
                        await socket.send_bytes(message)
                    async for frame in socket:
                        if _ENCODINGS.get(frame.type) is encoding and read_message_type(frame.data, encoding) in types:
                            yield frame.data.encode() if isinstance(frame.data, str) else frame.data
            await asyncio.sleep(RELAY_WAIT_SECONDS)
