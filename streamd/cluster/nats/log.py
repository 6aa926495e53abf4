"""The log of a cluster over NATS JetStream; its siblings have the parts."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import TYPE_CHECKING

import structlog

from streamd.cluster.log import (
    Appended,
    LogAwayError,
    LogMessage,
    NoAnswerError,
    StreamPlan,
    StreamState,
    Unsubscribe,
)
from streamd.cluster.nats.api import JetStreamApi
from streamd.cluster.nats.connection import NatsConnection
from streamd.cluster.nats.reader import NatsReader, ReadCounts
from streamd.cluster.nats.settings import NatsSettings
from streamd.cluster.nats.streams import make_bucket_config, make_stream, make_stream_config
from streamd.cluster.nats.table import NatsTable

if TYPE_CHECKING:
    from nats.aio.msg import Msg

log = structlog.get_logger(__name__)

_ERROR = "Streamd-Error"
"""The header of an answer that failed, with the reason."""

_MAX_REASON = 500


class NatsLog:
    """The log over one connection, which is made again when it is lost; `start` first, `close` at the end."""

    def __init__(self, settings: NatsSettings, *, replicas: int = 3) -> None:
        self._connection = NatsConnection(settings)
        self._api = JetStreamApi(self._connection)
        self._replicas = replicas
        self._read_counts = ReadCounts()
        self._tables: dict[str, NatsTable] = {}
        self._answering: set[asyncio.Task[None]] = set()

    async def start(self, wait_seconds: float = 5.0) -> None:
        """Connect, and wait a while for it; without a connection it goes on in the background."""
        self._connection.start()
        try:
            async with asyncio.timeout(wait_seconds):
                await self._connection.wait_connected()
        except TimeoutError:
            log.warning("nats_away_at_start", waited_seconds=wait_seconds)

    async def close(self) -> None:
        """Close the connection."""
        for table in self._tables.values():
            await table.close()
        for task in list(self._answering):
            task.cancel()
        await asyncio.gather(*self._answering, return_exceptions=True)
        await self._connection.close()

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection."""
        return self._connection.is_connected

    @property
    def max_message_bytes(self) -> int:
        """The longest message that the servers take."""
        return self._connection.max_message_bytes

    @property
    def away_since(self) -> float | None:
        """The monotonic second since which there is no connection."""
        return self._connection.away_since

    @property
    def problem(self) -> str:
        """The reason that there is no connection; empty while there is one."""
        return self._connection.problem

    @property
    def fetched(self) -> int:
        """Messages that consumers left out, and that were read by their sequence."""
        return self._read_counts.fetched

    async def append(
        self,
        subject: str,
        data: bytes,
        *,
        message_id: str | None = None,
        expected_last: int | None = None,
        rolls_up: bool = False,
        headers: Mapping[str, str] | None = None,
        timeout_seconds: float = 2.0,
    ) -> Appended:
        """Append a message; one attempt. Raises as `Log.append`."""
        stated = dict(headers or {})
        if message_id is not None:
            stated["Nats-Msg-Id"] = message_id
        if expected_last is not None:
            stated["Nats-Expected-Last-Sequence"] = str(expected_last)
        if rolls_up:
            stated["Nats-Rollup"] = "sub"
        return await self._api.append(subject, data, stated, timeout_seconds)

    def read(
        self, stream: str, subject: str, *, after: int = 0, until_end: bool = False, allow_gaps: bool = False
    ) -> AsyncGenerator[list[LogMessage]]:
        """Yield the messages of a subject after a sequence; raises `LogGapError`."""
        reader = NatsReader(
            self._api,
            stream,
            subject,
            after=after,
            until_end=until_end,
            allow_gaps=allow_gaps,
            counts=self._read_counts,
        )
        return reader.read_batches()

    async def read_state(self, stream: str) -> StreamState:
        """Return what a stream holds; raises `LogAwayError`."""
        return await self._api.read_state(stream)

    async def read_last(self, stream: str, subject: str) -> LogMessage | None:
        """Return the last message of a subject; raises `LogAwayError`."""
        return await self._api.read_last(stream, subject)

    async def purge(self, stream: str, subject: str, *, below: int) -> None:
        """Remove the messages of a subject below a sequence; raises `LogAwayError`."""
        if below > 1:  # 0 would mean all
            await self._api.purge(stream, subject, below)

    async def publish(self, subject: str, data: bytes, headers: Mapping[str, str] | None = None) -> None:
        """Publish a message that may be lost."""
        try:
            await self._connection.publish(subject, data, headers=headers)
        except LogAwayError as exc:
            log.debug("message_not_published", subject=subject, reason=str(exc))

    async def subscribe(self, subject: str, handle: Callable[[LogMessage], None]) -> Unsubscribe:
        """Call `handle` with each message of a subject from now on."""

        async def take(message: "Msg") -> None:
            try:
                handle(_to_log_message(message))
            except Exception:
                log.exception("message_handler_failed", subject=message.subject)

        return await self._connection.subscribe(subject, take)

    async def request(self, subject: str, data: bytes, *, timeout_seconds: float) -> bytes:
        """Return the answer to a request; raises `NoAnswerError`, `LogAwayError`."""
        try:
            answer = await self._connection.request(subject, data, timeout_seconds=timeout_seconds)
        except LogAwayError as exc:
            if self.is_connected:
                raise NoAnswerError(str(exc)) from exc
            raise
        headers = answer.headers or {}
        if _ERROR in headers:
            raise NoAnswerError(f"{subject}: {headers[_ERROR]}")
        if not answer.data and headers.get("Status") == "503":
            raise NoAnswerError(f"{subject}: no node answers there")
        return answer.data

    async def serve(self, subject: str, answer: Callable[[bytes], Awaitable[bytes]]) -> Unsubscribe:
        """Answer the requests of a subject, each in a task of its own."""

        async def take(message: "Msg") -> None:
            task = asyncio.get_running_loop().create_task(self._answer(message, answer))
            self._answering.add(task)
            task.add_done_callback(self._answering.discard)

        return await self._connection.subscribe(subject, take)

    def table(self, bucket: str) -> NatsTable:
        """Return the table of a bucket; the same one for all who ask."""
        if bucket not in self._tables:
            self._tables[bucket] = NatsTable(self, bucket)
        return self._tables[bucket]

    async def make_stream(self, plan: StreamPlan) -> None:
        """Make a stream, or find that it is there; raises `LogSettingsError`, `LogAwayError`."""
        await make_stream(self._api, make_stream_config(plan, self._replicas))

    async def make_bucket(self, bucket: str) -> None:
        """Make a bucket, or find that it is there; raises as `make_stream`."""
        await make_stream(self._api, make_bucket_config(bucket, self._replicas))

    async def _answer(self, message: "Msg", answer: Callable[[bytes], Awaitable[bytes]]) -> None:
        headers = None
        try:
            answered = await answer(message.data)
        except Exception as exc:
            log.debug("request_failed", subject=message.subject, exc_info=True)
            answered, headers = b"", {_ERROR: (str(exc) or type(exc).__name__)[:_MAX_REASON]}
        if not message.reply:
            return  # no caller waits for it
        try:
            await self._connection.publish(message.reply, answered, headers=headers)
        except Exception as exc:  # the connection is lost, or the answer is too long: who asked waits in vain
            log.warning("answer_not_sent", subject=message.subject, reason=str(exc))


def _to_log_message(message: "Msg") -> LogMessage:
    return LogMessage(message.subject, message.data, headers=message.headers or {})
