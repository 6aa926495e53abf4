"""A WebSocket for samples that stays open: frames in flight, their acks, and what was not acked is sent again.

At least once: a frame whose ack was lost with its connection is sent again. That is harmless, since a row that is sent
again amends itself.
"""

import asyncio
import itertools
import math
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import aiohttp
import msgspec
import numpy.typing as npt
from aiohttp import WSCloseCode, WSMsgType

from streamd.client.connection import DaemonConnection, close_socket
from streamd.client.errors import ClientError, DaemonUnreachableError, RefusedError
from streamd.client.followed_socket import decode_wire_message
from streamd.client.retries import RetrySchedule
from streamd.client.samples import ClientSample, PushResult, Rejection, make_columns_body, make_samples_body

DEFAULT_IN_FLIGHT = 32
"""Frames that are sent and not acked, by default."""

ACK_SECONDS = 300.0
"""The time in which an ack must come, else the connection is opened again. A token with a limit of rows may wait."""


@dataclass(frozen=True, eq=False)
class _Frame:
    number: int
    content: bytes
    acked: asyncio.Future[PushResult]


class _IngestAnswer(msgspec.Struct):
    """An ack or an error, which has no id."""

    type: str
    id: int | None = None
    accepted: int = 0
    rejected: int = 0
    errors: list[Rejection] = []
    code: str = ""
    message: str = ""


_DECODER = msgspec.msgpack.Decoder(_IngestAnswer)


class IngestSocket:
    """A sender of samples. Any number of tasks may use it; frames are sent in the order of the calls.

    `send_...` waits only until the frame may be in flight, `push_...` until it is acked.
    """

    def __init__(
        self,
        connection: DaemonConnection,
        *,
        max_in_flight: int = DEFAULT_IN_FLIGHT,
        reconnect_seconds: float = math.inf,
    ) -> None:
        self.reconnects = 0
        """How often the connection was lost and opened again."""
        self._connection = connection
        self._address = connection.address
        """The address of the newest attempt."""
        self._reconnect_seconds = reconnect_seconds
        self._places = asyncio.Semaphore(max_in_flight)
        self._numbers = itertools.count(1)
        self._in_flight: dict[int, _Frame] = {}
        """Frames without an answer, in their order."""
        self._all_answered = asyncio.Event()
        self._all_answered.set()
        self._unsent: deque[_Frame] = deque()
        self._news = asyncio.Event()
        self._running: asyncio.Task[None] | None = None
        self._failure: ClientError | None = None

    async def __aenter__(self) -> Self:
        """Connect. Raises `RefusedError` or `DaemonUnreachableError`."""
        socket = await self._connect(RetrySchedule(self._connection.retry_seconds))
        self._running = asyncio.create_task(self._run(socket))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait until all is acked, and close; after an exception, close at once. Raises what `wait_acked` does."""
        try:
            if error is None:
                await self.wait_acked()
        finally:
            await self._stop()

    # ------------------------------------------------------------ frames
    async def send_samples(self, samples: Iterable[ClientSample]) -> asyncio.Future[PushResult]:
        """Send samples; returns a future of their answer. Raises `ClientError` if the sender has failed.

        The future has the `RefusedError` of a frame that the daemon cannot read.
        """
        return await self._send(make_samples_body(samples))

    async def send_columns(
        self, servers: Sequence[str], times: float | Sequence[float], features: Sequence[str], values: npt.ArrayLike
    ) -> asyncio.Future[PushResult]:
        """Send one row for each of many servers, as `Client.push_columns`; returns a future, as `send_samples`."""
        return await self._send(make_columns_body(servers, times, features, values))

    async def push_samples(self, samples: Iterable[ClientSample]) -> PushResult:
        """Send samples and wait for their answer. A caller that stops waiting does not take them back."""
        return await asyncio.shield(await self.send_samples(samples))

    async def push_columns(
        self, servers: Sequence[str], times: float | Sequence[float], features: Sequence[str], values: npt.ArrayLike
    ) -> PushResult:
        """Send one row for each of many servers and wait for the answer."""
        return await asyncio.shield(await self.send_columns(servers, times, features, values))

    async def wait_acked(self) -> None:
        """Wait until each frame has its answer. Raises `ClientError` if the sender fails before."""
        await self._all_answered.wait()
        self._check()

    async def _send(self, body: dict[str, Any]) -> asyncio.Future[PushResult]:
        number = next(self._numbers)
        content = msgspec.msgpack.encode({**body, "id": number})
        self._check()
        await self._places.acquire()
        try:
            self._check()
        except ClientError:
            self._places.release()
            raise
        frame = _Frame(number, content, asyncio.get_running_loop().create_future())
        self._in_flight[number] = frame
        self._all_answered.clear()
        self._unsent.append(frame)
        self._news.set()
        return frame.acked

    def _check(self) -> None:
        if self._running is None:
            raise RuntimeError("the socket is closed; use it in `async with client.open_ingest() as ingest:`")
        if self._failure is not None:
            raise self._failure

    # ------------------------------------------------------------ the connection
    async def _run(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        schedule = RetrySchedule(self._reconnect_seconds)
        try:
            while True:
                error = await self._use(socket, schedule)
                await self._connection.wait_or_raise(schedule, error, self._address)
                socket = await self._connect(schedule)
                self.reconnects += 1
        except ClientError as failure:
            self._fail(failure)
        except Exception as defect:
            self._fail(ClientError(f"a defect of the client: {defect!r}"))
            raise

    async def _connect(self, schedule: RetrySchedule) -> aiohttp.ClientWebSocketResponse:
        while True:
            self._address = self._connection.address
            try:
                return await self._connection.open_socket(self._address, "/v1/ingest")
            except ClientError as error:
                await self._connection.wait_or_raise(schedule, error, self._address)

    async def _use(self, socket: aiohttp.ClientWebSocketResponse, schedule: RetrySchedule) -> ClientError:
        """Send and receive until the connection is lost; returns the reason, after which another may be opened."""
        self._unsent = deque(self._in_flight.values())
        self._news.set()
        writing = asyncio.create_task(self._write(socket))
        try:
            return await self._read(socket, schedule)
        finally:
            writing.cancel()
            with suppress(asyncio.CancelledError):
                await writing
            await close_socket(socket)

    async def _write(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        try:
            while True:
                while self._unsent:
                    await socket.send_bytes(self._unsent.popleft().content)
                self._news.clear()
                await self._news.wait()
        except (aiohttp.ClientError, OSError):
            return  # `_read` notices it too, and what was not acked is sent again

    async def _read(self, socket: aiohttp.ClientWebSocketResponse, schedule: RetrySchedule) -> ClientError:
        while True:
            awaited = next(iter(self._in_flight), None)
            try:
                message = await socket.receive(ACK_SECONDS)
            except TimeoutError:
                if awaited is None or awaited not in self._in_flight:
                    continue  # what is in flight was sent meanwhile
                return DaemonUnreachableError(f"no ack came in {ACK_SECONDS:g} s")
            if message.type is not WSMsgType.BINARY:
                break
            if (refusal := self._take_answer(message.data)) is not None:
                return refusal
            schedule.reset()
        if socket.close_code == WSCloseCode.MESSAGE_TOO_BIG:
            self._refuse_largest()
        return DaemonUnreachableError("the connection for samples was lost")

    def _take_answer(self, data: bytes) -> RefusedError | None:
        """Take an ack or an error; returns the error of a frame that may be sent again."""
        answer = decode_wire_message(_DECODER, data)
        if answer.type == "ack":
            frame = self._in_flight.get(-1 if answer.id is None else answer.id)
            if frame is not None:
                self._remove(frame)
                if not frame.acked.done():
                    frame.acked.set_result(PushResult(answer.accepted, answer.rejected, answer.errors))
            return None
        refusal = RefusedError(f"a frame of samples: {answer.code}: {answer.message}", code=answer.code)
        if not refusal.is_temporary and self._in_flight:
            # Frames are answered in their order, and an error names none.
            self._reject(next(iter(self._in_flight.values())), refusal)
            return None
        return refusal

    def _refuse_largest(self) -> None:
        """Reject the largest frame in flight, which must be one that is over the limit of the daemon."""
        sent = [frame for frame in self._in_flight.values() if frame not in self._unsent]
        if sent:
            largest = max(sent, key=lambda frame: len(frame.content))
            size = len(largest.content)
            message = f"a frame of {size} bytes is larger than max_frame_bytes of the daemon; send fewer rows in one"
            self._reject(largest, RefusedError(message, code="too_large"))

    def _reject(self, frame: _Frame, error: ClientError) -> None:
        self._remove(frame)
        if not frame.acked.done():
            frame.acked.set_exception(error)
            frame.acked.exception()  # a caller who does not await it gets no warning of the loop

    def _remove(self, frame: _Frame) -> None:
        del self._in_flight[frame.number]
        self._places.release()
        if not self._in_flight:
            self._all_answered.set()

    def _fail(self, error: ClientError) -> None:
        self._failure = error
        for frame in list(self._in_flight.values()):
            self._reject(frame, error)

    async def _stop(self) -> None:
        running, self._running = self._running, None
        if running is not None:
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running
        self._fail(self._failure or ClientError("the socket was closed before the frame was acked"))
