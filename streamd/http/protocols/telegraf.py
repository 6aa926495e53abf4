"""The routes for Telegraf's `outputs.http` and `outputs.websocket`: `POST /telegraf` and the WebSocket `GET /telegraf`.

Both take JSON and line protocol. From the source code of Telegraf 1.40.0:

- `outputs.http` repeats a batch after every answer but 2xx, for ever, and sends nothing else meanwhile (unless
  `non_retryable_statuscodes` is set). So bad metrics and a batch that is too large are answered with 200, with the
  errors in the body. Only a body without any metrics is answered with 400: then the sender is configured wrongly, and
  none of its bodies can be taken.
- `outputs.websocket` reads no answers. It closes a connection on which the server sends nothing for `read_timeout`
  (30 s); a ping is enough. To it, a batch is delivered once it is written to the socket.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Hashable, Iterator
from contextlib import asynccontextmanager

from aiohttp import WSMsgType, web

from streamd.core.access.caller import Caller
from streamd.core.errors import DrainingError, StorageError, StreamdError, TooLargeError, UnavailableError
from streamd.http.access.allowance import wait_for_allowance
from streamd.http.access.context import get_caller
from streamd.http.errors import make_error_message
from streamd.http.peers import PEER_LEFT_ERRORS
from streamd.http.protocols.commit_answers import answer_commit, answer_refusal, make_commit_message
from streamd.http.protocols.intake import Intake
from streamd.http.requests import find_owner
from streamd.http.sockets import Sockets
from streamd.http.wire.codecs import Encoding, encode
from streamd.protocols.telegraf import decode_telegraf
from streamd.runtime.aggregation.batch import CommitResult, PointBatch
from streamd.runtime.service import Service

_PROTOCOL = "telegraf"

PING_SECONDS = 10.0
"""The interval of pings on a WebSocket. aiohttp's own heartbeat does not work here: every received frame delays it."""

HOLD_SECONDS = 1.0
"""The time after which a frame is tried again that could not be taken."""

HOLD_TRIES = 30
"""The number of tries, after which a frame is lost. Meanwhile no further frame is read, so the sender's connection
fills up and the sender keeps its next batches."""


class TelegrafRoutes:
    """Handlers for Telegraf."""

    def __init__(
        self,
        service: Service,
        intake: Intake,
        sockets: Sockets,
        wall: Callable[[], float] = time.time,
        ping_seconds: float = PING_SECONDS,
        hold_seconds: float = HOLD_SECONDS,
    ) -> None:
        self._points = intake.points
        self._intake = intake
        self._sockets = sockets
        self._wall = wall
        self._ping_seconds = ping_seconds
        self._hold_seconds = hold_seconds

    def add_to(self, app: web.Application) -> None:
        """Add the routes."""
        app.router.add_post("/telegraf", self.post_metrics)
        app.router.add_get("/telegraf", self.open_metric_socket, allow_head=False)

    async def post_metrics(self, request: web.Request) -> web.Response:
        """Take one body; bad metrics in it are counted and named, and the good ones are taken."""
        try:
            return answer_commit(await self._intake.take_body(request, _PROTOCOL, self._decode))
        except StreamdError as error:
            answer = answer_refusal(error)
            if isinstance(error, TooLargeError) and request.headers.get("User-Agent", "").startswith("Telegraf/"):
                answer.set_status(200)
            return answer

    async def open_metric_socket(self, request: web.Request) -> web.StreamResponse:
        """Take frames, text or binary, one after the other; answer only frames with errors.

        The next frame is read when the previous one is taken, so a sender that is too fast has to wait.
        """
        try:
            async with self._sockets.accept_websocket(request) as socket, self._keep_alive(socket):
                await wait_for_allowance(request)  # or a limited sender would connect anew for each frame
                async for message in self._sockets.read_frames(request, socket):
                    if message.type not in (WSMsgType.TEXT, WSMsgType.BINARY):
                        break
                    data = message.data.encode() if message.type is WSMsgType.TEXT else message.data
                    answer = await self._take_frame(data, get_caller(request), find_owner(request))
                    # A sender that never reads must not make the send wait.
                    if answer is not None and self._sockets.has_read_all(socket):
                        await self._sockets.send(socket, answer, Encoding.JSON)
                    await wait_for_allowance(request)
                return socket
        except StreamdError as error:
            return answer_refusal(error)

    async def _take_frame(self, data: bytes, caller: Caller, sender: Hashable) -> bytes | None:
        """Take one frame; returns the answer to one with errors."""
        try:
            result = await self._take_or_hold(data, caller, sender)
        except StreamdError as error:
            return encode(make_error_message(error), Encoding.JSON)
        return encode(make_commit_message(result), Encoding.JSON) if result.rejected else None

    async def _take_or_hold(self, data: bytes, caller: Caller, sender: Hashable) -> CommitResult:
        """Take one frame as soon as it can be stored; its sender counts it as delivered and never sends it again."""
        for tries in range(1, HOLD_TRIES + 1):
            try:
                self._points.check_open()
                return await self._intake.take_bytes(data, _PROTOCOL, self._decode, caller, sender=sender)
            except UnavailableError as error:
                if isinstance(error, DrainingError) or tries == HOLD_TRIES:
                    if not isinstance(error, StorageError):  # `commit` counts a StorageError itself
                        self._points.count_refused(_PROTOCOL, error)
                    raise
            await asyncio.sleep(self._hold_seconds)
        raise AssertionError("the last try returns or raises")

    @asynccontextmanager
    async def _keep_alive(self, socket: web.WebSocketResponse) -> AsyncIterator[None]:
        """Send pings while the block runs."""
        pings = asyncio.create_task(self._send_pings(socket))
        try:
            yield
        finally:
            pings.cancel()
            await asyncio.gather(pings, return_exceptions=True)

    async def _send_pings(self, socket: web.WebSocketResponse) -> None:
        while True:
            await asyncio.sleep(self._ping_seconds)
            if self._sockets.has_read_all(socket):
                try:
                    await socket.ping()
                except PEER_LEFT_ERRORS:
                    return

    def _decode(self, body: bytes, batch: PointBatch) -> Iterator[None]:
        return decode_telegraf(body, batch, self._wall())
