"""Writes one sample into the windows: checks its time, packs its row, gives a new server a slot.

Runs on the event loop. Which samples are taken, and when the loop gets its turn, is decided in `ingest.py`.
"""

import math
from collections.abc import Callable
from datetime import datetime
from typing import Any, Protocol

from streamd.core.access.caller import Caller
from streamd.core.access.scopes import Scope
from streamd.core.epochs import guess_finer_unit
from streamd.core.errors import InvalidTimeError, TooFarAheadError, TooOldError
from streamd.core.state.directory import check_server_name
from streamd.core.state.rows import RowReader
from streamd.core.state.samples import CellSample, Sample, Time
from streamd.runtime.admission import Admission
from streamd.runtime.state.state import State
from streamd.runtime.write_access import ServerWriter

AnySample = Sample | CellSample[Any]

MarkDue = Callable[[int, int], None]
"""`RowsDue.mark_due`, or `DueBatch.add`."""

ADMISSION_WORK = 50
"""To give a new server a slot takes as long as so many samples: space is reserved in the files, and memory is new."""


class ServerContradicted(Protocol):
    """A watcher of servers whose newest row is ahead of the clock."""

    def contradict(self, slot: int) -> None:
        """Handle that such a server sent a present sample."""
        ...


class SampleWriter:
    """Writes samples of one state, each alone.

    `before_change` is called before a slot may get another server, or loses rows: servers that became due and are not
    queued yet are queued then.
    """

    def __init__(
        self,
        state: State,
        *,
        max_ahead_seconds: float,
        admission: Admission,
        server_contradicted: ServerContradicted,
        before_change: Callable[[], None],
    ) -> None:
        self.rows = RowReader(state.contract.features)
        """Reads the values of samples, and counts those that the model does not know."""
        self._state = state
        self._contract = state.contract
        self._max_ahead_seconds = max_ahead_seconds
        self._admission = admission
        self._server_contradicted = server_contradicted
        self._before_change = before_change
        # Looked up once: they are used for each sample.
        self._contradicted_since = state.ahead.contradicted_since
        self._slots = state.directory.slots
        self._touch = state.directory.touch
        self._to_step = state.contract.to_step
        self._write_sample = state.windows.write_sample
        # Samples of the last two steps are present: an agent may send a step after its end.
        self._present_seconds = max_ahead_seconds + 2 * state.contract.step_seconds

    def check_time(self, sample: Sample, wall: float) -> float:
        """Return the time of a sample in epoch seconds.

        Raises `InvalidTimeError`, and `TooFarAheadError` if it lies beyond the limit; `wall` is now.
        """
        at = to_epoch_seconds(sample.time)
        if at > wall + self._max_ahead_seconds:
            raise self._make_too_far_ahead_error(sample, at, wall)
        return at

    def write_first_sample(self, sample: AnySample, wall: float, now: float, caller: Caller, mark_due: MarkDue) -> int:
        """Write a sample of a server that the caller is not known to write; raises `ForbiddenError` if it may not."""
        writer = ServerWriter(caller, self._slots)
        writer.add_server(sample.server)
        try:
            return self.write_sample(sample, wall, now, caller, mark_due)
        finally:
            writer.drop_unless_admitted(sample.server)

    def write_sample(self, sample: AnySample, wall: float, now: float, caller: Caller, mark_due: MarkDue) -> int:
        """Write a sample; returns how much work it was beyond that of a usual one."""
        at = to_epoch_seconds(sample.time)
        if at > wall + self._max_ahead_seconds:
            raise self._make_too_far_ahead_error(sample, at, wall)
        values = sample.values
        row = self.rows.read_row(values) if isinstance(values, dict) else self.rows.read_cells(values)
        slot, more_work = self._slots.get(sample.server), 0
        if slot is None:
            if not row.mask and sample.status is None:
                check_server_name(sample.server)
                return 0  # without any known feature or status, the server gets no window
            self._before_change()  # the slot may be that of a server which is forgotten now
            slot = self._admission.admit(sample.server, wall, caller.covers_all(Scope.ADMIN))
            more_work = ADMISSION_WORK
        elif not row.mask and sample.status is None:
            return 0
        step = self._to_step(at)
        if self._contradicted_since and slot in self._contradicted_since and at > wall - self._present_seconds:
            self._before_change()
            self._server_contradicted.contradict(slot)
        try:
            due = self._write_sample(slot, step, row, sample.status, now)
        except TooOldError:
            raise self._make_too_old_error(at, slot, wall) from None
        self._touch(slot, wall)
        if due:
            mark_due(slot, due)
        return more_work

    def _make_too_far_ahead_error(self, sample: AnySample, at: float, wall: float) -> TooFarAheadError:
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
