"""Takes samples in a worker: those of its own servers itself, and those of others by the worker that owns them.

An answer is given when all rows of a body are in the windows, whoever wrote them.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import msgspec

from streamd.core.access.caller import ANYBODY, Caller
from streamd.core.access.scopes import Scope
from streamd.core.errors import StreamdError
from streamd.core.state.column_frames import ColumnFrame
from streamd.core.state.samples import IngestResult, Sample
from streamd.runtime.body_results import merge_results, place_errors
from streamd.runtime.frame_splits import FindOwners, FramePiece, split_frame
from streamd.runtime.ingest import SLICE, Ingest
from streamd.runtime.taking_load import TakingLoad
from streamd.runtime.workers.answering import Answering
from streamd.runtime.workers.handed_frames import pack_frame
from streamd.runtime.workers.messages import HandOn, HandOnFrame, Taken
from streamd.runtime.workers.outbox import Outbox, SinglesUnpacker
from streamd.runtime.workers.own_servers import OwnServers, SampleOrError
from streamd.runtime.workers.owner_finder import OwnerFinder
from streamd.runtime.workers.ownership import find_owning_workers
from streamd.runtime.workers.row_taker import RowTaker
from streamd.runtime.workers.singles import WorkerSingles
from streamd.runtime.workers.worker_gate import WorkerGate
from streamd.runtime.write_access import ServerWriter

MAX_PIECE_VALUES = 16_384
"""Values in one message to another worker; a longer part of a body is several messages."""

IndexedPart = list[tuple[int, Sample]]
"""Samples of one body with their indexes."""


class WorkerIngest:
    """The samples of one worker; `ingest` writes those of its own servers."""

    def __init__(self, gate: WorkerGate, ingest: Ingest, workers: int, features: Sequence[str]) -> None:
        state, followed = gate.service.state, gate.followed
        self._load = TakingLoad()
        self._gate = gate
        self._ingest = ingest
        self._find_owners: FindOwners = lambda servers: find_owning_workers(servers, workers)
        self._slots = state.directory.slots
        self._features = frozenset(features)
        self._finder = OwnerFinder(followed, state.directory.slots, gate.mail.me, workers)
        self._own = OwnServers(gate, ingest, features)
        rows = RowTaker(state, ingest, followed.checks)
        self.admit = self._own.admit
        """Raises why a new server got no slot (`SlotGiver`)."""
        self.singles = WorkerSingles(
            gate,
            ingest,
            self._own,
            finder=self._finder,
            rows=rows,
            outbox=Outbox(gate),
            load=self._load,
            features=len(features),
        )
        """Takes frames of one sample."""
        self.take_handed_on = Answering(gate, self._own, rows, SinglesUnpacker(ingest.rows.cells_type)).take
        """Takes what another worker handed on, and answers it."""

    @property
    def load(self) -> int:
        """The number of bodies that are being taken."""
        return self._load.bodies

    @property
    def is_draining(self) -> bool:
        """Whether nothing more is taken from callers."""
        return self._load.is_draining

    @is_draining.setter
    def is_draining(self, is_draining: bool) -> None:
        """Take nothing more from callers, or take it again."""
        self._load.is_draining = is_draining

    @property
    def gives_all(self) -> bool:
        """Whether every sample is handed on to the engine process: rows are means of samples there."""
        return self._finder.gives_all

    @gives_all.setter
    def gives_all(self, gives_all: bool) -> None:
        """Hand every sample on to the engine process, or each to its owner."""
        self._finder.gives_all = gives_all

    def count_refused(self, error: StreamdError) -> None:
        """Count a body or frame that was rejected as a whole."""
        self._ingest.count_refused(error)

    # ------------------------------------------------------------ bodies
    async def take_samples(self, samples: Iterable[SampleOrError], caller: Caller = ANYBODY) -> IngestResult:
        """Take samples as `Ingest.take_samples` does.

        Raises `UnavailableError` if a process that is needed ends meanwhile; then some of the rows may be taken.
        """
        with self._load:
            result, rest = IngestResult(), iter(samples)
            while some := list(islice(rest, SLICE)):
                merge_results(result, await self._take_some(some, caller))
                await asyncio.sleep(0)
            return result

    async def _take_some(self, items: list[SampleOrError], caller: Caller) -> list[IngestResult]:
        writer = ServerWriter(caller, self._slots)
        own, others = self._sort(items, caller, writer)
        may_evict = caller.covers_all(Scope.ADMIN)
        sent = [self._hand_on(owner, piece, may_evict) for owner, part in others.items() for piece in self._cut(part)]
        results = [await self._own.take_samples(own, caller)] if own else []
        handed = await _gather(sent)
        for part in others.values():
            for _, sample in part:
                writer.drop_unless_admitted(sample.server)
        if caller.has_row_limit:
            caller.usage.charge_rows(sum(each.accepted + each.rejected for each in handed), time.monotonic())
        return [*results, *handed]

    def _sort(
        self, items: list[SampleOrError], caller: Caller, writer: ServerWriter
    ) -> tuple[list[SampleOrError], dict[int, IndexedPart]]:
        """Return the samples and errors that are taken here, and by owner those that the caller may hand on."""
        own: list[SampleOrError] = []
        others: defaultdict[int, IndexedPart] = defaultdict(list)
        for index, sample in items:
            owner = self._finder.find(sample)
            if owner == self._finder.me:
                own.append((index, sample))
            elif isinstance(sample, Sample):
                try:
                    if caller.recalls_write is not None and not caller.recalls_write(sample.server):
                        writer.add_server(sample.server)
                    others[owner].append((index, sample))
                except StreamdError as error:
                    own.append((index, error))
        return own, others

    def _cut(self, part: IndexedPart) -> Iterator[IndexedPart]:
        """Yield pieces that fit into a message."""
        piece: IndexedPart = []
        values = 0
        for index, sample in part:
            if len(sample.values) > 2 * len(self._features):
                sample = self._drop_unknown(sample)
            values += len(sample.values) + 8
            if values > MAX_PIECE_VALUES:
                yield piece
                piece, values = [], len(sample.values) + 8
            piece.append((index, sample))
        if piece:
            yield piece

    def _drop_unknown(self, sample: Sample) -> Sample:
        """Return a sample without the values that the model does not know: they may take more than a message."""
        known = {name: value for name, value in sample.values.items() if name in self._features}
        self._ingest.rows.ignored += len(sample.values) - len(known)
        return msgspec.structs.replace(sample, values=known)

    def _hand_on(self, owner: int, part: IndexedPart, may_evict: bool) -> "asyncio.Future[Taken]":
        indexes, samples = [index for index, _ in part], [sample for _, sample in part]
        return self._gate.ask(owner, lambda number: HandOn(number, indexes, samples, may_evict))

    # ------------------------------------------------------------ frames of columns
    async def take_frame(self, frame: ColumnFrame, caller: Caller = ANYBODY) -> IngestResult:
        """Take a frame of columns as `Ingest.take_frame` does; raises as `take_samples` does."""
        if caller.recalls_write is not None or self.gives_all:
            return await self.take_samples(frame.make_samples(), caller)
        with self._load:
            pieces, me = split_frame(frame, self._find_owners), self._finder.me
            may_evict = caller.covers_all(Scope.ADMIN)
            sent = [
                self._hand_on_frame(owner, frame, piece, may_evict) for owner, piece in pieces.items() if owner != me
            ]
            results: list[IngestResult] = []
            if me in pieces:
                piece = pieces[me]
                taken = await self._own.take_frame(piece.cut(frame), piece, caller)
                results.append(place_errors(taken, piece.places.tobytes()) if taken.errors else taken)
            result = IngestResult()
            merge_results(result, [*results, *await _gather(sent)])
            return result

    def _hand_on_frame(
        self, owner: int, frame: ColumnFrame, piece: FramePiece, may_evict: bool
    ) -> "asyncio.Future[Taken]":
        def pack(number: int) -> HandOnFrame:
            return pack_frame(number, piece.cut(frame), piece, may_evict=may_evict)

        return self._gate.ask(owner, pack)


async def _gather(sent: "Sequence[asyncio.Future[Any]]") -> list[IngestResult]:
    """Return the answers of other workers; raises the first error once all are there."""
    answers = await asyncio.gather(*sent, return_exceptions=True)
    for answer in answers:
        if isinstance(answer, BaseException):
            raise answer
    return [IngestResult(each.accepted, each.rejected, each.errors) for each in answers if isinstance(each, Taken)]
