"""A log and tables of a cluster in this process, which loses, delays and repeats what a test says.

Each `MemoryLog` is one connection; `connect` makes further ones to the same servers (`made_broker.py`). Nothing waits
for time: a call whose answer is lost fails at once, and one that is held waits for the test.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import TypeVar, cast

from streamd.cluster.log import (
    Appended,
    Entry,
    LogAwayError,
    LogGapError,
    LogMessage,
    NoAnswerError,
    RestoreKeys,
    StreamPlan,
    StreamState,
    Unsubscribe,
    WrongSequenceError,
)
from streamd.cluster.streams import BUCKETS, ShardLimits, plan_streams
from streamd.core.cluster.shards import ClusterNames
from streamd.core.errors import StreamdError, TooLargeError
from tests.support.made_broker import BUCKET_PREFIX, MadeBroker, MadeStream, matches

MAX_MESSAGE_BYTES = 2**20

MAX_READ = 256
"""The most messages that a reader gets at once."""

Result = TypeVar("Result")
Handler = Callable[[LogMessage], None]
Answerer = Callable[[bytes], Awaitable[bytes]]


@dataclass(eq=False)
class _Call:
    operate: Callable[[], object]
    answer: "asyncio.Future[object]"

    def resolve(self, result: object) -> None:
        if self.answer.done():
            return
        if isinstance(result, Exception):
            self.answer.set_exception(result)
        else:
            self.answer.set_result(result)


class MemoryLog:
    """A connection to a made log.

    Faults: `cut` and `heal`; `kill`; `lose_answers` (the request is done); `refuse` (it is not); `repeat` (it is done
    twice); `hold_requests`, `hold_answers` and `hold_messages` until `release`; `time_out_held`, after which a held
    request is still done at `release`; `drop_messages` and `repeat_messages` of those that are published.
    """

    def __init__(self, broker: MadeBroker | None = None) -> None:
        self.broker = broker or MadeBroker()
        self.lose_answers = 0
        self.refuse = 0
        self.repeat = 0
        self.drop_messages = 0
        self.repeat_messages = 0
        self.hold_requests = False
        self.hold_answers = False
        self.hold_messages = False
        self.appends = 0
        """Appends that reached the servers."""
        self._is_cut = False
        self._is_closed = False
        self._away_since: float | None = None
        self._losses = 0
        self._requests: list[_Call] = []
        self._answers: list[tuple[_Call, object]] = []
        self._messages: list[LogMessage] = []
        self._handlers: list[tuple[str, Handler]] = []
        self._answerers: list[tuple[str, Answerer]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._tables: dict[str, MemoryTable] = {}
        self.broker.connections.append(self)
        self.follow_broker()

    # ------------------------------------------------------------ for tests
    def connect(self) -> "MemoryLog":
        """Return a further connection to the same servers."""
        return MemoryLog(self.broker)

    def cut(self) -> None:
        """Lose the connection, with all requests, answers and messages on their way."""
        self._is_cut = True
        self.follow_broker()

    def heal(self) -> None:
        """Have the connection back."""
        self._is_cut = False
        self.follow_broker()
        self.broker.wake()

    def kill(self) -> None:
        """Lose the connection for ever, as when the process ends."""
        self.cut()
        self._is_closed = True
        self._handlers.clear()
        self._answerers.clear()
        if self in self.broker.connections:
            self.broker.connections.remove(self)
        for task in self._tasks:
            task.cancel()

    def release(self) -> None:
        """Do the requests, give the answers and deliver the messages that were held; hold no more."""
        self.hold_requests = self.hold_answers = self.hold_messages = False
        requests, self._requests = self._requests, []
        answers, self._answers = self._answers, []
        messages, self._messages = self._messages, []
        for call, result in answers:
            call.resolve(result)
        for call in requests:
            self._perform(call)
        for message in messages:
            self._deliver(message)
        self.broker.wake()

    def make_bucket_anew(self, bucket: str) -> None:
        """Delete a bucket and make it anew; each connection to it finds that at once."""
        former = self.broker.streams.pop(f"{BUCKET_PREFIX}{bucket}")
        self.broker.make_bucket(bucket)
        for connection in list(self.broker.connections):
            if isinstance(connection, MemoryLog):
                connection.table(bucket).begin_anew(former)
        self.broker.wake()

    def time_out_held(self) -> None:
        """Let the calls that wait fail; the requests that are held are still on their way."""
        for call in [*self._requests, *(call for call, _ in self._answers)]:
            call.resolve(LogAwayError("no answer from the log in time"))

    # ------------------------------------------------------------ what the broker calls
    def follow_broker(self) -> None:
        """Note that the broker or the way to it was lost or is back."""
        if self.is_connected:
            self._away_since = None
            return
        if self._away_since is None:
            self._away_since = self.broker.monotonic()
            self._losses += 1
        lost = [*self._requests, *(call for call, _ in self._answers)]
        self._requests, self._answers, self._messages = [], [], []
        for call in lost:
            call.resolve(LogAwayError("the connection to the log was lost"))

    def take_published(self, message: LogMessage) -> None:
        """Take a message that was published."""
        if not self.is_connected or not any(matches(pattern, message.subject) for pattern, _ in self._handlers):
            return
        if self.drop_messages:
            self.drop_messages -= 1
            return
        copies = 2 if self.repeat_messages else 1
        self.repeat_messages = max(self.repeat_messages - 1, 0)
        for _ in range(copies):
            if self.hold_messages:
                self._messages.append(message)
            else:
                self._deliver(message)

    # ------------------------------------------------------------ the protocol
    @property
    def is_connected(self) -> bool:
        return not (self._is_cut or self._is_closed or self.broker.is_away)

    @property
    def away_since(self) -> float | None:
        return self._away_since

    @property
    def problem(self) -> str:
        return "" if self._away_since is None else "it was cut"

    @property
    def fetched(self) -> int:
        return 0

    @property
    def max_message_bytes(self) -> int:
        return MAX_MESSAGE_BYTES

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
        if len(data) > MAX_MESSAGE_BYTES:
            raise TooLargeError(f"{subject}: has {len(data)} bytes, expected at most {MAX_MESSAGE_BYTES}")

        def operate() -> Appended:
            self._require_leader()
            self.appends += 1
            return self.broker.append(
                subject,
                data,
                message_id=message_id,
                expected_last=expected_last,
                rolls_up=rolls_up,
                headers=headers,
            )

        return await self.call(operate)

    async def read(
        self, stream: str, subject: str, *, after: int = 0, until_end: bool = False, allow_gaps: bool = False
    ) -> AsyncGenerator[list[LogMessage]]:
        await self._wait_reach()
        end = self.broker.get_stream(stream).last
        while True:
            await self._wait_reach()
            source = self.broker.get_stream(stream)
            batch = source.list_after(subject, after)[:MAX_READ]
            _check_end(source, after)
            if not allow_gaps:
                _check_gap(source, batch, after)
                if until_end:
                    batch = [message for message in batch if message.sequence <= end]
            if batch:
                after = batch[-1].sequence
                yield batch
            elif until_end:
                return
            else:
                await self.broker.wait_change()

    async def read_state(self, stream: str) -> StreamState:
        return await self.call(lambda: self._get_stream_state(stream))

    async def read_last(self, stream: str, subject: str) -> LogMessage | None:
        def operate() -> LogMessage | None:
            self._require_leader()
            return self.broker.get_stream(stream).find_last(subject)

        return await self.call(operate)

    async def purge(self, stream: str, subject: str, *, below: int) -> None:
        def operate() -> None:
            self._require_leader()
            self.broker.get_stream(stream).remove(subject, below)

        await self.call(operate)

    async def publish(self, subject: str, data: bytes, headers: Mapping[str, str] | None = None) -> None:
        if self.is_connected:
            await self.call(lambda: self.broker.publish(LogMessage(subject, bytes(data), headers=dict(headers or {}))))

    async def subscribe(self, subject: str, handle: Handler) -> Unsubscribe:
        entry = (subject, handle)
        self._handlers.append(entry)

        async def unsubscribe() -> None:
            if entry in self._handlers:
                self._handlers.remove(entry)

        return unsubscribe

    async def request(self, subject: str, data: bytes, *, timeout_seconds: float) -> bytes:
        self._require_reach()
        await asyncio.sleep(0)
        for other in self.broker.connections:
            if isinstance(other, MemoryLog) and other.is_connected and (answer := other.find_answerer(subject)):
                break
        else:
            raise NoAnswerError(f"{subject}: no node answers there")
        try:
            async with asyncio.timeout(timeout_seconds):
                answered = await answer(data)
        except TimeoutError:
            raise NoAnswerError(f"{subject}: no answer in {timeout_seconds:g} s") from None
        except Exception as exc:
            raise NoAnswerError(f"{subject}: {exc}") from exc
        if not (self.is_connected and other.is_connected):
            raise NoAnswerError(f"{subject}: the answer was lost")
        if self.lose_answers:
            self.lose_answers -= 1
            raise NoAnswerError(f"{subject}: the answer was lost")
        return answered

    async def serve(self, subject: str, answer: Answerer) -> Unsubscribe:
        entry = (subject, answer)
        self._answerers.append(entry)

        async def unsubscribe() -> None:
            if entry in self._answerers:
                self._answerers.remove(entry)

        return unsubscribe

    def table(self, bucket: str) -> "MemoryTable":
        return self._tables.setdefault(bucket, MemoryTable(self, bucket))

    async def make_stream(self, plan: StreamPlan) -> None:
        await self.call(lambda: self.broker.make_stream(plan))

    async def make_bucket(self, bucket: str) -> None:
        await self.call(lambda: self.broker.make_bucket(bucket))

    async def close(self) -> None:
        self.kill()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # ------------------------------------------------------------ helpers, for the table too
    @property
    def losses(self) -> int:
        """How often the connection was lost."""
        return self._losses

    def find_answerer(self, subject: str) -> Answerer | None:
        """Return what answers the requests of a subject on this connection."""
        return next((answer for pattern, answer in self._answerers if matches(pattern, subject)), None)

    def start(self, work: Coroutine[None, None, None]) -> "asyncio.Task[None]":
        """Run something until the connection is closed."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def call(self, operate: Callable[[], Result]) -> Result:
        """Do something at the servers, with all faults. If the caller is cancelled, its request is still done."""
        self._require_reach()
        await asyncio.sleep(0)  # as over a network, others run meanwhile
        self._require_reach()
        if self.refuse:
            self.refuse -= 1
            raise LogAwayError("no answer from the log in time")
        call = _Call(operate, asyncio.get_running_loop().create_future())
        if self.hold_requests:
            self._requests.append(call)
        else:
            self._perform(call)
        return cast("Result", await call.answer)

    def _perform(self, call: _Call) -> None:
        result = _try(call.operate)
        if self.repeat:
            self.repeat -= 1
            result = _try(call.operate)
        if self.lose_answers:
            self.lose_answers -= 1
            result = LogAwayError("no answer from the log in time")
        if self.hold_answers:
            self._answers.append((call, result))
        else:
            call.resolve(result)

    def _deliver(self, message: LogMessage) -> None:
        for pattern, handle in list(self._handlers):
            if matches(pattern, message.subject):
                asyncio.get_running_loop().call_soon(handle, message)

    def _get_stream_state(self, stream: str) -> StreamState:
        self._require_leader()
        return self.broker.get_stream(stream).state

    def _require_reach(self) -> None:
        if not self.is_connected:
            raise LogAwayError("there is no connection to the log")

    def _require_leader(self) -> None:
        if not self.broker.has_leader:
            raise LogAwayError("the log has no leader at present")

    async def _wait_reach(self) -> None:
        await asyncio.sleep(0)
        while not self.is_connected or self.hold_messages or not self.broker.has_leader:
            await self.broker.wait_change()


class MemoryTable:
    """A table of a made log."""

    def __init__(self, log: MemoryLog, bucket: str) -> None:
        self.restore: RestoreKeys | None = None
        self._log = log
        self._bucket = bucket
        self._stream = f"{BUCKET_PREFIX}{bucket}"
        self._handles: list[Callable[[str, Entry | None], None]] = []

    def begin_anew(self, former: MadeStream) -> None:
        """Tell that the keys of a former bucket are gone, but those that are put back."""
        known = dict(map(self._to_entry, former.list_after(">", 0)))
        lost = {key: entry for key, entry in known.items() if entry is not None}
        holding = () if self.restore is None else self.restore(lost)
        for key in lost.keys() - set(holding):
            for handle in list(self._handles):
                handle(key, None)

    async def read_all(self) -> dict[str, Entry]:
        return await self._log.call(self._list)

    async def watch(self, handle: Callable[[str, Entry | None], None]) -> Unsubscribe:
        """Tell all keys, then follow; after a loss all keys come again."""
        known, after = await self._log.call(self._list_changes)
        for key, entry in known:
            handle(key, entry)
        self._handles.append(handle)
        followed = self._log.broker.get_stream(self._stream)
        task = self._log.start(self._follow(handle, after, self._log.losses, followed))

        async def unsubscribe() -> None:
            self._handles.remove(handle)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        return unsubscribe

    async def put(self, key: str, value: bytes, *, expected_revision: int | None = None) -> int:
        return await self._log.call(lambda: self._change(key, value, {}, expected_revision))

    async def delete(self, key: str, *, expected_revision: int | None = None) -> None:
        await self._log.call(lambda: self._change(key, b"", {"KV-Operation": "DEL"}, expected_revision))

    async def _follow(
        self, handle: Callable[[str, Entry | None], None], after: int, losses: int, followed: MadeStream
    ) -> None:
        while True:
            if self._log.is_connected and not self._log.hold_messages:
                stream = self._log.broker.get_stream(self._stream)
                if losses != self._log.losses or stream is not followed:
                    after, losses, followed = 0, self._log.losses, stream
                for message in stream.list_after(f"$KV.{self._bucket}.>", after):
                    after = message.sequence
                    handle(*self._to_entry(message))
            await self._log.broker.wait_change()

    def _change(self, key: str, value: bytes, headers: Mapping[str, str], expected: int | None) -> int:
        if not self._log.broker.has_leader:
            raise LogAwayError("the log has no leader at present")
        subject = f"$KV.{self._bucket}.{key}"
        last = self._log.broker.get_stream(self._stream).find_last(subject)
        current = 0 if last is None else last.sequence
        is_there = last is not None and self._to_entry(last)[1] is not None
        if expected is not None and expected != current and (expected or is_there):
            raise WrongSequenceError(f"{self._bucket} {key}: has revision {current}, expected {expected}", current)
        return self._log.broker.append(subject, value, rolls_up=True, headers=headers).sequence

    def _list(self) -> dict[str, Entry]:
        return {key: entry for key, entry in self._list_changes()[0] if entry is not None}

    def _list_changes(self) -> tuple[list[tuple[str, Entry | None]], int]:
        stream = self._log.broker.get_stream(self._stream)
        return [self._to_entry(message) for message in stream.list_after(">", 0)], stream.last

    def _to_entry(self, message: LogMessage) -> tuple[str, Entry | None]:
        key = message.subject.removeprefix(f"$KV.{self._bucket}.")
        if "KV-Operation" in message.headers:
            return key, None
        return key, Entry(message.data, message.sequence)


def make_memory_log(names: ClusterNames, shards: int, *, now: float = 1_700_000_000.0) -> MemoryLog:
    """Return a connection to a made log that has the streams and buckets of a cluster."""
    broker = MadeBroker(now)
    for plan in plan_streams(names, shards, ShardLimits(row_bytes=64 * 2**20, forecast_bytes=128 * 2**20)):
        broker.make_stream(plan)
    for table in BUCKETS:
        broker.make_bucket(names.bucket(table))
    return MemoryLog(broker)


def _check_end(source: MadeStream, after: int) -> None:
    if source.last < after:
        raise LogGapError(f"{source.plan.name}: ends at {source.last}, expected {after} or more")


def _check_gap(source: MadeStream, batch: list[LogMessage], after: int) -> None:
    if not after:
        return
    name, expected = source.plan.name, after + 1
    found = batch[0].sequence if batch else source.first
    if found > expected:
        raise LogGapError(f"{name}: the messages {expected} to {found - 1} were removed before they were read")


def _try(operate: Callable[[], Result]) -> Result | Exception:
    try:
        return operate()
    except StreamdError as exc:
        return exc
