"""Applies the messages of one shard's row log to the windows of this node, in their order. Reads no log itself.

A message that is applied twice changes nothing the second time: a row amends itself, and points of one series and time
count once. What cannot be read is counted and left out, and nothing else with it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import structlog

from streamd.cluster.log import LogGapError, LogMessage
from streamd.cluster.rows.point_batches import ReceivedPoints, decode_points
from streamd.cluster.rows.received_samples import ReceivedSamples
from streamd.cluster.rows.restored import Restored
from streamd.cluster.rows.shard_servers import ShardServers
from streamd.core.cluster.formats import LaterFormatError
from streamd.core.cluster.row_batches import (
    FORGET_SECTION,
    POINTS_SECTION,
    ROWS_SECTION,
    LoggedRows,
    RowDecoder,
    decode_forget,
    iterate_sections,
)
from streamd.core.cluster.row_gathering import RowJoiner
from streamd.core.errors import MalformedError, StorageError
from streamd.runtime.loop_turns import LoopTurns
from streamd.runtime.service import Service

log = structlog.get_logger(__name__)

RESTORED_AT_ONCE = 16
"""Servers whose rows are continued in one turn of the event loop."""

MAX_LOGGED_ERRORS = 20
"""Unreadable parts that are logged one by one; all are counted."""


@dataclass(kw_only=True)
class ApplyCounts:
    """Counts of the messages of one shard's log that were applied since this node follows it."""

    messages: int = 0
    rows: int = 0
    points: int = 0
    forgotten: int = 0
    unreadable: int = 0
    """Sections, or ends of messages, that are not what they should be."""
    bytes: int = 0
    """Of sections of rows; points count for themselves, since the newest of them stay in the log anyway."""


@dataclass
class _Pending:
    """Sections of one message that are read and not written yet: of rows, or of points."""

    rows: list[LoggedRows] = field(default_factory=list)
    points: list[ReceivedPoints] = field(default_factory=list)

    def joins(self, batch: LoggedRows) -> bool:
        """Whether rows can be written together with those that are pending."""
        if not self.rows:
            return True
        last = self.rows[-1]
        return batch.statuses is None and last.statuses is None and batch.may_evict == last.may_evict


class Applier:
    """One shard of `shards` at this node, while it follows or owns it."""

    def __init__(self, service: Service, shard: int, shards: int) -> None:
        self.sequence = 0
        """The last message that is in the windows."""
        self.time = 0.0
        """The log's time of it, in epoch seconds."""
        self.first_points: int | None = None
        """The first message with points that was applied, `None` if there was none."""
        self.counts = ApplyCounts()
        self.received = ReceivedSamples(service)
        self.restored: Restored | None = None
        """What was loaded, until the rows behind it are read."""
        self.on_forget: Callable[[str, int], None] = lambda server, sequence: None
        """Called with a server that was forgotten on request, and the message with the order."""
        self._service = service
        self._state = service.state
        self._shard = shard
        self._servers = ShardServers(service.state.directory, shard, shards)
        self._joiner = RowJoiner()
        self._decoder = RowDecoder(len(service.contract.features))
        self._turns = LoopTurns()

    # ------------------------------------------------------------ messages
    async def apply(self, messages: Sequence[LogMessage]) -> None:
        """Apply messages; those up to `sequence` are left out.

        Raises `StorageError` if nothing can be written here: then `sequence` says what was applied. Raises
        `LogGapError` if messages are missing: then the shard must be loaded anew.
        """
        for message in messages:
            if message.sequence <= self.sequence:
                continue
            if message.sequence != self.sequence + 1:
                raise LogGapError(f"message {message.sequence} of shard {self._shard} follows {self.sequence}")
            if (shortage := self._state.find_shortage()) is not None:
                raise shortage
            if self.restored is not None and message.sequence > self.restored.last:
                await self.finish_restore()
            not_stored = self._count_not_stored()
            await self._apply_message(message)
            if self._count_not_stored() > not_stored:
                raise StorageError(f"message {message.sequence} of shard {self._shard} could not be stored as a whole")
            self.sequence, self.time = message.sequence, message.time
            self.counts.messages += 1

    def _count_not_stored(self) -> int:
        """Return the number of rows that were rejected because there was no space for them."""
        return self.received.ingest.rejected.get(StorageError.code, 0)

    async def _apply_message(self, message: LogMessage) -> None:
        self.received.received_at = message.time
        pending = _Pending()
        try:
            for kind, body in iterate_sections(message.data):
                try:
                    await self._apply_section(kind, body, message.sequence, pending)
                except MalformedError as error:
                    self._note_unreadable(message, error)
        except MalformedError as error:
            self._note_unreadable(message, error)
        except LaterFormatError as error:
            raise LaterFormatError(f"message {message.sequence} of the log of rows: {error}") from error
        await self._flush(pending, message.sequence)

    async def _apply_section(self, kind: int, body: memoryview, sequence: int, pending: "_Pending") -> None:
        """Read a section, and apply those before it that it cannot be written together with."""
        if kind == ROWS_SECTION:
            batch = self._select_rows(self._decoder.decode(body), sequence)
            self.counts.bytes += len(body)
            if pending.points or not pending.joins(batch):
                await self._flush(pending, sequence)
            if len(batch):
                pending.rows.append(batch)
        elif kind == POINTS_SECTION:
            points = decode_points(body)
            self._servers.check([points.server])
            if pending.rows:
                await self._flush(pending, sequence)
            pending.points.append(points)
        elif kind == FORGET_SECTION:
            server, until = decode_forget(body)
            await self._flush(pending, sequence)
            if self.received.received_at <= until:
                self._forget(server, sequence)
            else:
                log.warning("order_too_late", shard=self._shard, server=server, sequence=sequence)
        else:
            raise MalformedError(f"a section has the type {kind}, expected {ROWS_SECTION} to {FORGET_SECTION}")

    async def _flush(self, pending: "_Pending", sequence: int) -> None:
        """Write what was read."""
        rows, points = pending.rows, pending.points
        pending.rows, pending.points = [], []
        if rows:
            batch = self._joiner.join(rows)
            await self.received.write_rows(batch)
            self.counts.rows += len(batch)
        if points:
            await self._write_points(points, sequence)

    def _note_unreadable(self, message: LogMessage, error: MalformedError) -> None:
        self.counts.unreadable += 1
        if self.counts.unreadable <= MAX_LOGGED_ERRORS:
            log.error("log_unreadable", shard=self._shard, sequence=message.sequence, reason=str(error))

    # ------------------------------------------------------------ rows, points, forgotten servers
    def _select_rows(self, batch: LoggedRows, sequence: int) -> LoggedRows:
        """Return the rows that are not in the windows yet."""
        self._servers.check(batch.names.names)
        restored = self.restored
        if restored is None:
            return batch
        is_new = np.array([not restored.is_covered(server, sequence) for server in batch.list_servers()], np.bool_)
        return batch if is_new.all() else batch.select(is_new)

    async def _write_points(self, points: list[ReceivedPoints], sequence: int) -> None:
        if self.first_points is None:
            self.first_points = sequence
        restored = self.restored
        if restored is not None:
            fresh: list[ReceivedPoints] = []
            kept: dict[str, list[ReceivedPoints]] = {}
            for each in points:
                if restored.is_covered(each.server, sequence):
                    kept.setdefault(each.server, []).append(each)
                else:
                    self._restore_server(each.server, restored)
                    fresh.append(each)
            for server, some in kept.items():
                restored.points.setdefault(server, []).append(some)
            points = fresh
        for each in points:
            self.counts.points += len(each.series)
        try:
            await self.received.write_points(points)
        except MalformedError:
            for each in points:  # one by one, so that the others are taken
                await self._write_points_alone(each, sequence)

    async def _write_points_alone(self, points: ReceivedPoints, sequence: int) -> None:
        try:
            await self.received.write_points([points])
        except MalformedError as error:
            self._note_unreadable(LogMessage("", b"", sequence), error)

    def _forget(self, server: str, sequence: int) -> None:
        """Forget a server on request, unless it came back after that."""
        self._servers.check([server])
        if self.restored is not None:
            if self.restored.is_covered(server, sequence):
                return
            self.restored.points.pop(server, None)
            self.restored.covered.pop(server, None)
        slot = self._state.directory.slots.get(server)
        if slot is not None:
            self._service.forget(slot)
            self.counts.forgotten += 1
        self.on_forget(server, sequence)

    # ------------------------------------------------------------ takeover
    def _restore_server(self, server: str, restored: Restored) -> None:
        """Continue the rows of a restored server before later points of it are taken."""
        points = restored.points.pop(server, None)
        if restored.covered.pop(server, None) is None:
            return
        slot = self._state.directory.slots.get(server)
        if slot is not None:
            try:
                self.received.restore_points(slot, points or ())
            except MalformedError as error:
                self._note_unreadable(LogMessage("", b"", self.sequence), error)

    async def finish_restore(self) -> None:
        """Continue the rows of all restored servers; called when all rows behind the snapshots are applied.

        A second call goes on with those that are left, also while the first one waits for its turn.
        """
        restored = self.restored
        while restored is not None and restored.covered:
            for server in list(islice(restored.covered, RESTORED_AT_ONCE)):
                self._restore_server(server, restored)
            await self._turns.wait()
        if self.restored is restored:
            self.restored = None

    def note_restored(self, servers: Sequence[str], covered: int) -> None:
        """Note that the windows of servers have the rows up to a message."""
        self.restored = self.restored or Restored()
        self.restored.add(servers, covered)
        self._servers.note(servers)

    def note_rows_made_anew(self) -> None:
        """Note that the log of rows is another one than the snapshots were made of: no message of it is in them."""
        if self.restored is not None:
            self.restored.uncover()

    @property
    def servers(self) -> dict[str, int]:
        """The servers of this shard whose windows are kept here, with their slots."""
        return self._servers.list_known()

    def empty(self) -> None:
        """Empty the windows of this shard, and forget its points; its servers and their forecasts stay."""
        for slot in self._servers.find_all().values():
            self._service.collector.forget(slot)
            self._state.windows.reset(slot)

    def drop(self) -> None:
        """Forget all servers of this shard at this node, without forgetting them in the cluster."""
        for slot in self._servers.find_all().values():
            self._state.forget(slot)
            self._service.owners.forget(slot)

    @property
    def work(self) -> int:
        """The size of all that was applied, in bytes of rows: without snapshots, a later owner would apply it again."""
        return self.counts.bytes + self.counts.points

    def describe(self) -> dict[str, Any]:
        """Return the counts for the status."""
        return {
            "sequence": self.sequence,
            "messages": self.counts.messages,
            "rows": self.counts.rows,
            "points": self.counts.points,
            "forgotten": self.counts.forgotten,
            "unreadable": self.counts.unreadable,
            "rejected": dict(self.received.count_rejected()),
        }
