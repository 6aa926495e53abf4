"""The engine process towards the workers: takes due servers, and lets its parts answer what workers ask.

Runs on the event loop. The workers write the windows; all else of the state is written in this process only.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import numpy as np

from streamd.core.access.caller import ANYBODY
from streamd.core.errors import StorageError, StreamdError
from streamd.runtime.background_tasks import BackgroundTasks
from streamd.runtime.process_links import ProcessCounts, ProcessLinks
from streamd.runtime.service import Service
from streamd.runtime.workers.announcer import ForecastAnnouncer
from streamd.runtime.workers.block import SharedBlock
from streamd.runtime.workers.errors import describe_error
from streamd.runtime.workers.mail import Mail
from streamd.runtime.workers.messages import (
    Admit,
    AskCounts,
    Confirmed,
    Counts,
    DueReport,
    Failed,
    HandOn,
    Hello,
    Rewound,
    Storage,
    Taken,
    Welcome,
    decode_message,
    unpack_slots,
)
from streamd.runtime.workers.ownership import HANDED_ON
from streamd.runtime.workers.peers import Peers
from streamd.runtime.workers.point_rows import PointRows
from streamd.runtime.workers.slot_changes import SlotChanges

COUNTS_SECONDS = 1.0
"""The time in which a worker answers with its metrics; one that does not is left out."""


class EngineGate:
    """The workers of one engine process; `run` counts its starts.

    `runs` are those of the workers that have the state open already, so that its shared arrays are in use.
    It is a part of a service before the service is there (`links`); `open` gives it the service.
    """

    def __init__(self, block: SharedBlock, mail: Mail, run: int, runs: Mapping[int, int] | None) -> None:
        self._received = block.arrays["received"]
        self._peers = Peers(mail, run, runs)
        self._announcer = ForecastAnnouncer(self._peers)
        self._changes = SlotChanges(self._peers, block.workers)
        self._point_rows = PointRows(self._peers, block.workers, has_workers=runs is not None)
        self._tasks = BackgroundTasks()
        self._service: Service | None = None
        self._handlers: dict[type, Callable[[int, Any], None]] = {
            Hello: self._handle_hello,
            DueReport: self._handle_due,
            Admit: lambda source, message: self._tasks.start(self._changes.admit(source, message)),
            Rewound: self._handle_rewound,
            Confirmed: self._handle_done,
            HandOn: lambda source, message: self._tasks.start(self._take_samples(source, message)),
            Counts: lambda source, message: self._peers.resolve(message.number, message),
        }
        if runs is None:
            self._received[:] = np.nan

    @property
    def links(self) -> ProcessLinks:
        """The links of the service."""
        return ProcessLinks(
            publisher=self._announcer,
            owners=(self._changes,),
            row_writer=self._point_rows,
            rewinder=self._changes,
            others=self,
            received=self._received,
        )

    def open(self, service: Service) -> None:
        """Answer the workers from now on; the service's state is open."""
        self._service = service
        for part in (self._announcer, self._changes, self._point_rows):
            part.open(service)
        self._peers.mail.open(self._handle)
        self._peers.tell(self._make_welcome())

    def close(self) -> None:
        """Answer no more."""
        self._peers.mail.close()
        self._tasks.cancel()

    def read(self) -> None:
        """Take what the workers have sent so far."""
        self._peers.mail.read()

    def lose(self, worker: int, run: int) -> None:
        """Note that a run of a worker has ended."""
        if self._peers.lose(worker, run):
            self._announcer.forget(worker)

    @property
    def service(self) -> Service:
        """The service, from `open` on."""
        assert self._service is not None, "the gate is open"
        return self._service

    # ------------------------------------------------------------ in
    def _handle(self, source: int, data: bytes) -> None:
        message = decode_message(data)
        handler = self._handlers.get(type(message))
        if handler is not None:
            handler(source, message)

    def _handle_hello(self, source: int, message: Hello) -> None:
        # At once: who waits for an answer of the former run may hold the lock that the welcome waits for.
        self._peers.lose(source, message.run - 1)
        self._peers.drop_requests(source)
        self._announcer.forget(source)
        self._tasks.start(self._welcome(source, message.run))

    async def _welcome(self, worker: int, run: int) -> None:
        async with self._changes.lock:  # a slot that is released meanwhile is not among those that the worker finds
            if self._peers.meet(worker, run):
                self._peers.send(worker, self._make_welcome())
                self._point_rows.send_again(worker)

    def _make_welcome(self) -> Welcome:
        state = self.service.state
        if state.memory is not None:
            state.memory.settle()  # from rows that were written here; from now on the workers write
        return Welcome(
            run=self._peers.run,
            last_serial=state.board.last_serial,
            contract=msgspec.to_builtins(state.contract),
            windows_file=state.windows_file.identifier,
            board_file=state.board_file.identifier,
            model=self.service.model,
            is_draining=self.service.is_draining,
        )

    def _handle_due(self, _source: int, message: DueReport) -> None:
        slots, rows = unpack_slots(message.slots), unpack_slots(message.rows)
        pipeline = self.service.pipeline
        single = rows == 1
        pipeline.mark_due_many(slots[single])
        for slot, count in zip(slots[~single].tolist(), rows[~single].tolist(), strict=True):
            pipeline.mark_due(slot, count)

    async def _take_samples(self, source: int, message: HandOn) -> None:
        """Take samples whose rows are means, which are made in this process."""
        samples = zip(message.indexes, message.samples, strict=True)
        try:
            result = await self.service.ingest.take_samples(samples, HANDED_ON if message.may_evict else ANYBODY)
        except StreamdError as error:
            self._peers.send(source, Failed(message.number, *describe_error(error)))
        else:
            self._peers.send(source, Taken(message.number, result.accepted, result.rejected, result.errors))

    def _handle_rewound(self, _source: int, message: Rewound) -> None:
        state, slot = self.service.state, message.slot
        if state.board.get_step(slot) > min(message.last_step, state.windows.get_newest_step(slot)):
            state.board.take_down(slot)
        self.service.owners.forget(slot)
        if state.is_unforecast(slot):
            self.service.pipeline.mark_due(slot, 1)

    def _handle_done(self, source: int, message: Confirmed) -> None:
        self._point_rows.confirm(source, message.number)
        self._peers.resolve(message.number, message)

    # ------------------------------------------------------------ out
    def refuse_writes(self, error: StorageError | None) -> None:
        """Let no process acknowledge rows while there is an error, as `State.refuse_writes`."""
        self.service.state.refuse_writes(error)
        self._peers.tell(Storage("" if error is None else str(error)))

    async def release_slot(self, slot: int) -> None:
        """Let the owner of a slot write it no more."""
        await self._changes.release(slot)

    def list_away_workers(self) -> list[int]:
        """Return the numbers of the workers that are being started, or started again."""
        return self._peers.presence.away

    async def ask_counts(self) -> list[ProcessCounts]:
        """Return the counts of all workers that answer in time."""
        asked = [self._peers.ask(worker, AskCounts) for worker in self._peers.presence.here]
        if not asked:
            return []
        done, late = await asyncio.wait(asked, timeout=COUNTS_SECONDS)
        for answer in late:
            answer.cancel()
        counts: list[Counts] = [answer.result() for answer in done if answer.exception() is None]
        return [ProcessCounts(each.metrics, each.status) for each in counts]
