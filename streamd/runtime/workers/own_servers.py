"""Takes samples of the servers that a worker owns; it asks the engine process for slots of new ones first."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import msgspec

from streamd.core.access.caller import Caller
from streamd.core.access.scopes import Scope
from streamd.core.errors import StreamdError, UnavailableError
from streamd.core.state.column_frames import ColumnFrame
from streamd.core.state.rows import RowReader
from streamd.core.state.samples import CellSample, IngestResult, Sample
from streamd.runtime.frame_splits import FramePiece
from streamd.runtime.ingest import Ingest
from streamd.runtime.workers.parcels import Errors
from streamd.runtime.workers.worker_gate import WorkerGate

SampleOrError = tuple[int, Sample | StreamdError]
"""A sample or an error, with its index in the body."""


class OwnServers:
    """The servers that one worker owns; `ingest` writes their samples, and gets slots by `admit`."""

    def __init__(self, gate: WorkerGate, ingest: Ingest, features: Sequence[str]) -> None:
        self._gate = gate
        self._ingest = ingest
        self._slots = gate.service.state.directory.slots
        self._rows = RowReader(features)  # its own, since it counts nothing
        self._refusals: dict[str, StreamdError] = {}

    async def take_samples(self, items: list[SampleOrError], caller: Caller) -> IngestResult:
        """Take samples as `Ingest.take_samples` does."""
        unknown = [item for item in items if isinstance(item[1], Sample) and item[1].server not in self._slots]
        if unknown:
            await self._ask_for_slots(unknown, caller)
        # The type of `Ingest` is narrower than what it takes: it rejects every error alike.
        return await self._ingest.take_samples(items, caller)  # type: ignore[arg-type]

    async def take_singles(self, samples: Sequence[CellSample[Any]], caller: Caller) -> Errors:
        """Take all samples as `Ingest.take_few` does, in several turns of the loop if they are much work."""
        unknown: list[SampleOrError] = [
            (0, _make_sample(sample)) for sample in samples if sample.server not in self._slots
        ]
        if unknown:
            await self._ask_for_slots(unknown, caller)
        errors = self._ingest.take_few(samples, caller)
        while len(errors) < len(samples):
            await asyncio.sleep(0)
            errors += self._ingest.take_few(samples[len(errors) :], caller)
        return errors

    async def take_frame(self, frame: ColumnFrame, piece: FramePiece | None, caller: Caller) -> IngestResult:
        """Take a frame of columns as `Ingest.take_frame` does; `piece` has its servers, if they are remembered."""
        version = self._gate.followed.version
        if piece is None or piece.known_at != version:
            unknown = [place for place, name in enumerate(frame.servers.names) if name not in self._slots]
            if unknown:
                await self._ask_for_slots(list(frame.make_samples(unknown)), caller)
            elif piece is not None:
                piece.known_at = version
        return await self._ingest.take_frame(frame, caller)

    def admit(self, name: str, now_wall: float, silent_since: float = 0.0) -> tuple[int, str | None]:
        """Raise why a server got no slot (`SlotGiver`): one that got one is known before its sample is taken."""
        raise self._refusals.get(name) or UnavailableError("the server lost its slot at this moment; send again")

    async def _ask_for_slots(self, unknown: Sequence[SampleOrError], caller: Caller) -> None:
        """Ask for slots for the servers that would get one here; the errors are raised when the samples are taken."""
        wall = time.time()
        servers = dict.fromkeys(
            sample.server
            for _, sample in unknown
            if isinstance(sample, Sample) and self._deserves_slot(sample, wall, caller)
        )
        if servers:
            answers = await self._gate.admit(list(servers), wall, may_evict=caller.covers_all(Scope.ADMIN))
            self._refusals = {server: error for server, error in answers.items() if error is not None}

    def _deserves_slot(self, sample: Sample, wall: float, caller: Caller) -> bool:
        """Whether nothing but the slot is missing for a sample to be taken."""
        try:
            if not caller.may(Scope.INGEST, sample.server):
                return False
            self._ingest.check_time(sample, wall)
            return bool(self._rows.read_row(sample.values).mask) or sample.status is not None
        except StreamdError:
            return False


def _make_sample(sample: CellSample[Any]) -> Sample:
    """Return a sample with a dictionary of its values."""
    values = {name: value for name, value in msgspec.to_builtins(sample.values).items() if value is not None}
    return Sample(sample.server, sample.time, values, sample.status)
