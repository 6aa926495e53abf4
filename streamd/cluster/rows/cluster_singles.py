"""Takes frames of one sample at any node of a cluster: the rows of all sockets share messages, and callbacks lead from
the answers of the log back to the sockets.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

from streamd.cluster.rows.append_tickets import AppendTicket, AppendWait
from streamd.cluster.rows.row_publisher import RowPublisher
from streamd.cluster.rows.written_servers import EVERY_SERVER
from streamd.cluster.shard_finder import ShardFinder
from streamd.core.access.caller import ANYBODY, Caller
from streamd.core.access.scopes import Scope
from streamd.core.errors import DrainingError, StreamdError
from streamd.core.state.samples import CellSample
from streamd.runtime.ingest import Ingest
from streamd.runtime.sample_writer import AnySample
from streamd.runtime.taking_load import TakingLoad
from streamd.runtime.workers.parcels import Answer, Errors
from streamd.runtime.write_access import ServerWriter


class SamplePacker:
    """Checks single samples, and queues their rows; with the same checks and errors as one host, in the same order."""

    def __init__(self, ingest: Ingest, publisher: RowPublisher, finder: ShardFinder) -> None:
        self._check_time = ingest.check_time
        self._read_row = ingest.rows.read_row
        self._read_cells = ingest.rows.read_cells
        self._publisher = publisher
        self._finder = finder

    def add(self, sample: AnySample, wall: float, caller: Caller, ticket: AppendTicket) -> None:
        """Queue the row of a sample; raises `StreamdError` if it is rejected."""
        recalls_write = caller.recalls_write
        if recalls_write is None or recalls_write(sample.server):
            self.add_permitted(sample, wall, caller, ticket)
            return
        writer = ServerWriter(caller, EVERY_SERVER)
        writer.add_server(sample.server)
        self.add_permitted(sample, wall, caller, ticket)

    def add_permitted(self, sample: AnySample, wall: float, caller: Caller, ticket: AppendTicket) -> None:
        """Queue the row of a sample that the caller may send; raises `StreamdError` if it is rejected."""
        at = self._check_time(sample, wall)  # type: ignore[arg-type]
        values = sample.values
        row = self._read_row(values) if isinstance(values, dict) else self._read_cells(values)
        shard = self._finder.find(sample.server)
        if not row.mask and sample.status is None:
            return  # without any known feature or status, it is no row
        self._publisher.add_row(
            shard,
            sample.server,
            at,
            row.data,
            status=sample.status,
            may_evict=caller.covers_all(Scope.ADMIN),
            ticket=ticket,
        )


class ClusterSingles:
    """The frames of one sample that agents send to this node; `wall` returns epoch seconds."""

    def __init__(
        self,
        ingest: Ingest,
        publisher: RowPublisher,
        finder: ShardFinder,
        load: TakingLoad,
        wall: Callable[[], float],
    ) -> None:
        self.packer = SamplePacker(ingest, publisher, finder)
        self._ingest = ingest
        self._publisher = publisher
        self._load = load
        self._wall = wall

    @property
    def _is_draining(self) -> bool:
        return self._load.is_draining or self._ingest.is_draining

    def begin(self, samples: Sequence[CellSample[Any]], caller: Caller, answer: Answer) -> bool:
        """Begin to take samples, and call `answer` when all are in the log, or with the errors of those that are not.

        Returns `False`, and takes nothing, if nothing may be taken now: `take` says why.
        """
        if self._is_draining or not self._publisher.is_open or caller.has_row_limit:
            return False
        load, errors = self._load, Errors()

        def finish(failure: StreamdError | None) -> None:
            load.bodies -= 1
            if failure is None:
                self._count(samples, errors)
            answer(errors if failure is None else failure)

        ticket = self._publisher.open_ticket(finish)
        load.bodies += 1
        errors += self._add_each(samples, caller, ticket)
        ticket.settle()
        return True

    async def take(self, samples: Sequence[CellSample[Any]], caller: Caller = ANYBODY) -> Errors:
        """Take samples; returns the error of each, `None` if it was accepted.

        Raises `DrainingError` before any is taken, and `UnavailableError` if the log does not take the rows in time;
        then some of them may be in it.
        """
        if self._is_draining:
            raise DrainingError("the daemon is stopping")
        with self._load, AppendWait(self._publisher) as wait:
            errors = self._add_each(samples, caller, wait.ticket)
            await wait.finish()
        self._count(samples, errors)
        if caller.has_row_limit:
            caller.usage.charge_rows(len(samples), time.monotonic())
        return errors or [None] * len(samples)

    def _add_each(self, samples: Sequence[CellSample[Any]], caller: Caller, ticket: AppendTicket) -> Errors:
        """Queue the rows of samples; returns their errors, an empty list if all were queued."""
        wall, add = self._wall(), self.packer.add
        errors: Errors = []
        for place, sample in enumerate(samples):
            try:
                add(sample, wall, caller, ticket)
            except StreamdError as error:
                errors = errors or [None] * len(samples)
                errors[place] = error
        return errors

    def _count(self, samples: Sequence[CellSample[Any]], errors: Errors) -> None:
        refused = [error for error in errors if error is not None]
        for error in refused:
            self._ingest.count_rejected(error)
        self._ingest.accepted += len(samples) - len(refused)
