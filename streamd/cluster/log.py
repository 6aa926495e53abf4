"""The log and the tables of a cluster, as the rest of streamd sees them; `nats/` has them over NATS JetStream.

Any caller may be cut off from it at any moment: an append whose answer was lost may be stored.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

import msgspec

from streamd.core.errors import ConfigError, StreamdError, UnavailableError


class LogAwayError(UnavailableError):
    """The log did not answer in time, or has no leader at present; the same call may succeed later."""


class LogMissingError(LogAwayError):
    """A stream or bucket that the cluster had is not in NATS any more."""


class NoAnswerError(LogAwayError):
    """No node answers requests of a subject, or its answer did not come in time, or it failed."""


class LogFullError(LogAwayError):
    """A stream has reached its limit, or the servers have no space: it takes no more until something is removed."""


class LogSettingsError(ConfigError):
    """A stream is there with settings that differ from those that it should have, or cannot be made with them."""


class LogGapError(StreamdError):
    """Messages were removed from a stream before a reader came to them: what it makes of the stream is not whole."""


class WrongSequenceError(StreamdError):
    """Another append, or another change of a key, came before; `last` is its sequence, `None` if that is not known."""

    def __init__(self, message: str, last: int | None = None) -> None:
        super().__init__(message)
        self.last = last


class LogMessage(msgspec.Struct, frozen=True, gc=False):
    """A message of the log, or one that was only published.

    `time` is that of the log's clock, in epoch seconds, at which it was stored; `sequence` is its place in the stream.
    Both are 0 for a message that no stream has stored.
    """

    subject: str
    data: bytes
    sequence: int = 0
    time: float = 0.0
    headers: Mapping[str, str] = {}


@dataclass(frozen=True, slots=True)
class Appended:
    """The answer to an append: its place in the stream, that of the first one if it is a duplicate."""

    sequence: int
    is_duplicate: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamPlan:
    """The messages that a stream takes; it has all of it until it is purged, or rolled up."""

    name: str
    subjects: tuple[str, ...]
    max_bytes: int = -1
    """Beyond it, the stream refuses more (`LogFullError`); -1: no limit but that of the servers."""
    allows_rollup: bool = False


@dataclass(frozen=True, slots=True)
class StreamState:
    """The extent of a stream; `first` is 1 and `last` 0 for one that never had a message."""

    first: int
    last: int
    messages: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Entry:
    """The value of a key in a table, and the revision of its last change."""

    value: bytes
    revision: int


Unsubscribe = Callable[[], Awaitable[None]]

RestoreKeys = Callable[[Mapping[str, Entry]], Collection[str]]
"""Begins to put back keys of a table that was lost, and returns those that hold meanwhile: they are not deleted."""


class SharedTable(Protocol):
    """Keys with values, which all nodes follow and change by compare-and-set (a key-value bucket).

    Revisions rise over all keys of a table: of two changes, the later one has the higher revision, whatever the keys.
    If somebody deletes a table, and a node makes it anew, all keys count as deleted, but those that `restore`
    returns.
    """

    restore: RestoreKeys | None

    async def read_all(self) -> dict[str, Entry]:
        """Return all keys."""
        ...

    async def watch(self, handle: Callable[[str, Entry | None], None]) -> Unsubscribe:
        """Call `handle` with each key that is there, then return, and call it with each change, in order.

        The entry is `None` for a deleted key. A key that changes often may skip values, but never its newest. After a
        lost connection all keys may come again. Raises `LogAwayError` if the keys cannot be read.
        """
        ...

    async def put(self, key: str, value: bytes, *, expected_revision: int | None = None) -> int:
        """Set a key; returns its revision. `expected_revision` 0 means that it must not exist.

        Raises `WrongSequenceError` if it was changed meanwhile (by this node too, if the answer was lost),
        `LogAwayError`.
        """
        ...

    async def delete(self, key: str, *, expected_revision: int | None = None) -> None:
        """Delete a key; raises as `put`."""
        ...


class Log(Protocol):
    """The streams of a cluster, over one connection."""

    @property
    def is_connected(self) -> bool:
        """Whether the connection is there."""
        ...

    @property
    def max_message_bytes(self) -> int:
        """The longest message that the log takes, with its headers."""
        ...

    @property
    def away_since(self) -> float | None:
        """The monotonic second since which there is no connection; `None` while there is one."""
        ...

    @property
    def problem(self) -> str:
        """The reason that there is no connection, as far as is known; empty while there is one."""
        ...

    @property
    def fetched(self) -> int:
        """The number of messages that NATS left out, and that were read by their sequence."""
        ...

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
        """Append a message; one attempt. An append that is made again with its `message_id` counts once.

        `expected_last` is the sequence of the last message that the whole stream ever had, 0 for none. With
        `rolls_up`, the earlier messages of the subject are removed. Raises `WrongSequenceError`, `LogFullError`,
        `TooLargeError`, `LogAwayError`. An append that was made again with both a `message_id` and `expected_last` may
        raise `WrongSequenceError` though it is stored.
        """
        ...

    def read(
        self, stream: str, subject: str, *, after: int = 0, until_end: bool = False, allow_gaps: bool = False
    ) -> AsyncGenerator[list[LogMessage]]:
        """Yield the messages of a subject after a sequence, in order and each once, whatever servers do meanwhile.

        Endless, unless `until_end`: then it ends after what was last when it began. While the log is away it waits.
        `after` 0 begins with the first that is there. Then sequences have no holes: raises `LogGapError` once messages
        were removed unread. `allow_gaps` is for streams of several subjects, and of rollups: such a reader gets the
        newest message of each subject, and with `until_end` it ends only when it has all. The subject ">" is all that
        the stream takes. Who may be cancelled in the middle closes the reader (`aclosing`): it has a consumer in NATS.
        """
        ...

    async def read_state(self, stream: str) -> StreamState:
        """Return what a stream holds; raises `LogAwayError`."""
        ...

    async def read_last(self, stream: str, subject: str) -> LogMessage | None:
        """Return the last message of a subject; raises `LogAwayError`."""
        ...

    async def purge(self, stream: str, subject: str, *, below: int) -> None:
        """Remove the messages of a subject below a sequence, where no others are; raises `LogAwayError`."""
        ...

    async def publish(self, subject: str, data: bytes, headers: Mapping[str, str] | None = None) -> None:
        """Publish a message that no stream stores; it may be lost."""
        ...

    async def subscribe(self, subject: str, handle: Callable[[LogMessage], None]) -> Unsubscribe:
        """Call `handle` with each message that is published on a subject from now on; some may be lost."""
        ...

    async def request(self, subject: str, data: bytes, *, timeout_seconds: float) -> bytes:
        """Return the answer to a request; raises `NoAnswerError` if it does not come, `LogAwayError`."""
        ...

    async def serve(self, subject: str, answer: Callable[[bytes], Awaitable[bytes]]) -> Unsubscribe:
        """Answer the requests of a subject, each in a task of its own; who asked gets the message of an exception."""
        ...

    def table(self, bucket: str) -> SharedTable:
        """Return the table of a bucket; the same one for all who ask."""
        ...

    async def make_stream(self, plan: StreamPlan) -> None:
        """Make a stream, or find that it is there.

        Raises `LogSettingsError` if it has other settings, or NATS cannot make it so, `LogAwayError`.
        """
        ...

    async def make_bucket(self, bucket: str) -> None:
        """Make a bucket, or find that it is there; raises as `make_stream`."""
        ...

    async def close(self) -> None:
        """Close the connection; what watches, listens or serves ends. Tasks that read are to be cancelled."""
        ...
