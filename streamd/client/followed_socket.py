"""A WebSocket that is subscribed to something, and that is subscribed again whenever its connection is lost.

Knows no frame but the answer to a subscription; the readers do.
"""

import asyncio
import math
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self, TypeVar

import aiohttp
import msgspec
from aiohttp import WSMsgType

from streamd.client.connection import DaemonConnection, close_socket
from streamd.client.errors import ClientError, DaemonUnreachableError, RefusedError
from streamd.client.retries import RetrySchedule

T = TypeVar("T")

SILENT_SECONDS = 75.0
"""The daemon pings every 30 seconds. After a longer silence this side asks, and after the same time again it gives the
connection up: the other machine may be gone."""


class SubscriptionAnswer(msgspec.Struct):
    """The answer to a subscription."""

    type: str = ""
    id: int | None = None
    step_seconds: float = 1.0
    code: str = ""
    message: str = ""


def decode_wire_message(decoder: msgspec.msgpack.Decoder[T], data: bytes) -> T:
    """Decode a message of the daemon. Raises `ClientError` for what is not one."""
    try:
        return decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ClientError(f"the daemon sent an unknown message: {error}") from error


class Returned(msgspec.Struct, frozen=True):
    """The connection was lost, and the subscription continues."""

    away_seconds: float
    attempts: int


class FollowedSocket:
    """One subscription over as many connections as it takes. One task reads it; a wait may be cancelled.

    `make_subscription` returns the message that subscribes; it is called for each connection, as is `take_answer` with
    the daemon's answer, which must have the type `answer_type`.
    """

    def __init__(
        self,
        connection: DaemonConnection,
        path: str,
        answer_type: str,
        make_subscription: Callable[[], dict[str, Any]],
        take_answer: Callable[[SubscriptionAnswer], None],
        *,
        reconnect_seconds: float = math.inf,
    ) -> None:
        self._connection = connection
        self._path = path
        self._answer_type = answer_type
        self._make_subscription = make_subscription
        self._take_answer = take_answer
        self._socket: aiohttp.ClientWebSocketResponse | None = None
        self._address = connection.address
        """The address of the newest attempt."""
        self._schedule = RetrySchedule(reconnect_seconds)
        self._lost_at: float | None = None
        self._attempts = 0
        self.is_closed = False

    async def open(self) -> None:
        """Subscribe for the first time. Raises `RefusedError` or `DaemonUnreachableError`."""
        schedule = RetrySchedule(self._connection.retry_seconds)
        while True:
            try:
                self._socket = await self._subscribe()
            except ClientError as error:
                await self._connection.wait_or_raise(schedule, error, self._address)
            else:
                return

    async def close(self) -> None:
        """End the subscription; a reader that waits ends too."""
        self.is_closed = True
        socket, self._socket = self._socket, None
        await close_socket(socket)

    async def receive(self) -> bytes | Returned | None:
        """Return the next frame, or that the subscription continues after a loss; `None` once it is closed.

        Raises `RefusedError` if the daemon refuses the repeated subscription, and `DaemonUnreachableError` if that
        takes longer than `reconnect_seconds`.
        """
        while not self.is_closed:
            if (socket := self._socket) is None:
                return await self._return()
            frame = await self._receive(socket)
            if frame is not None:
                self._schedule.reset()
                return frame
            if self._socket is socket:
                self._socket = None
                self._lost_at, self._attempts = time.monotonic(), 0
                await close_socket(socket)
        return None

    async def _receive(self, socket: aiohttp.ClientWebSocketResponse) -> bytes | None:
        """Return the next frame of a socket; `None` if its connection is lost."""
        is_asked = False
        try:
            while True:
                try:
                    message = await socket.receive(SILENT_SECONDS)
                except TimeoutError:
                    if is_asked:
                        return None
                    await socket.ping()
                    is_asked = True
                    continue
                if message.type is WSMsgType.PING:
                    await socket.pong(message.data)
                elif message.type is not WSMsgType.PONG:
                    return bytes(message.data) if message.type is WSMsgType.BINARY else None
                is_asked = False
        except (aiohttp.ClientError, OSError):
            return None

    async def _return(self) -> Returned | None:
        """Subscribe again, as long as the schedule permits."""
        while not self.is_closed:
            # A pause before the first attempt too: all readers of a daemon lose their connections at the same time.
            error: ClientError = DaemonUnreachableError("the connection is lost")
            try:
                if self._attempts:
                    self._socket = await self._subscribe()
            except ClientError as failure:
                error = failure
            if self._socket is not None:
                lost_at = time.monotonic() if self._lost_at is None else self._lost_at
                return Returned(time.monotonic() - lost_at, self._attempts)
            await self._connection.wait_or_raise(self._schedule, error, self._address)
            self._attempts += 1
        return None

    async def _subscribe(self) -> aiohttp.ClientWebSocketResponse:
        self._address = self._connection.address
        socket = await self._connection.open_socket(self._address, self._path, answers_pings=False)  # `_receive` does
        try:
            async with asyncio.timeout(self._connection.timeout_seconds):
                await socket.send_bytes(msgspec.msgpack.encode(self._make_subscription()))
                data = await self._receive(socket)
            if data is None:
                raise DaemonUnreachableError(f"{self._path}: the connection ended before the subscription was answered")
            answer = decode_wire_message(msgspec.msgpack.Decoder(SubscriptionAnswer), data)
            if answer.type == "error":
                raise RefusedError(f"{self._path}: {answer.code}: {answer.message}", code=answer.code)
            if answer.type != self._answer_type:
                raise ClientError(f"{self._path} answered {answer.type!r}, expected {self._answer_type!r}")
        except (aiohttp.ClientError, OSError) as error:
            await close_socket(socket)
            raise DaemonUnreachableError(f"{self._path}: {str(error) or 'no answer in time'}") from error
        except BaseException:
            await close_socket(socket)
            raise
        self._take_answer(answer)
        return socket


class SubscriptionReader:
    """An iterator over what one subscription brings: opened as a context manager, closed at its end."""

    def __init__(self, socket: FollowedSocket) -> None:
        self._socket = socket

    async def __aenter__(self) -> Self:
        await self._socket.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End the subscription; the iteration ends too."""
        await self._socket.close()

    def __aiter__(self) -> Self:
        return self
