"""A key-value bucket of JetStream that each node follows, with a compare-and-set that holds with replicas.

The bucket is a stream. This node knows all its keys up to a position, and states that position with each change that
expects a revision: the change is stored only if nothing else was stored meanwhile. Servers of NATS before 2.9.21 check
the revision of a single key only on the leader, before it has stored what came just before.
"""

import asyncio
import time
from collections.abc import Callable

import structlog

from streamd.cluster.lasting_tasks import start_task
from streamd.cluster.log import (
    Entry,
    Log,
    LogAwayError,
    LogGapError,
    LogMessage,
    RestoreKeys,
    Unsubscribe,
    WrongSequenceError,
)
from streamd.cluster.nats.clients import end_task
from streamd.cluster.nats.streams import BUCKET_PREFIX

log = structlog.get_logger(__name__)

_Handle = Callable[[str, Entry | None], None]

_OPERATION = "KV-Operation"
_DELETED = ("DEL", "PURGE")

_CATCH_UP_SECONDS = 3.0
"""How long a change may wait until this node knows what others changed before."""


class NatsTable:
    """The keys of one bucket."""

    def __init__(self, cluster_log: Log, bucket: str) -> None:
        self.restore: RestoreKeys | None = None
        """Is called with the keys of a bucket that was deleted and made anew."""
        self._log = cluster_log
        self._bucket = bucket
        self._stream = f"{BUCKET_PREFIX}{bucket}"
        self._prefix = f"$KV.{bucket}."
        self._entries: dict[str, Entry] = {}
        self._revisions: dict[str, int] = {}
        """The revision of each key's last change, also of those that are deleted."""
        self._position = 0
        self._handles: list[_Handle] = []
        self._moved = asyncio.Event()
        self._changing = asyncio.Lock()
        self._follower: asyncio.Task[None] | None = None

    async def read_all(self) -> dict[str, Entry]:
        """Return all keys; raises `LogAwayError`."""
        await self._catch_up()
        return dict(self._entries)

    async def watch(self, handle: _Handle) -> Unsubscribe:
        """Call `handle` with all keys, return, and call it with each change; raises `LogAwayError`."""
        await self._catch_up()
        for key, entry in list(self._entries.items()):
            handle(key, entry)
        self._handles.append(handle)

        async def unwatch() -> None:
            if handle in self._handles:
                self._handles.remove(handle)

        return unwatch

    async def put(self, key: str, value: bytes, *, expected_revision: int | None = None) -> int:
        """Set a key; returns its revision. Raises `WrongSequenceError`, `LogAwayError`."""
        return await self._change(key, value, None, expected_revision)

    async def delete(self, key: str, *, expected_revision: int | None = None) -> None:
        """Delete a key; raises as `put`."""
        await self._change(key, b"", {_OPERATION: "DEL"}, expected_revision)

    async def close(self) -> None:
        """Follow the bucket no more."""
        if self._follower is not None:
            await end_task(self._follower)

    async def _change(self, key: str, value: bytes, headers: dict[str, str] | None, expected: int | None) -> int:
        subject = f"{self._prefix}{key}"
        if expected is None:
            return (await self._log.append(subject, value, headers=headers)).sequence
        async with self._changing:  # one at a time: the others of this node would only be refused
            if self._follower is None:
                await self._catch_up()
            deadline = time.monotonic() + _CATCH_UP_SECONDS
            while True:
                self._require_revision(key, expected)
                try:
                    appended = await self._log.append(subject, value, expected_last=self._position, headers=headers)
                except WrongSequenceError as exc:
                    if time.monotonic() > deadline:
                        raise LogAwayError(f"{self._bucket} {key}: others change the table all the time") from exc
                    await self._wait_position(exc.last or self._position + 1, deadline)
                else:
                    await self._wait_position(appended.sequence, deadline)
                    return appended.sequence

    def _require_revision(self, key: str, expected: int) -> None:
        current = self._revisions.get(key, 0)
        if expected != current and (expected or key in self._entries):
            raise WrongSequenceError(f"{self._bucket} {key}: has revision {current}, expected {expected}", current)

    async def _catch_up(self) -> None:
        if self._follower is None:
            self._follower = start_task(self._follow())
        state = await self._log.read_state(self._stream)
        if not state.messages:  # it never had a key, or all were purged: nothing comes
            self._position = max(self._position, state.last)
        await self._wait_position(state.last, time.monotonic() + _CATCH_UP_SECONDS)

    async def _wait_position(self, position: int, deadline: float) -> None:
        while self._position < position:
            self._moved.clear()
            try:
                async with asyncio.timeout(max(deadline - time.monotonic(), 0.0)):
                    await self._moved.wait()
            except TimeoutError:
                raise LogAwayError(
                    f"{self._bucket}: is known up to {self._position}, expected {position}: NATS does not send it"
                ) from None

    async def _follow(self) -> None:
        while True:
            try:
                async for batch in self._log.read(
                    self._stream, f"{self._prefix}>", after=self._position, allow_gaps=True
                ):
                    for message in batch:
                        self._apply(message)
                    self._moved.set()
            except LogGapError as exc:
                log.error("table_made_anew", table=self._bucket, keys=len(self._entries), reason=str(exc))
                self._begin_anew()

    def _begin_anew(self) -> None:
        """Pass on that keys are gone: the bucket is another one."""
        lost = dict(self._entries)
        self._entries.clear()
        self._revisions.clear()
        self._position = 0
        holding = () if self.restore is None else self.restore(lost)
        for key in lost.keys() - set(holding):
            self._tell(key, None)

    def _apply(self, message: LogMessage) -> None:
        key = message.subject.removeprefix(self._prefix)
        entry = None
        if message.headers.get(_OPERATION) in _DELETED:
            self._entries.pop(key, None)
        else:
            entry = self._entries[key] = Entry(message.data, message.sequence)
        self._revisions[key] = message.sequence
        self._position = message.sequence
        self._tell(key, entry)

    def _tell(self, key: str, entry: Entry | None) -> None:
        for handle in list(self._handles):
            try:
                handle(key, entry)
            except Exception:
                log.exception("table_handler_failed", table=self._bucket, key=key)
