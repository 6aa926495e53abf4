"""Reads the forecasts that are exported as metrics: from the board, for `/metrics/forecasts` and remote write.

Runs on the event loop of the process that posts forecasts, so that none is torn. Formats and sends nothing.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import structlog

from streamd.core.arrays import Float32, Numbers, Slots
from streamd.core.contract import ModelContract
from streamd.core.forecast_export.choice import ForecastExport
from streamd.runtime.state.state import State

log = structlog.get_logger(__name__)

MAX_ORIGIN_AHEAD_SECONDS = 86_400.0
"""A forecast from rows that lie further ahead of the clock is left out: the clock of its agent is wrong."""

_UNDECIDED, _REFUSED, _CHOSEN = -1, 0, 1


@dataclass(frozen=True, slots=True)
class ExportedForecasts:
    """Forecasts of some servers, copied from the board; NaN for a target that is unknown, or not sent any more."""

    names: list[str]
    origins: Numbers
    """Epoch seconds, `(n,)`."""
    values: Float32
    """`(n, cells)`, in the order of `ForecastExport.cells`."""


class ForecastExports:
    """The forecasts of the chosen servers; whether a server is chosen is decided once."""

    def __init__(self, state: State, export: ForecastExport, wall: Callable[[], float] = time.time) -> None:
        self.export = export
        self.contract: ModelContract = state.contract
        self.wall = wall
        self.board = state.board
        self.directory = state.directory
        self._windows = state.windows.arrays
        if export.beyond:
            log.warning("forecast_horizons_left_out", horizons=export.beyond, reason="the model forecasts less far")
        self._decisions = np.full(state.directory.capacity, _UNDECIDED, np.int8)

    def forget(self, slot: int) -> None:
        """Forget what was decided on a slot that gets another server."""
        self._decisions[slot] = _UNDECIDED

    def is_chosen(self, slot: int, name: str) -> bool:
        """Whether the globs choose the server `name`, which has this slot."""
        decided = int(self._decisions[slot])
        if decided == _UNDECIDED:
            decided = self._decisions[slot] = _CHOSEN if self.export.globs.matches(name) else _REFUSED
        return decided == _CHOSEN

    def find_chosen(self, slots: Slots) -> npt.NDArray[np.bool_]:
        """Return which of the servers of these slots are chosen, `(n,)`.

        If the globs are costly, those that `decide` has not decided yet count as not chosen.
        """
        if not self.export.globs.is_costly:
            self.decide(slots)
        chosen: npt.NDArray[np.bool_] = self._decisions[slots] == _CHOSEN
        return chosen

    def decide(self, slots: Slots) -> None:
        """Decide which of the servers of these slots are chosen, as far as that was not decided before."""
        for slot in slots[self._decisions[slots] == _UNDECIDED].tolist():
            if (name := self.directory.names[slot]) is not None:
                self.is_chosen(slot, name)

    def find_posted(self) -> Slots:
        """Return all slots that have a forecast, in rising order."""
        return np.flatnonzero(self.board.get_serials(np.arange(self.directory.capacity)))

    def find_live(self, slots: Slots, now: float) -> Slots:
        """Return those of the slots that have a forecast which is not too old (`now`: epoch seconds)."""
        ages = now - self.read_origins(slots)
        is_live = (ages <= self.export.max_age_seconds) & (ages >= -MAX_ORIGIN_AHEAD_SECONDS)
        live: Slots = slots[is_live & (self.board.get_serials(slots) > 0)]
        return live

    def read_origins(self, slots: Slots) -> Numbers:
        """Return the origins of the forecasts of slots, in epoch seconds; without a forecast they mean nothing."""
        return self.contract.to_origins(self.board.get_steps(slots))

    def read_names(self, slots: Slots) -> list[str]:
        """Return the names of the servers of slots, each of which has one."""
        return [self.directory.names[slot] or "" for slot in slots.tolist()]

    def read_forecasts(self, slots: Slots) -> ExportedForecasts:
        """Return the forecasts of slots, each of which has one."""
        export = self.export
        values = export.cut(self.board.values, slots)
        sent = self.find_sent(slots).repeat(export.cells_per_target, axis=1)
        values[~sent] = np.nan
        return ExportedForecasts(self.read_names(slots), self.read_origins(slots), values)

    def read_curves(self, slots: Slots) -> Float32:
        """Return the chosen curves of slots, `(n, targets, quantiles, horizon)`."""
        return self.export.cut_curves(self.board.values, slots)

    def find_sent(self, slots: Slots) -> npt.NDArray[np.bool_]:
        """Return which of the chosen targets have had a value lately and are known, `(n, targets)`.

        A value that came after the forecast makes a target sent that is unknown in it.
        """
        is_sent = self.export.find_sent_targets(self._windows["values"], self._windows["newest"], slots)
        return is_sent & self.export.find_known_targets(self.board.values, slots)
