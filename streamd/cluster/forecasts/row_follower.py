"""Loads the windows of a shard at a node, and applies the shard's row log from then on.

Knows nothing of forecasts, and does not decide who owns the shard.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Protocol

import structlog

from streamd.cluster.log import Log, LogAwayError, LogMessage
from streamd.core.cluster.log_clock import LogClock
from streamd.core.cluster.shards import ClusterNames
from streamd.core.errors import StorageError

log = structlog.get_logger(__name__)

LOAD_AGAIN_SECONDS = 0.2
"""The wait before windows are loaded again, after the log was away."""

SHORT_TRIES, SHORT_SECONDS = 15, 0.2
"""Looks at the end of a row log that seems to be another one: a server of NATS that was stopped knows only a former end
for a moment."""

STORAGE_SECONDS = 1.0
"""The wait before rows are written again, after the disk was full."""


class ShardRows(Protocol):
    """The rows of a shard at this node (`Applier`)."""

    sequence: int
    """That of the last message of rows that is in the windows."""
    on_forget: Callable[[str, int], None]
    """Is called with each server that is forgotten on request, and the sequence of the order."""

    async def apply(self, messages: Sequence[LogMessage]) -> None:
        """Apply messages of the row log, in order; raises `StorageError`, and then may be called again."""
        ...

    async def finish_restore(self) -> None:
        """Make the points of open rows count again, once all rows are applied."""
        ...

    def empty(self) -> None:
        """Forget the rows of the shard's servers here, and keep their slots and forecasts."""
        ...

    def drop(self) -> None:
        """Forget the shard's servers here."""
        ...


class ShardSnapshots(Protocol):
    """The snapshots of a shard's windows (`WindowSnapshots`)."""

    fence: int
    """That of the owner."""

    async def load(self) -> None:
        """Load the windows from the newest snapshots."""
        ...

    async def claim(self, fence: int) -> None:
        """Note a new owner; raises `FencedError`, `LogGapError` if newer ones were missed, `LogAwayError`."""
        ...

    async def write_due(self, now: float) -> None:
        """Write what is due (`now`: monotonic seconds)."""
        ...


class RowFollower:
    """The windows of one shard as its row log makes them, from `run` on. `clock` returns monotonic seconds."""

    def __init__(
        self,
        shard: int,
        cluster_log: Log,
        names: ClusterNames,
        rows: ShardRows,
        snapshots: ShardSnapshots,
        log_clock: LogClock,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.problem = ""
        """Why rows are not applied at present; empty if they are."""
        self.is_applying = False
        """Whether a message is applied just now: the one behind `sequence`."""
        self._shard = shard
        self._log = cluster_log
        self._stream = names.rows_stream(shard)
        self._subject = names.rows(shard)
        self._rows = rows
        self._snapshots = snapshots
        self._log_clock = log_clock
        self._clock = clock
        self._is_loaded = False
        self._newest_time = 0.0
        self._progress = asyncio.Event()

    @property
    def sequence(self) -> int:
        """That of the last message that is in the windows."""
        return self._rows.sequence

    async def run(self) -> None:
        """Load the windows and apply rows until cancelled; raises `LogGapError` if rows are missing."""
        await self._load()
        self._is_loaded = True
        self._progress.set()
        async with aclosing(self._log.read(self._stream, self._subject, after=self._rows.sequence)) as batches:
            async for messages in batches:
                await self._apply(messages)

    async def _load(self) -> None:
        while True:
            try:
                await self._snapshots.load()
            except LogAwayError as exc:
                log.debug("windows_not_loaded", shard=self._shard, error=str(exc))
                await asyncio.sleep(LOAD_AGAIN_SECONDS)
            else:
                return

    async def _apply(self, messages: Sequence[LogMessage]) -> None:
        self._newest_time = messages[-1].time
        self._log_clock.note(self._newest_time, self._clock())
        while True:
            self.is_applying = True
            try:
                await self._rows.apply(messages)
            except StorageError as exc:
                if not self.problem:
                    log.error("rows_not_applied", shard=self._shard, error=str(exc))
                self.problem = str(exc)
            else:
                self.problem = ""
                self._progress.set()
                return
            finally:
                self.is_applying = False
            await asyncio.sleep(STORAGE_SECONDS)

    # ------------------------------------------------------------ waiting
    async def catch_up(self) -> None:
        """Wait until all that was in the row log when it was called is applied; raises `LogAwayError`."""
        last = await self._read_last()
        await self._wait_for(lambda: self._is_loaded and self._rows.sequence >= last)

    async def wait_applied(self, sequence: int) -> bool:
        """Wait until a message of the row log is applied; returns whether it is.

        It is not if the log ends before it: then the log was made anew, without what it had. Raises `LogAwayError`.
        """
        if not await self._has_message(sequence):
            return False
        await self._wait_for(lambda: self._rows.sequence >= sequence)
        return True

    async def _has_message(self, sequence: int) -> bool:
        last = self._rows.sequence
        for _ in range(SHORT_TRIES):
            if last < sequence:
                last = await self._read_last()
            if last >= sequence:
                return True
            await asyncio.sleep(SHORT_SECONDS)
        log.error("rows_made_anew", shard=self._shard, stream=self._stream, last=last, read_before=sequence)
        return False

    async def _read_last(self) -> int:
        return (await self._log.read_state(self._stream)).last

    async def _wait_for(self, is_so: Callable[[], bool]) -> None:
        while not is_so():
            self._progress.clear()
            await self._progress.wait()

    # ------------------------------------------------------------ reports
    def describe(self) -> Mapping[str, Any]:
        """Return the entries of the status."""
        now = self._log_clock.read(self._clock())
        age = round(max(now - self._newest_time, 0.0), 3) if self._newest_time else None
        return {"rows_sequence": self._rows.sequence, "rows_age_seconds": age, "problem": self.problem}
