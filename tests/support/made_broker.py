"""The servers of a made log: streams in memory, what is published, and who is connected. `made_log.py` has connections.

It behaves as JetStream does where streamd relies on it; `tests/cluster/test_log_contract.py` runs against both.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Protocol

from streamd.cluster.log import (
    Appended,
    LogAwayError,
    LogFullError,
    LogMessage,
    LogMissingError,
    LogSettingsError,
    StreamPlan,
    StreamState,
    WrongSequenceError,
)

DUPLICATE_SECONDS = 120.0
"""How long a stream remembers the ids of messages."""

BUCKET_PREFIX = "KV_"


class Connected(Protocol):
    """A connection, as the broker knows it."""

    def take_published(self, message: LogMessage) -> None:
        """Take a message that was published."""
        ...

    def follow_broker(self) -> None:
        """Note that the broker was lost or is back."""
        ...


class MadeStream:
    """A stream: its messages by sequence."""

    def __init__(self, plan: StreamPlan) -> None:
        self.plan = plan
        self.messages: dict[int, LogMessage] = {}
        self.last = 0
        self.bytes = 0
        self.ids: dict[str, tuple[int, float]] = {}

    @property
    def first(self) -> int:
        return next(iter(self.messages), self.last + 1)

    @property
    def state(self) -> StreamState:
        return StreamState(first=self.first, last=self.last, messages=len(self.messages), bytes=self.bytes)

    def append(
        self,
        subject: str,
        data: bytes,
        now: float,
        *,
        message_id: str | None = None,
        expected_last: int | None = None,
        rolls_up: bool = False,
        headers: Mapping[str, str] | None = None,
    ) -> Appended:
        """Append as JetStream does: a duplicate is found before the expected sequence is compared."""
        self.forget_ids(now)
        if message_id is not None and message_id in self.ids:
            return Appended(self.ids[message_id][0], is_duplicate=True)
        if expected_last is not None and expected_last != self.last:
            raise WrongSequenceError(f"{self.plan.name}: the last sequence is {self.last}", self.last)
        if 0 <= self.plan.max_bytes < self.bytes + len(data):
            raise LogFullError(f"{self.plan.name}: is full, expected at most {self.plan.max_bytes} bytes")
        if rolls_up:
            assert self.plan.allows_rollup, f"{self.plan.name} allows no rollup"
            self.remove(subject, self.last + 1)
        self.last += 1
        self.messages[self.last] = LogMessage(subject, bytes(data), self.last, now, dict(headers or {}))
        self.bytes += len(data)
        if message_id is not None:
            self.ids[message_id] = (self.last, now)
        return Appended(self.last)

    def remove(self, subject: str, below: int) -> None:
        """Remove the messages of a subject below a sequence."""
        for sequence in [s for s, m in self.messages.items() if s < below and matches(subject, m.subject)]:
            self.bytes -= len(self.messages.pop(sequence).data)

    def forget_ids(self, now: float) -> None:
        """Forget the ids of messages that came too long ago."""
        self.ids = {key: entry for key, entry in self.ids.items() if entry[1] > now - DUPLICATE_SECONDS}

    def find_last(self, subject: str) -> LogMessage | None:
        """Return the last message of a subject."""
        return next((m for m in reversed(self.messages.values()) if matches(subject, m.subject)), None)

    def list_after(self, subject: str, after: int) -> list[LogMessage]:
        """Return the messages of a subject after a sequence."""
        return [m for s, m in self.messages.items() if s > after and matches(subject, m.subject)]


class MadeBroker:
    """Servers that are one process: `is_away` without them nothing works, without `has_leader` only what is published.

    `now` is the log's clock, in epoch seconds, and `monotonic` what connections measure their loss by.
    """

    def __init__(self, now: float = 1_700_000_000.0, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.now = now
        self.monotonic = monotonic
        self.streams: dict[str, MadeStream] = {}
        self.connections: list[Connected] = []
        self.is_away = False
        self.has_leader = True
        self._changed = asyncio.Event()

    def set_away(self, is_away: bool) -> None:
        """Lose all servers, or have them back with all that they stored."""
        self.is_away = is_away
        for connection in list(self.connections):
            connection.follow_broker()
        self.wake()

    def make_stream(self, plan: StreamPlan) -> None:
        """Make a stream, unless it is there."""
        stream = self.streams.setdefault(plan.name, MadeStream(plan))
        if stream.plan != plan:
            raise LogSettingsError(f"stream {plan.name}: is there as {stream.plan}, expected {plan}")

    def make_bucket(self, bucket: str) -> None:
        """Make a bucket, unless it is there."""
        self.make_stream(StreamPlan(name=f"{BUCKET_PREFIX}{bucket}", subjects=(f"$KV.{bucket}.>",), allows_rollup=True))

    def get_stream(self, name: str) -> MadeStream:
        """Return a stream."""
        if name not in self.streams:
            raise LogMissingError(f"there is no stream {name}")
        return self.streams[name]

    def find_stream(self, subject: str) -> MadeStream:
        """Return the stream that takes a subject."""
        for stream in self.streams.values():
            if any(matches(pattern, subject) for pattern in stream.plan.subjects):
                return stream
        raise LogAwayError(f"no stream takes {subject}")

    def append(self, subject: str, data: bytes, **options: object) -> Appended:
        """Append to the stream that takes a subject."""
        stream = self.find_stream(subject)
        appended = stream.append(subject, data, self.now, **options)  # type: ignore[arg-type]
        self.wake()
        return appended

    def publish(self, message: LogMessage) -> None:
        """Give a message to all connections."""
        for connection in list(self.connections):
            connection.take_published(message)

    def wake(self) -> None:
        """Wake all who wait for a change."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def wait_change(self) -> None:
        """Wait until something was appended, lost or came back."""
        await self._changed.wait()


def matches(pattern: str, subject: str) -> bool:
    """Whether a subject is one of those that a pattern of NATS names."""
    wanted, given = pattern.split("."), subject.split(".")
    if wanted[-1] == ">":
        return len(given) >= len(wanted) and all(w in ("*", g) for w, g in zip(wanted[:-1], given, strict=False))
    return len(wanted) == len(given) and all(w in ("*", g) for w, g in zip(wanted, given, strict=True))
