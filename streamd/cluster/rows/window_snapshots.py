"""Writes the windows of a shard's servers into the log, loads them, and removes the rows that no later owner needs.

A snapshot is what a part of the row log has made of the windows: the same for any writer. But none may replace that of
a later owner, for which rows were removed: it has the fence of its owner, and each is appended only if no other node
has written since that was checked.
"""

import asyncio
import time
from collections.abc import Callable

import numpy as np
import structlog

from streamd.cluster.log import Log, LogAwayError, LogGapError, LogMessage, StreamState, WrongSequenceError
from streamd.cluster.rows.applier import Applier
from streamd.cluster.rows.needed_points import NeededPoints
from streamd.cluster.rows.window_restoring import SnapshotRestorer
from streamd.core.cluster.chain_entries import FencedError
from streamd.core.cluster.formats import LaterFormatError
from streamd.core.cluster.shards import ClusterNames
from streamd.core.cluster.snapshots import Chunk, SnapshotPlan, count_chunk_servers
from streamd.core.cluster.window_batches import (
    Snapshot,
    SnapshotHead,
    decode_owner,
    decode_snapshot,
    encode_owner,
    pack_windows,
    read_head,
)
from streamd.core.errors import MalformedError
from streamd.runtime.loop_turns import LoopTurns
from streamd.runtime.service import Service

log = structlog.get_logger(__name__)

MAX_WRITTEN = 4
"""Chunks that are written by one call of `write_due`."""

APPEND_SECONDS = 10.0
"""A snapshot is longer than other messages, so the log may take longer to answer."""

UNCHANGED_CHECK_SECONDS = 30.0
"""The interval at which rows are removed that need no new snapshot to be covered."""

LOAD_RETRY_SECONDS = 0.2
"""The wait before the log is asked again, after it was away."""

SHORT_TRIES = 15
"""Looks at the end of the log of rows: a server of NATS that was stopped may know only an earlier one for a moment."""

CLAIM_TRIES = 20
"""Appends of the marker of a new owner."""

MAX_TRIES = 3
"""Appends of one snapshot; a later call of `write_due` tries again."""

_Fingerprint = bytes


class WindowSnapshots:
    """The snapshots of one shard. `clock` returns monotonic seconds."""

    def __init__(
        self,
        cluster_log: Log,
        names: ClusterNames,
        service: Service,
        applier: Applier,
        shard: int,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.fence = 0
        """That of this owner, from `claim` on; it is called before `write_due`."""
        self.written = 0
        self.purged_below = 0
        """The rows before this message were removed from the log."""
        self.restorer = SnapshotRestorer(service, applier, shard)
        self._log = cluster_log
        self._names = names
        self._state = service.state
        self._applier = applier
        self._shard = shard
        self._clock = clock
        self._stream = names.windows_stream(shard)
        self._known_last = 0
        self._loaded_rows = (1, 0)
        """The first and the last message of rows that the log had when the snapshots were loaded."""
        self._fingerprints: dict[int, _Fingerprint] = {}
        self._stored: dict[int, tuple[int, int]] = {}  # of each chunk: the fence and the rows of its snapshot
        self._turns = LoopTurns()
        self._followed = (0, 0)
        """What was applied when the chunks last got the new servers: no server without a chunk has older rows."""
        self._checked_at = -UNCHANGED_CHECK_SECONDS
        features, length = len(service.contract.features), service.contract.context_length
        means = 0 if self._state.memory is None else self._state.memory.length
        self.plan = SnapshotPlan(count_chunk_servers(4 * features * (length + means) + 9 * length))
        self._needed_points = NeededPoints(service.contract.step_seconds)

    # ------------------------------------------------------------ loading
    async def load(self) -> None:
        """Load the newest snapshot of each chunk into the windows of this node, which are emptied before.

        The applier then expects all rows that the log has. While the log is away it waits. A server for which there is
        no space is counted and left out.
        """
        self._applier.empty()
        # First: of what is removed from here on, the reader of the rows notices that it is missing.
        rows = await self._read_rows_state()
        self._loaded_rows = rows.first, rows.last
        self.restorer.begin()
        async for messages in self._log.read(
            self._stream, self._names.windows(self._shard), until_end=True, allow_gaps=True
        ):
            for message in messages:
                self._known_last = max(self._known_last, message.sequence)
                if message.subject == self._names.windows_owner(self._shard):
                    continue
                try:
                    snapshot = decode_snapshot(message.data, self._state.windows.features)
                except MalformedError as error:
                    log.error("snapshot_unreadable", shard=self._shard, sequence=message.sequence, reason=str(error))
                    continue
                except LaterFormatError as error:
                    raise self._locate(message, error) from error
                self._restore(snapshot, len(message.data))
                await self._turns.wait()
        self._applier.sequence = max(rows.first - 1, 0)
        await self._check_rows()

    async def _check_rows(self) -> None:
        """Let no snapshot cover rows to come: if the log ends before what one has, somebody made it anew."""
        covered = max((chunk.covered for chunk in self.plan.chunks), default=0)
        for _ in range(SHORT_TRIES):
            last = (await self._read_rows_state()).last
            if covered <= last:
                return
            await asyncio.sleep(LOAD_RETRY_SECONDS)
        log.error("rows_made_anew", shard=self._shard, covered=covered, last=last)
        self._applier.note_rows_made_anew()
        for chunk in self.plan.chunks:
            chunk.covered, chunk.is_stored = 0, False
        self._stored = {chunk: (fence, 0) for chunk, (fence, _) in self._stored.items()}

    async def _read_rows_state(self) -> StreamState:
        while True:
            try:
                return await self._log.read_state(self._names.rows_stream(self._shard))
            except LogAwayError:
                await asyncio.sleep(LOAD_RETRY_SECONDS)

    def _restore(self, snapshot: Snapshot, size_bytes: int) -> None:
        head = snapshot.head
        restored = self.restorer.restore(snapshot, self._clock())
        self._stored[head.chunk] = (head.fence, head.covered)
        for server in restored:
            self.plan.remove_server(server)
        self.plan.load_chunk(
            head.chunk, restored, chunks=head.chunks, covered=head.covered, size_bytes=size_bytes, now=self._clock()
        )

    # ------------------------------------------------------------ owning
    async def claim(self, fence: int) -> None:
        """Begin to own the snapshots under the lease of this revision: appends a marker behind all that was written.

        Only so is it known that all of them were loaded: a server of NATS that was stopped for a while knows only those
        of before, for a moment. Raises `FencedError` if there is a later owner, `LogGapError` if the windows here lack
        rows that newer snapshots have, `LogAwayError`.
        """
        self.fence = fence
        subject, marker = self._names.windows_owner(self._shard), encode_owner(fence)
        for _ in range(CLAIM_TRIES):
            last = await self._find_last(is_claim=True)
            try:
                appended = await self._log.append(subject, marker, expected_last=last, rolls_up=True)
            except WrongSequenceError:
                continue  # a former owner does not know it yet
            self._known_last = appended.sequence
            return
        raise LogAwayError(f"{self._stream}: another node writes to it all the time")

    def _check_owner(self, fence: int) -> None:
        if fence > self.fence:
            raise FencedError(f"{self._stream}: has an owner with fence {fence}; {self.fence} is not later")

    def _check_missed(self, head: SnapshotHead) -> None:
        """Raise `LogGapError` if a snapshot that was there before the others were loaded has rows that were removed."""
        first, last = self._loaded_rows
        if self._stored.get(head.chunk, (0, 0))[1] < first - 1 and head.covered <= last:
            raise LogGapError(f"{self._stream}: missed a snapshot of chunk {head.chunk}, with rows to {head.covered}")

    # ------------------------------------------------------------ writing
    async def write_due(self, now: float) -> None:
        """Write the snapshots that are due at monotonic seconds, at most a few, then remove the rows that all cover.

        Raises `LogAwayError`.
        """
        if self._applier.restored is not None:
            return  # the windows lack rows that the log has
        has_written = False
        self._follow_servers(now)
        for _ in range(MAX_WRITTEN):
            chunk = self.plan.choose(self._applier.work, now)
            if chunk is None or not await self._write(chunk, now):
                break
            has_written = True
        if has_written or now - self._checked_at >= UNCHANGED_CHECK_SECONDS:
            self._checked_at = now
            self._note_unchanged()
            await self._purge()

    async def write_all(self, now: float) -> None:
        """Write the snapshots of all chunks that have changed, and remove the rows that they cover."""
        self._follow_servers(now)
        for chunk in list(self.plan.chunks):
            if chunk.covered < self._applier.sequence or not chunk.is_stored:
                await self._write(chunk, now)
        self._note_unchanged()
        await self._purge()

    def _follow_servers(self, now: float) -> None:
        """Bring the chunks up to date with the servers. A chunk with new ones covers their rows once it is written."""
        applier = self._applier
        self.plan.follow_servers(applier.servers, *self._followed, now)
        self._followed = (applier.sequence, applier.work)
        self._needed_points.note(applier.time, applier.sequence)

    def _note_unchanged(self) -> None:
        """Note the chunks that are as they were written: they cover all that was applied since."""
        self._follow_servers(self._clock())
        for chunk in self.plan.chunks:
            if chunk.is_stored and self._fingerprints.get(chunk.number) == self._read_fingerprint(chunk):
                self.plan.note_unchanged(chunk, *self._followed)

    def _list_slots(self, chunk: Chunk) -> dict[str, int]:
        slots = self._state.directory.slots
        return {server: slots[server] for server in chunk.servers if server in slots}

    def _read_fingerprint(self, chunk: Chunk) -> _Fingerprint:
        """Return bytes that are others once a window of a chunk has changed, or it has other servers."""
        slots = np.fromiter(self._list_slots(chunk).values(), np.int64)
        windows = self._state.windows
        parts = (
            slots,
            self._state.directory.generations[slots],
            windows.volatile["changes"][slots],
            windows.arrays["open_step"][slots],
            windows.arrays["open_seal"][slots],
        )
        return b"".join(part.tobytes() for part in parts)

    async def _write(self, chunk: Chunk, now: float) -> bool:
        """Write a snapshot of a chunk as it is now; returns whether it is in the log."""
        applier = self._applier
        for _ in range(MAX_TRIES):
            last = await self._find_last()
            if self._stored.get(chunk.number, (0, 0)) > (self.fence, self._applier.sequence):
                log.warning("snapshot_not_written", shard=self._shard, chunk=chunk.number, fence=self.fence)
                return False  # a later owner has written it
            # From here to the append nothing is awaited, so it is the state after the last applied message, and no
            # server with rows up to it is without a chunk.
            self._follow_servers(now)
            if self._state.memory is not None:
                self._state.memory.settle()
            covered, work = applier.sequence, applier.work
            fingerprint = self._read_fingerprint(chunk)
            data = pack_windows(
                self._state.windows,
                self._list_slots(chunk),
                self._state.directory.last_seen,
                chunk=chunk.number,
                chunks=len(self.plan.chunks),
                covered=covered,
                time=applier.time,
                fence=self.fence,
            )
            try:
                appended = await self._log.append(
                    self._names.windows(self._shard, chunk.number),
                    data,
                    expected_last=last,
                    rolls_up=True,
                    timeout_seconds=APPEND_SECONDS,
                )
            except WrongSequenceError:
                continue
            self._known_last = appended.sequence
            self._fingerprints[chunk.number] = fingerprint
            self._stored[chunk.number] = (self.fence, covered)
            self.plan.note_written(chunk, covered=covered, covered_bytes=work, size_bytes=len(data), now=now)
            self.written += 1
            return True
        return False

    async def _find_last(self, *, is_claim: bool = False) -> int:
        """Return the last message of the stream, after a look at what others wrote to it; raises `FencedError`."""
        last = (await self._log.read_state(self._stream)).last
        if last != self._known_last:
            async for messages in self._log.read(
                self._stream,
                self._names.windows(self._shard),
                after=self._known_last,
                until_end=True,
                allow_gaps=True,
            ):
                for message in messages:
                    self._note_foreign(message, is_claim=is_claim)
                    last = max(last, message.sequence)
            self._known_last = last
        return last

    def _note_foreign(self, message: LogMessage, *, is_claim: bool) -> None:
        """Note a snapshot that another node wrote, or this one without an answer: what it covers is what counts."""
        data = message.data
        try:
            if message.subject == self._names.windows_owner(self._shard):
                self._check_owner(decode_owner(data))
                return
            head: SnapshotHead = read_head(data)
        except MalformedError as error:
            log.error("snapshot_unreadable", shard=self._shard, reason=str(error))
            return
        except LaterFormatError as error:
            raise self._locate(message, error) from error
        if is_claim:
            self._check_missed(head)
        present = self._applier.servers
        here = [server for server in head.servers if server in present]
        self.plan.adopt_chunk(head.chunk, here, covered=head.covered, size_bytes=len(data))
        self._stored[head.chunk] = (head.fence, head.covered)
        self._fingerprints.pop(head.chunk, None)

    def _locate(self, message: LogMessage, error: LaterFormatError) -> LaterFormatError:
        return LaterFormatError(f"{self._stream}, message {message.sequence}: {error}")

    # ------------------------------------------------------------ rows that are not needed
    async def _purge(self) -> None:
        """Remove the rows that all snapshots cover, but not those with points that a row may still need."""
        below = min(self.plan.find_covered(self._applier.sequence), self._applier.sequence) + 1
        if self._applier.first_points is not None:
            below = min(below, self._needed_points.find_first(self._applier.time))
        if below > self.purged_below + 1 and below > 1:
            await self._log.purge(self._names.rows_stream(self._shard), self._names.rows(self._shard), below=below)
            self.purged_below = below
