"""A consumer of NATS, by which a reader gets messages in batches.

It is only a cursor, which lives in the memory of one server, and may leave out messages: the reader checks.
"""

import asyncio
import json
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import msgspec
import structlog

from streamd.cluster.log import LogAwayError, LogMessage
from streamd.cluster.nats.api import JetStreamApi

if TYPE_CHECKING:
    from nats.aio.msg import Msg

log = structlog.get_logger(__name__)

_BATCH = 500
"""The most messages of one request to a consumer."""

_BATCH_BYTES = 4 * 2**20
"""Their most bytes, so that heartbeats of other nodes do not wait long behind them."""

_HEARTBEAT_SECONDS, _MAX_HEARTBEAT_SECONDS = 0.5, 4.0
"""The interval at which a consumer that has nothing to send gives a sign: the shortest one, and the longest one, which
is less than half of `_EXPIRY_SECONDS`, as NATS wants it."""

_HEARTBEATS_A_SECOND = 128
"""The most of them over one connection, by a longer interval: those of a thousand consumers would take a core, and on a
host without that much, all seem silent and are made anew."""

_MISSED_HEARTBEATS = 3
"""A consumer without a sign for so many intervals is replaced."""

_EXPIRY_SECONDS = 10.0
_INACTIVE_SECONDS = 20.0

_HEARTBEAT, _NO_MESSAGES, _EXPIRED, _CONFLICT = "100", "404", "408", "409"


class _Consumer(msgspec.Struct):
    name: str


class NatsConsumer:
    """The messages of one subject of a stream after a sequence; `begin` first, `close` at the end."""

    def __init__(self, api: JetStreamApi, stream: str, subject: str) -> None:
        self.is_idle = False
        """Whether it said with the newest batch, which is empty, that it has nothing to send."""
        self.has_expired = False
        """Whether it had nothing to send for a whole request."""
        self._api = api
        self._connection = api.connection
        self._stream = stream
        self._subject = subject
        self._name = ""
        self._inbox = ""
        self._requested = 0
        self._heartbeat_seconds = _HEARTBEAT_SECONDS
        self._is_lost = False
        self._arrived: deque[Msg] = deque()
        self._wake = asyncio.Event()
        self._unsubscribe: Callable[[], Awaitable[None]] | None = None

    async def begin(self, after: int, seconds: float) -> None:
        """Make it, in this time at most; raises `LogAwayError`."""
        self._api.consumers += 1
        self._inbox = self._connection.make_inbox()
        self._unsubscribe = await self._connection.subscribe(self._inbox, self._take, self._lose)
        config = {
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": after + 1,
            "ack_policy": "none",
            "replay_policy": "instant",
            "filter_subject": self._subject,
            "mem_storage": True,
            "num_replicas": 1,
            "inactive_threshold": int(_INACTIVE_SECONDS * 1e9),
        }
        request = json.dumps({"stream_name": self._stream, "config": config}).encode()
        verb = f"CONSUMER.CREATE.{self._stream}"
        self._name = (await self._api.call(verb, request, _Consumer, self._stream, seconds)).name

    async def read(self, after: int) -> list[LogMessage]:
        """Return what has arrived behind a sequence; may be empty. Raises `LogAwayError` if the consumer is lost."""
        if not self._requested:
            await self._request()
        self._wake.clear()
        if not self._arrived and not self._is_lost:
            try:
                async with asyncio.timeout(_MISSED_HEARTBEATS * self._heartbeat_seconds):
                    await self._wake.wait()
            except TimeoutError:
                raise LogAwayError("the consumer is silent") from None
        if self._is_lost:
            raise LogAwayError("the connection to NATS was lost")
        batch: list[LogMessage] = []
        self.is_idle = self.has_expired = False
        while self._arrived:
            message = self._arrived.popleft()
            if message.headers is not None and not message.data and "Status" in message.headers:
                self._note_status(message.headers)
            elif (taken := self._take_message(message, batch[-1].sequence if batch else after)) is not None:
                batch.append(taken)
        return batch

    def _take_message(self, message: "Msg", after: int) -> LogMessage | None:
        self._requested = max(self._requested - 1, 0)
        # $JS.ACK.[domain.account.]stream.consumer.deliveries.sequence.order.time.pending
        fields = message.reply.split(".")
        at = 5 if len(fields) < 11 else 7
        sequence, nanoseconds = int(fields[at]), int(fields[at + 2])
        if sequence <= after:
            return None
        return LogMessage(message.subject, message.data, sequence, nanoseconds / 1e9, message.headers or {})

    def _note_status(self, headers: dict[str, str]) -> None:
        status, words = headers["Status"], headers.get("Description", "")
        if status == _HEARTBEAT:
            self.is_idle = True
        elif status in (_NO_MESSAGES, _EXPIRED):
            self._requested = 0
            self.is_idle = self.has_expired = True
        elif status == _CONFLICT and "MaxBytes" in words:
            self._requested = 0
        else:
            raise LogAwayError(f"the consumer answers {status} {words}")

    async def _request(self) -> None:
        self._heartbeat_seconds = choose_heartbeat_seconds(self._api.consumers)
        request = {
            "batch": _BATCH,
            "max_bytes": max(_BATCH_BYTES, 2 * self._connection.max_message_bytes),
            "expires": int(_EXPIRY_SECONDS * 1e9),
            "idle_heartbeat": int(self._heartbeat_seconds * 1e9),
        }
        subject = f"{self._api.prefix}.CONSUMER.MSG.NEXT.{self._stream}.{self._name}"
        self._requested = _BATCH
        await self._connection.publish(subject, json.dumps(request).encode(), reply=self._inbox)

    async def _take(self, message: "Msg") -> None:
        self._arrived.append(message)
        self._wake.set()

    def _lose(self) -> None:
        self._is_lost = True
        self._wake.set()

    async def close(self) -> None:
        """Remove it."""
        self._api.consumers -= bool(self._inbox)
        self._inbox = ""
        unsubscribe, self._unsubscribe = self._unsubscribe, None
        name, self._name = self._name, ""
        if unsubscribe is not None:
            await unsubscribe()
        if name and self._connection.is_connected:
            try:
                await self._connection.publish(f"{self._api.prefix}.CONSUMER.DELETE.{self._stream}.{name}", b"")
            except LogAwayError as exc:  # it ends by itself when it is idle
                log.debug("log_consumer_left", stream=self._stream, reason=str(exc))


def choose_heartbeat_seconds(consumers: int) -> float:
    """Return the interval of the signs of a consumer, given how many are open over its connection."""
    return min(max(_HEARTBEAT_SECONDS, consumers / _HEARTBEATS_A_SECOND), _MAX_HEARTBEAT_SECONDS)
