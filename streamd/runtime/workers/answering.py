"""Takes what other workers hand on, because this one owns the servers, and answers them."""

import asyncio
from collections import defaultdict
from typing import Any

from streamd.core.access.caller import ANYBODY, Caller
from streamd.core.errors import StreamdError
from streamd.core.state.samples import CellSample, IngestResult
from streamd.runtime.body_results import place_errors
from streamd.runtime.workers.errors import describe_error
from streamd.runtime.workers.handed_frames import FrameUnpacker
from streamd.runtime.workers.messages import (
    Failed,
    HandOn,
    HandOnFrame,
    HandOnRows,
    HandOnSingles,
    Taken,
    TakenRows,
    TakenSingles,
)
from streamd.runtime.workers.outbox import SinglesUnpacker, describe_errors
from streamd.runtime.workers.own_servers import OwnServers
from streamd.runtime.workers.ownership import HANDED_ON
from streamd.runtime.workers.parcels import Errors
from streamd.runtime.workers.row_taker import RowTaker
from streamd.runtime.workers.worker_gate import HandedOn, WorkerGate

MAX_AT_ONCE = 128
"""Single samples that are taken by their names in one turn of the loop."""


class Answering:
    """The samples that other workers hand on to this one."""

    def __init__(self, gate: WorkerGate, own: OwnServers, rows: RowTaker, singles: SinglesUnpacker) -> None:
        self._gate = gate
        self._own = own
        self._rows = rows
        self._singles = singles
        self._frames = FrameUnpacker()
        self._in_order: defaultdict[int, asyncio.Lock] = defaultdict(asyncio.Lock)  # by the worker that handed on

    def take(self, source: int, message: HandedOn) -> None:
        """Take what another worker handed on, and answer it."""
        if isinstance(message, HandOnRows):
            self._gate.send(source, TakenRows(message.number, self._rows.take(message)))
        elif isinstance(message, HandOnSingles):
            self._gate.run(self._answer_singles(source, message))
        else:
            self._gate.run(self._answer(source, message))

    async def _answer_singles(self, source: int, message: HandOnSingles) -> None:
        """Take single samples in slices between which the loop turns."""
        samples, caller = self._singles.unpack(message), HANDED_ON if message.may_evict else ANYBODY
        try:
            async with self._in_order[source]:
                errors = await self._take_slices(samples, caller)
        except StreamdError as error:
            self._gate.send(source, Failed(message.number, *describe_error(error)))
        else:
            self._gate.send(source, TakenSingles(message.number, describe_errors(errors)))

    async def _take_slices(self, samples: list[CellSample[Any]], caller: Caller) -> Errors:
        errors: Errors = []
        while len(errors) < len(samples):
            errors += await self._own.take_singles(samples[len(errors) : len(errors) + MAX_AT_ONCE], caller)
            await asyncio.sleep(0)
        return errors

    async def _answer(self, source: int, message: HandOn | HandOnFrame) -> None:
        try:
            # One after the other: parts of one body may have samples of the same server.
            async with self._in_order[source]:
                result = await self._take_part(message, HANDED_ON if message.may_evict else ANYBODY)
        except StreamdError as error:
            self._gate.send(source, Failed(message.number, *describe_error(error)))
        else:
            self._gate.send(source, Taken(message.number, result.accepted, result.rejected, result.errors))

    async def _take_part(self, message: HandOn | HandOnFrame, caller: Caller) -> IngestResult:
        if isinstance(message, HandOn):
            return await self._own.take_samples(list(zip(message.indexes, message.samples, strict=True)), caller)
        return place_errors(await self._own.take_frame(self._frames.unpack(message), None, caller), message.indexes)
