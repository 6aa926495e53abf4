"""Takes frames of one sample in a worker: the usual ones as rows for their owners, the others by their servers' names.

A usual sample is of a known server that the caller is known to write, and of the present or past, with finite values.
"""

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from streamd.core.access.caller import ANYBODY, Caller
from streamd.core.access.scopes import Scope
from streamd.core.errors import StreamdError
from streamd.core.state.layout import make_scalar_view
from streamd.core.state.samples import CellSample
from streamd.runtime.ingest import Ingest
from streamd.runtime.taking_load import TakingLoad
from streamd.runtime.workers.outbox import Outbox
from streamd.runtime.workers.own_servers import OwnServers
from streamd.runtime.workers.owner_finder import OwnerFinder
from streamd.runtime.workers.parcels import NO_STATUS, Answer, Errors, Parcels, Ticket, UsualRow
from streamd.runtime.workers.row_taker import RowTaker
from streamd.runtime.workers.worker_gate import WorkerGate
from streamd.runtime.write_access import ServerWriter

MAX_MASKED_FEATURES = 64
"""With more features, a row without some of them is unusual: a mask of so many bits fits into a message."""


class WorkerSingles:
    """The frames of one sample that agents send to this worker."""

    def __init__(
        self,
        gate: WorkerGate,
        ingest: Ingest,
        own: OwnServers,
        *,
        finder: OwnerFinder,
        rows: RowTaker,
        outbox: Outbox,
        load: TakingLoad,
        features: int,
    ) -> None:
        self._own = own
        self._finder = finder
        self._outbox = outbox
        self._load = load
        self._slots = gate.service.state.directory.slots
        self._owners: Any = make_scalar_view(gate.followed.owners)
        self._checks: Any = make_scalar_view(gate.followed.checks)
        self._check_time = ingest.check_time
        self._read_cells = ingest.rows.read_cells
        self._full = (1 << features) - 1
        self._may_lack = features <= MAX_MASKED_FEATURES
        self._parcels = Parcels(gate.mail.me, self._full, gate.ask, rows.take, self.take_begun)

    # ------------------------------------------------------------ usual samples
    def begin(self, samples: Sequence[CellSample[Any]], caller: Caller, answer: Answer) -> bool:
        """Begin to take samples, and call `answer` later, when all are in the windows or rejected.

        Returns `False`, and takes nothing, if one of them is not usual: `take` takes them.
        """
        load = self._load
        if load.is_draining or self._finder.gives_all or caller.has_row_limit:
            return False
        rows = self._read_rows(samples, caller)
        if rows is None:
            return False

        def finish(errors: Errors | StreamdError) -> None:
            load.bodies -= 1
            answer(errors)

        load.bodies += 1
        owners = self._owners
        self._parcels.add(Ticket(samples, caller, finish), [owners[row[0]] for row in rows], rows)
        return True

    def _read_rows(self, samples: Sequence[CellSample[Any]], caller: Caller) -> list[UsualRow] | None:
        """Return the rows of samples, `None` if one of them is not usual."""
        wall, recalls_write, full, checks = time.time(), caller.recalls_write, self._full, self._checks
        find_slot, check_time, read_cells = self._slots.get, self._check_time, self._read_cells
        rows: list[UsualRow] = []
        try:
            for sample in samples:
                slot, status = find_slot(sample.server), sample.status
                if slot is None or not (recalls_write is None or recalls_write(sample.server)):
                    return None
                at, row = check_time(sample, wall), read_cells(sample.values)  # type: ignore[arg-type]
                if row.mask != full and not (row.mask and self._may_lack):
                    return None
                rows.append((slot, checks[slot], at, row, NO_STATUS if status is None else status))
        except StreamdError:
            return None
        return rows

    # ------------------------------------------------------------ all samples
    async def take(self, samples: Sequence[CellSample[Any]], caller: Caller = ANYBODY) -> Errors:
        """Take samples; returns the error of each, `None` if it was accepted.

        Raises `DrainingError` before any is taken, and `UnavailableError` if a process that is needed ends meanwhile;
        then some of the samples may be taken.
        """
        with self._load:
            return await self.take_begun(samples, caller)

    async def take_begun(self, samples: Sequence[CellSample[Any]], caller: Caller) -> Errors:
        """Take samples as `take` does, during a drain too."""
        owners = [self._finder.find(sample) for sample in samples]
        me = self._finder.me
        if owners.count(me) == len(owners):
            return await self._own.take_singles(samples, caller)
        errors: Errors = [None] * len(samples)
        writer = ServerWriter(caller, self._slots)
        sent = self._hand_on(owners, samples, errors, caller, writer)
        own = [place for place, owner in enumerate(owners) if owner == me]
        if own:
            _note(errors, own, await self._own.take_singles([samples[place] for place in own], caller))
        await _note_all(errors, sent)
        if caller.recalls_write is not None:
            for sample in samples:
                writer.drop_unless_admitted(sample.server)
        return errors

    def _hand_on(
        self,
        owners: list[int],
        samples: Sequence[CellSample[Any]],
        errors: Errors,
        caller: Caller,
        writer: ServerWriter,
    ) -> "list[tuple[list[int], asyncio.Future[Errors]]]":
        """Hand on the samples of other workers; returns their places and errors to come."""
        places: dict[int, list[int]] = {}
        for place, owner in enumerate(owners):
            if owner != self._finder.me:
                try:
                    if caller.recalls_write is not None and not caller.recalls_write(samples[place].server):
                        writer.add_server(samples[place].server)
                    places.setdefault(owner, []).append(place)
                except StreamdError as error:
                    errors[place] = error
        may_evict = caller.covers_all(Scope.ADMIN)
        if caller.has_row_limit:
            caller.usage.charge_rows(sum(map(len, places.values())), time.monotonic())
        return [
            (some, self._outbox.hand_on(owner, [samples[place] for place in some], may_evict=may_evict))
            for owner, some in places.items()
        ]


def _note(errors: Errors, places: Sequence[int], found: Errors) -> None:
    for place, error in zip(places, found, strict=False):  # none are found if all are accepted
        errors[place] = error


async def _note_all(errors: Errors, sent: "Sequence[tuple[list[int], asyncio.Future[Errors]]]") -> None:
    """Note the errors that other workers found; raises the first failure once all have answered."""
    failure: StreamdError | None = None
    for places, found in sent:
        try:
            _note(errors, places, await found)
        except StreamdError as error:
            failure = failure or error
    if failure is not None:
        raise failure
