"""Writes samples into the windows, each accepted or rejected alone, and marks the servers that become due.

Runs on the event loop and gives way to it after each slice of samples; waits for nothing else.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from streamd.core.access.caller import ANYBODY, Caller
from streamd.core.errors import (
    DrainingError,
    InvalidInputError,
    StreamdError,
)
from streamd.core.state.column_frames import ColumnFrame
from streamd.core.state.samples import CellSample, IngestResult, Sample
from streamd.runtime.admission import Admission
from streamd.runtime.due_batch import DueBatch, RowsDue
from streamd.runtime.frame_writer import FRAME_SLICE, FramePart, FrameWriter
from streamd.runtime.sample_writer import SampleWriter, ServerContradicted
from streamd.runtime.state.state import State

SLICE = 1_000
"""The number of samples that are taken before the event loop gets its turn."""

_VALUES_WORK_SHIFT, _POINTS_WORK_SHIFT, _ERROR_WORK = 6, 4, 10
"""Each 64 values of a sample take as long as one more sample, or each 16 if they are points. To reject a sample takes
as long as to accept ten."""

_PART_WORK, _OTHER_WORK = 256, 5
"""In the work of a frame, a part of it takes as long as so many rows that are written together, and so does a row that
is taken alone: a sender may cut its frame into hundreds of parts."""

_FEW_WORK = 200
"""`take_few` stops after so much more work than usual: four new servers, or 20 errors."""


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
        self.frames = FrameWriter(state, max_ahead_seconds)
        """Writes the usual rows of frames of columns."""
        self.rows_due = rows_due
        self._due = DueBatch(rows_due)
        self._admission = admission
        self._writer = SampleWriter(
            state,
            max_ahead_seconds=max_ahead_seconds,
            admission=admission,
            server_contradicted=server_contradicted,
            before_change=self._due.flush,
        )
        self.rows = self._writer.rows
        self.check_time = self._writer.check_time
        self._wall = wall

    @property
    def ignored_features(self) -> int:
        """The number of values of features that the model does not know."""
        return self.rows.ignored + self.frames.ignored

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
        self.load.bodies += 1
        try:
            if self.points is not None:
                await self._take_as_points(self.points, rest, result, caller)
            else:
                while self._take_slice(rest, result, caller):
                    await asyncio.sleep(0)
        finally:
            self._finish_body(result.accepted + result.rejected, caller)
        return result

    def take_few(self, samples: Sequence[CellSample[Any]], caller: Caller = ANYBODY) -> list[StreamdError | None]:
        """Take a few samples in one turn of the event loop; returns the error of each, `None` if it was accepted.

        It stops early if they are more work than usual, and returns fewer errors than there are samples: the rest is
        not taken yet. Not for rows that are means. Raises `DrainingError` as `take_samples` does.
        """
        if self.is_draining:
            raise DrainingError("the daemon is stopping")
        errors: list[StreamdError | None] = []
        self.load.bodies += 1
        try:
            errors = self._take_each(samples, caller)
        finally:
            self._due.flush()
            self._finish_body(len(errors), caller)
        return errors

    def _take_each(self, samples: Sequence[CellSample[Any]], caller: Caller) -> list[StreamdError | None]:
        wall, now, recalls_write = self._wall(), time.monotonic(), caller.recalls_write
        shortage = self._state.find_shortage() if self._state.can_run_short else None
        errors: list[StreamdError | None] = []
        more_work, mark_due, writer = 0, self._due.add, self._writer
        for sample in samples:
            try:
                if shortage is not None:
                    raise shortage
                if recalls_write is None or recalls_write(sample.server):
                    more_work += writer.write_sample(sample, wall, now, caller, mark_due)
                else:
                    more_work += writer.write_first_sample(sample, wall, now, caller, mark_due)
            except StreamdError as error:
                more_work += _ERROR_WORK
                self.count_rejected(error)
                errors.append(error)
            else:
                errors.append(None)
            if more_work >= _FEW_WORK:
                break
        self.accepted += errors.count(None)
        return errors

    async def take_frame(self, frame: ColumnFrame, caller: Caller = ANYBODY) -> IngestResult:
        """Take a frame of columns, as `take_samples` does with its rows.

        In each part of it the usual rows are written first, and then the others, in their order.
        """
        if self.points is not None or not self.frames.can_write:
            return await self.take_samples(frame.make_samples(), caller)
        if self.is_draining:
            raise DrainingError("the daemon is stopping")
        result, work = IngestResult(), 0
        self.load.bodies += 1
        try:
            for part in self.frames.cut_frame(frame, self._wall()):
                others = self._write_part(frame, part, result, caller)
                rest = frame.make_samples(others)
                while others and self._take_slice(rest, result, caller):
                    await asyncio.sleep(0)
                work += part.end - part.begin + _PART_WORK + _OTHER_WORK * len(others)
                if work >= FRAME_SLICE and part.end < len(frame):
                    work = 0
                    await asyncio.sleep(0)
        finally:
            self._finish_body(result.accepted + result.rejected, caller)
        return result

    def _write_part(self, frame: ColumnFrame, part: FramePart, result: IngestResult, caller: Caller) -> Sequence[int]:
        """Write the usual rows of a part; returns the places of the others in the frame."""
        others, due = self.frames.write_part(frame, part, caller, self._wall())
        if len(due):
            self.rows_due.mark_due_many(due)
        count = part.end - part.begin - len(others)
        result.accepted += count
        self.accepted += count
        return others

    def _finish_body(self, rows: int, caller: Caller) -> None:
        """Note that a body or frame has ended, of which so many rows were accepted or rejected."""
        self.load.bodies -= 1
        if caller.has_row_limit:
            caller.usage.charge_rows(rows, time.monotonic())
        if self._admission.forgotten_servers != self._admission.reported:
            self._admission.report_forgotten()

    def _take_slice(
        self, samples: Iterable[tuple[int, Sample | StreamdError]], result: IngestResult, caller: Caller
    ) -> bool:
        """Take the samples of one turn of the event loop; returns whether there may be more."""
        wall, now, recalls_write = self._wall(), time.monotonic(), caller.recalls_write
        work, mark_due, writer = 0, self.rows_due.mark_due, self._writer
        if self._state.can_run_short and (shortage := self._state.find_shortage()) is not None:
            samples = ((index, shortage if isinstance(each, Sample) else each) for index, each in samples)
        for index, sample in samples:
            work += 1
            try:
                if isinstance(sample, Sample):
                    work += len(sample.values) >> _VALUES_WORK_SHIFT
                    if recalls_write is None or recalls_write(sample.server):
                        work += writer.write_sample(sample, wall, now, caller, mark_due)
                    else:
                        work += writer.write_first_sample(sample, wall, now, caller, mark_due)
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

    def count_refused(self, error: StreamdError) -> None:
        """Count a body or frame that was rejected as a whole."""
        self.refused[error.code] = self.refused.get(error.code, 0) + 1

    def _reject(self, result: IngestResult, index: int, error: StreamdError) -> None:
        self.count_rejected(error)
        result.reject(index, error)

    def count_rejected(self, error: StreamdError) -> None:
        """Count a row that was rejected, by its reason."""
        self.rejected[error.code] = self.rejected.get(error.code, 0) + 1
