"""Connections to the daemon's ingest routes, WebSocket or HTTP, behind one interface. Moves bytes, judges nothing."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Protocol

import aiohttp
import msgspec

from streamd.tools.loadtest.errors import LinkLostError
from streamd.tools.loadtest.wire import REPLY_DECODERS, ClientEncoding, IngestReply

CONNECT_SECONDS = 5.0
CLOSE_SECONDS = 2.0
TOO_BUSY = 429
SERVER_ERRORS = 500
UNAVAILABLE = 503
BUSY = "busy"
"""A reply type that the wire does not have: the daemon was too busy, and the link will try again by itself."""


class Link(Protocol):
    """A connection. It calls `on_reply` with each reply, and with `None` once the connection is lost."""

    async def open(self) -> None:
        """Connect, or connect again. Raises `LinkLostError`."""

    async def send(self, payload: bytes, identity: int) -> None:
        """Send one frame. Raises `LinkLostError`."""

    async def close(self) -> None:
        """Close the connection; a no-op if it is closed."""


OnReply = Callable[[IngestReply | None], None]
"""Called with each reply, and with `None` once the connection is lost."""


class WebSocketLink:
    """`GET /v1/ingest`: frames are sent one after another, and acks arrive later."""

    def __init__(
        self, session: aiohttp.ClientSession, base_url: str, encoding: ClientEncoding, on_reply: OnReply
    ) -> None:
        self._session = session
        self._url = f"{base_url}/v1/ingest"
        self._encoding = encoding
        self._on_reply = on_reply
        self._socket: aiohttp.ClientWebSocketResponse | None = None
        self._reading: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Connect, as `Link.open`."""
        await self.close()
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                self._socket = await self._session.ws_connect(self._url, max_msg_size=0, autoping=True)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise LinkLostError(f"{self._url}: {str(error) or 'no answer'}") from error
        self._reading = asyncio.create_task(self._read(self._socket))

    async def send(self, payload: bytes, identity: int) -> None:
        """Send one frame, as `Link.send`."""
        socket = self._socket
        if socket is None or socket.closed:
            raise LinkLostError(f"{self._url}: closed by the daemon")
        try:
            if self._encoding is ClientEncoding.JSON:
                await socket.send_frame(payload, aiohttp.WSMsgType.TEXT)
            else:
                await socket.send_frame(payload, aiohttp.WSMsgType.BINARY)
        except (aiohttp.ClientError, OSError, RuntimeError) as error:
            raise LinkLostError(f"{self._url}: {error}") from error

    async def close(self) -> None:
        """Close the connection, as `Link.close`."""
        if self._reading is not None:
            self._reading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._reading
            self._reading = None
        if self._socket is not None:
            with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError):
                async with asyncio.timeout(CLOSE_SECONDS):
                    await self._socket.close()
            self._socket = None

    async def _read(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        async for message in socket:
            if message.type in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY):
                encoding = ClientEncoding.JSON if message.type is aiohttp.WSMsgType.TEXT else ClientEncoding.MSGPACK
                try:
                    self._on_reply(REPLY_DECODERS[encoding](message.data))
                except msgspec.MsgspecError:
                    self._on_reply(IngestReply(type="malformed"))
        self._on_reply(None)


class HttpLink:
    """`POST /v1/samples` over one kept-alive connection: each request is answered before the next is sent."""

    def __init__(
        self, session: aiohttp.ClientSession, base_url: str, encoding: ClientEncoding, on_reply: OnReply
    ) -> None:
        self._session = session
        self._url = f"{base_url}/v1/samples"
        self._headers = {"Content-Type": encoding.content_type, "Accept": encoding.content_type}
        self._on_reply = on_reply

    async def open(self) -> None:
        """Do nothing: the session connects with the first request, and again if it must."""

    async def send(self, payload: bytes, identity: int) -> None:
        """Send one frame, and return once it is answered, after as many attempts as it takes."""
        while True:
            reply = await self._post(payload)
            reply.id = identity
            if reply.retry_after is None:
                self._on_reply(reply)
                return
            # The retry is here, because later frames of this connection must not overtake this one.
            self._on_reply(IngestReply(type=BUSY, id=identity))
            await asyncio.sleep(reply.retry_after)

    async def _post(self, payload: bytes) -> IngestReply:
        try:
            async with self._session.post(self._url, data=payload, headers=self._headers) as response:
                body = await response.read()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise LinkLostError(f"{self._url}: {str(error) or 'no answer'}") from error
        if response.status >= SERVER_ERRORS and response.status != UNAVAILABLE:
            raise LinkLostError(f"{self._url}: HTTP {response.status}")
        return _decode_http_reply(response, body)

    async def close(self) -> None:
        """Do nothing: the session owns the connection."""


def _decode_http_reply(response: aiohttp.ClientResponse, body: bytes) -> IngestReply:
    packed = response.content_type.endswith("msgpack")
    try:
        reply = REPLY_DECODERS[ClientEncoding.MSGPACK if packed else ClientEncoding.JSON](body)
    except msgspec.MsgspecError:
        reply = IngestReply()
    if response.status != 200:
        reply.code = reply.code or f"http_{response.status}"
    if response.status in (TOO_BUSY, UNAVAILABLE):
        try:
            reply.retry_after = float(response.headers.get("Retry-After", "1"))
        except ValueError:
            reply.retry_after = 1.0  # An HTTP date: retrying after a second is close enough.
    return reply
