"""Writes samples into the windows, each accepted or rejected alone, and marks the servers that become due.

Runs on the event loop and gives way to it after each slice of samples; waits for nothing else.
"""

import asyncio
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from streamd.core.access.caller import ANYBODY, Caller
from streamd.core.access.scopes import Scope
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
from streamd.runtime.admission import Admission
from streamd.runtime.state.state import State
from streamd.runtime.write_access import ServerWriter

SLICE = 1_000
"""The number of samples that are taken before the event loop gets its turn."""

_VALUES_WORK_SHIFT, _POINTS_WORK_SHIFT, _ERROR_WORK = 6, 4, 10
"""Each 64 values of a sample take as long as one more sample, or each 16 if they are points. To reject a sample takes
as long as to accept ten."""

_ADMISSION_WORK = 50
"""To give a new server a slot takes as long as so many samples: space is reserved in the files, and memory is new."""


class RowsDue(Protocol):
    """A receiver of due servers (the pipeline)."""

    def mark_due(self, slot: int, rows: int) -> None:
        """Queue a server that has `rows` more due rows."""
        ...


class ServerContradicted(Protocol):
    """A watcher of servers whose newest row is ahead of the clock."""

    def contradict(self, slot: int) -> None:
        """Handle that such a server sent a present sample."""
        ...


class PointTaker(Protocol):
    """A taker of samples as points of rows that are means (`MeanSamples`)."""

    async def take_samples(
        self, samples: Sequence[tuple[int, Sample]], caller: Caller
    ) -> list[tuple[int, StreamdError]]:
        """Store a caller's samples with their index in the body; returns the errors of those that were rejected."""
        ...


@dataclass(slots=True)
class IngestLoad:
    """The number of bodies that are being taken; while there is one, more rows are certain to arrive."""

    bodies: int = 0

    @property
    def expects_rows(self) -> bool:
        """Whether a body is being taken."""
        return self.bodies > 0


class Ingest:
    """Takes samples; each accepted one is in the window store when `take_samples` returns.

    `wall` returns epoch seconds.
    """

    def __init__(
        self,
        state: State,
        *,
        max_ahead_seconds: float,
        load: IngestLoad,
        admission: Admission,
        rows_due: RowsDue,
        server_contradicted: ServerContradicted,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.accepted = 0
        self.rejected: dict[str, int] = {}
        """The number of rejected samples, by error code."""
        self.refused: dict[str, int] = {}
        """The number of bodies and frames that were rejected as a whole, by error code."""
        self.load = load
        self.points: PointTaker | None = None
        """Takes the samples instead, if rows are means."""
        self.is_draining = False
        self._state = state
        self._contract = state.contract
        self.rows = RowReader(state.contract.features)
        """Reads the values of samples, and counts those that the model does not know."""
        self._max_ahead_seconds = max_ahead_seconds
        self.rows_due = rows_due
        self._admission = admission
        # Looked up once: they are used for each sample.
        self._contradicted_since = state.ahead.contradicted_since
        self._slots = state.directory.slots
        self._touch = state.directory.touch
        self._to_step = state.contract.to_step
        self._write_sample = state.windows.write_sample
        self._server_contradicted = server_contradicted
        self._wall = wall
        # Samples of the last two steps are present: an agent may send a step after its end.
        self._present_seconds = max_ahead_seconds + 2 * state.contract.step_seconds

    @property
    def ignored_features(self) -> int:
        """The number of values of features that the model does not know."""
        return self.rows.ignored

    async def take_samples(
        self, samples: Iterable[tuple[int, Sample | InvalidInputError]], caller: Caller = ANYBODY
    ) -> IngestResult:
        """Take samples, each with its index in the body; a bad one, or one that the caller may not send, is rejected
        alone.

        Raises `DrainingError` while the daemon stops, before any sample is taken.
        """
        if self.is_draining:
            raise DrainingError("the daemon is stopping")
        result = IngestResult()
        rest: Iterator[tuple[int, Sample | StreamdError]] = iter(samples)
        load, admission = self.load, self._admission
        load.bodies += 1
        try:
            if self.points is not None:
                await self._take_as_points(self.points, rest, result, caller)
            else:
                while self._take_slice(rest, result, caller):
                    await asyncio.sleep(0)
        finally:
            load.bodies -= 1
            if caller.has_row_limit:
                caller.usage.charge_rows(result.accepted + result.rejected, time.monotonic())
        if admission.forgotten_servers != admission.reported:
            admission.report_forgotten()
        return result

    def _take_slice(
        self, samples: Iterable[tuple[int, Sample | StreamdError]], result: IngestResult, caller: Caller
    ) -> bool:
        """Take the samples of one turn of the event loop; returns whether there may be more."""
        wall, now, recalls_write = self._wall(), time.monotonic(), caller.recalls_write
        work = 0
        if self._state.can_run_short and (shortage := self._state.find_shortage()) is not None:
            samples = ((index, shortage if isinstance(each, Sample) else each) for index, each in samples)
        for index, sample in samples:
            work += 1
            try:
                if isinstance(sample, Sample):
                    work += len(sample.values) >> _VALUES_WORK_SHIFT
                    if recalls_write is None or recalls_write(sample.server):
                        work += self._take_sample(sample, wall, now, caller)
                    else:
                        work += self._take_first_sample(sample, wall, now, caller)
                else:
                    raise sample
            except StreamdError as error:
                work += _ERROR_WORK
                self._reject(result, index, error)
            else:
                result.accepted += 1
                self.accepted += 1
            if work >= SLICE:
                return True
        return False

    async def _take_as_points(
        self,
        points: PointTaker,
        samples: Iterable[tuple[int, Sample | StreamdError]],
        result: IngestResult,
        caller: Caller,
    ) -> None:
        """Take samples of which the mean of a step counts."""
        rest = iter(samples)
        is_more = True
        while is_more:
            taken: list[tuple[int, Sample]] = []
            is_more = self._choose_samples(rest, taken, result)
            errors = await points.take_samples(taken, caller)
            for index, error in errors:
                self._reject(result, index, error)
            result.accepted += len(taken) - len(errors)
            self.accepted += len(taken) - len(errors)

    def _choose_samples(
        self,
        samples: Iterable[tuple[int, Sample | StreamdError]],
        taken: list[tuple[int, Sample]],
        result: IngestResult,
    ) -> bool:
        """Add the samples of one turn of the event loop to `taken`; returns whether there may be more."""
        work = 0
        for index, sample in samples:
            if isinstance(sample, Sample):
                work += 1 + (len(sample.values) >> _POINTS_WORK_SHIFT)
                taken.append((index, sample))
            else:
                work += 1 + _ERROR_WORK
                self._reject(result, index, sample)
            if work >= SLICE:
                return True
        return False

    def check_time(self, sample: Sample, wall: float) -> float:
        """Return the time of a sample in epoch seconds.

        Raises `InvalidTimeError`, and `TooFarAheadError` if it lies beyond the limit; `wall` is now.
        """
        at = to_epoch_seconds(sample.time)
        if at > wall + self._max_ahead_seconds:
            raise self._make_too_far_ahead_error(sample, at, wall)
        return at

    def count_refused(self, error: StreamdError) -> None:
        """Count a body or frame that was rejected as a whole."""
        self.refused[error.code] = self.refused.get(error.code, 0) + 1

    def _reject(self, result: IngestResult, index: int, error: StreamdError) -> None:
        self.rejected[error.code] = self.rejected.get(error.code, 0) + 1
        result.reject(index, error)

    def _take_first_sample(self, sample: Sample, wall: float, now: float, caller: Caller) -> int:
        """Take a sample of a server that the caller is not known to write; raises `ForbiddenError` if it may not."""
        writer = ServerWriter(caller, self._slots)
        writer.add_server(sample.server)
        try:
            return self._take_sample(sample, wall, now, caller)
        finally:
            writer.drop_unless_admitted(sample.server)

    def _take_sample(self, sample: Sample, wall: float, now: float, caller: Caller) -> int:
        """Take a sample; returns how much work it was beyond that of a usual one."""
        at = to_epoch_seconds(sample.time)
        if at > wall + self._max_ahead_seconds:
            raise self._make_too_far_ahead_error(sample, at, wall)
        row = self.rows.read_row(sample.values)
        slot, more_work = self._slots.get(sample.server), 0
        if slot is None:
            if not row.mask and sample.status is None:
                check_server_name(sample.server)
                return 0  # without any known feature or status, the server gets no window
            slot = self._admission.admit(sample.server, wall, caller.covers_all(Scope.ADMIN))
            more_work = _ADMISSION_WORK
        elif not row.mask and sample.status is None:
            return 0
        step = self._to_step(at)
        if self._contradicted_since and slot in self._contradicted_since and at > wall - self._present_seconds:
            self._server_contradicted.contradict(slot)
        try:
            due = self._write_sample(slot, step, row, sample.status, now)
        except TooOldError:
            raise self._make_too_old_error(at, slot, wall) from None
        self._touch(slot, wall)
        if due:
            self.rows_due.mark_due(slot, due)
        return more_work

    def _make_too_far_ahead_error(self, sample: Sample, at: float, wall: float) -> TooFarAheadError:
        unit = None if isinstance(sample.time, datetime) else guess_finer_unit(at)
        hint = f"; it looks like {unit}, and epoch seconds are expected" if unit else ""
        return TooFarAheadError(
            f"time {at:.0f} is {at - wall:.0f} s ahead of the clock, at most {self._max_ahead_seconds:g} s{hint}"
        )

    def _make_too_old_error(self, at: float, slot: int, wall: float) -> TooOldError:
        newest = self._contract.to_origin(self._state.windows.get_latest_step(slot))
        ahead = f", {newest - wall:.0f} s ahead of the clock" if slot in self._state.ahead.contradicted_since else ""
        return TooOldError(
            f"time {at:.0f} is too old: this server's newest row ends at {newest}{ahead}, and a sample may lie"
            f" {self._state.windows.late_steps} steps of {self._contract.step_seconds} s behind"
        )


def to_epoch_seconds(given: Time) -> float:
    """Return a time as epoch seconds; raises `InvalidTimeError` if it is not finite or before 1970."""
    seconds = given.timestamp() if isinstance(given, datetime) else given
    if not math.isfinite(seconds) or seconds < 0:
        raise InvalidTimeError(f"time is {seconds!r}, expected finite epoch seconds from 1970 on")
    return seconds
