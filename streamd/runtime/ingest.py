"""Samples into windows: each is judged alone, and what becomes due by it is handed on."""

import asyncio
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Protocol

import structlog

from streamd.core.epochs import guess_finer_unit
from streamd.core.errors import (
    DrainingError,
    InvalidInputError,
    InvalidTimeError,
    StreamdError,
    TooFarAheadError,
    TooOldError,
)
from streamd.core.state.directory import check_server_name
from streamd.core.state.rows import RowReader
from streamd.core.state.samples import IngestResult, Sample, Time
from streamd.runtime.state.state import State

log = structlog.get_logger(__name__)

SLICE = 1_000
"""Samples that are taken before the event loop gets its turn."""


class RowsDue(Protocol):
    """Who runs what became due (the pipeline)."""

    def mark_due(self, slot: int, rows: int) -> None:
        """Queue a server that has `rows` more due rows."""
        ...


class ServerForgotten(Protocol):
    """Who remembers something of a server by its slot."""

    def forget(self, slot: int) -> None:
        """Drop a slot that changes hands."""
        ...


class ServerContradicted(Protocol):
    """Who watches servers whose newest row lies ahead of the clock."""

    def contradict(self, slot: int) -> None:
        """Learn that such a server sent a sample of the present."""
        ...


@dataclass(slots=True)
class IngestLoad:
    """How many bodies are being taken at this moment: while there is one, more rows are certain to come."""

    bodies: int = 0

    @property
    def expects_rows(self) -> bool:
        """Whether a body is being taken."""
        return self.bodies > 0


class Ingest:
    """Takes samples in; every one that is accepted is in the window store when `take` returns.

    `wall` returns epoch seconds.
    """

    def __init__(
        self,
        state: State,
        *,
        max_ahead_seconds: float,
        load: IngestLoad,
        rows_due: RowsDue,
        server_forgotten: ServerForgotten,
        server_contradicted: ServerContradicted,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.accepted = 0
        self.rejected: dict[str, int] = {}
        """Samples that were not taken, by code."""
        self.refused: dict[str, int] = {}
        """Bodies and frames of which nothing could be taken, by code."""
        self.forgotten_servers = 0
        self.load = load
        self.draining = False
        self._state = state
        self._contract = state.contract
        self._rows = RowReader(state.contract.features)
        self._max_ahead_seconds = max_ahead_seconds
        self._rows_due = rows_due
        self._server_forgotten = server_forgotten
        self._server_contradicted = server_contradicted
        self._wall = wall
        # A sample of the last steps is one of the present: an agent may send a step when it is over.
        self._present_seconds = max_ahead_seconds + 2 * state.contract.step_seconds

    @property
    def ignored_features(self) -> int:
        """Values of features that the model does not know."""
        return self._rows.ignored

    async def take(self, samples: Iterable[tuple[int, Sample | InvalidInputError]]) -> IngestResult:
        """Take samples by their index; a bad one is rejected alone.

        Raises `DrainingError` while the daemon stops, before anything is taken.
        """
        if self.draining:
            raise DrainingError("the daemon is stopping")
        result = IngestResult()
        rest = iter(samples)
        self.load.bodies += 1
        forgotten = self.forgotten_servers
        try:
            while self._take_slice(islice(rest, SLICE), result) == SLICE:
                await asyncio.sleep(0)
        finally:
            self.load.bodies -= 1
        if self.forgotten_servers > forgotten:
            capacity = self._state.directory.capacity
            log.warning("servers_forgotten", count=self.forgotten_servers - forgotten, max_servers=capacity)
        return result

    def _take_slice(self, samples: Iterable[tuple[int, Sample | StreamdError]], result: IngestResult) -> int:
        wall, now = self._wall(), time.monotonic()
        count = 0
        if (shortage := self._state.shortage()) is not None:
            samples = ((index, shortage if isinstance(each, Sample) else each) for index, each in samples)
        for index, sample in samples:
            count += 1
            try:
                if isinstance(sample, Sample):
                    self._take_one(sample, wall, now)
                else:
                    raise sample
            except StreamdError as error:
                self._reject(result, index, error)
            else:
                result.accepted += 1
                self.accepted += 1
        return count

    def refuse(self, error: StreamdError) -> None:
        """Count a whole body or frame that could not be taken."""
        self.refused[error.code] = self.refused.get(error.code, 0) + 1

    def _reject(self, result: IngestResult, index: int, error: StreamdError) -> None:
        self.rejected[error.code] = self.rejected.get(error.code, 0) + 1
        result.reject(index, error)

    def _take_one(self, sample: Sample, wall: float, now: float) -> None:
        at = to_epoch_seconds(sample.time)
        if at > wall + self._max_ahead_seconds:
            unit = None if isinstance(sample.time, datetime) else guess_finer_unit(at)
            looks = f"; it looks like {unit}, and epoch seconds are expected" if unit else ""
            raise TooFarAheadError(
                f"time {at:.0f} is {at - wall:.0f} s ahead of the clock, at most {self._max_ahead_seconds:g} s{looks}"
            )
        row = self._rows.read_row(sample.values)
        directory = self._state.directory
        slot = directory.slots.get(sample.server)
        if slot is None:
            check_server_name(sample.server)
            if not row.mask and sample.status is None:
                return  # nothing the model knows: no reason to keep a window
            slot = self._admit(sample.server, wall)
        elif not row.mask and sample.status is None:
            return
        step = self._contract.to_step(at)
        if slot in self._state.ahead.contradicted_since and at > wall - self._present_seconds:
            self._server_contradicted.contradict(slot)
        try:
            due = self._state.windows.write_sample(slot, step, row, sample.status, now)
        except TooOldError:
            raise self._too_old(at, slot, wall) from None
        directory.touch(slot, wall)
        if due:
            self._rows_due.mark_due(slot, due)

    def _too_old(self, at: float, slot: int, wall: float) -> TooOldError:
        newest = self._contract.to_origin(self._state.windows.get_latest_step(slot))
        ahead = f", {newest - wall:.0f} s ahead of the clock" if slot in self._state.ahead.contradicted_since else ""
        return TooOldError(
            f"time {at:.0f} is too old: this server's newest row ends at {newest}{ahead}, and a sample may lie"
            f" {self._state.windows.late_steps} steps of {self._contract.step_seconds} s behind"
        )

    def _admit(self, server: str, wall: float) -> int:
        slot, forgotten = self._state.admit(server, wall)
        if forgotten is not None:
            self._server_forgotten.forget(slot)
            self.forgotten_servers += 1
        return slot


def to_epoch_seconds(given: Time) -> float:
    """Return a time as epoch seconds; raises `InvalidTimeError` where it is not finite or before 1970."""
    seconds = given.timestamp() if isinstance(given, datetime) else given
    if not math.isfinite(seconds) or seconds < 0:
        raise InvalidTimeError(f"time is {seconds!r}, expected finite epoch seconds from 1970 on")
    return seconds
