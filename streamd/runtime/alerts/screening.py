"""Reads what the rules are evaluated for: the newest forecasts of the board, screened in chunks, and windows.

The writers of both do not wait for it. Runs in the thread of the alerts; which alerts follow is up to the evaluator.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from streamd.core.alerts.evaluation import Flags, RuleScreen
from streamd.core.alerts.matches import RuleMatches
from streamd.core.alerts.rules import AlertRule
from streamd.core.arrays import Float32, Numbers, Slots
from streamd.core.recent_values import count_recent_rows
from streamd.core.state.forecast_copies import CopiedForecasts, copy_forecasts
from streamd.core.state.window_copies import copy_window
from streamd.core.values import find_values
from streamd.runtime.alerts.alert_making import RuleRows
from streamd.runtime.state.state import State

MAX_CHUNK_SLOTS = 512
MIN_CHUNK_SLOTS = 16
MAX_CHUNK_BYTES = 2 * 2**20
"""Forecasts are copied and screened in chunks of at most so many slots and bytes."""


class ForecastChunk(NamedTuple):
    """Copied forecasts, and the generations of their slots from before the copy."""

    forecasts: CopiedForecasts
    generations: Numbers


class NearForecasts(Protocol):
    """Finds the few forecasts that rules must be evaluated for."""

    @property
    def targets(self) -> Slots:
        """The targets that the rules need, by index, rising."""
        ...

    @property
    def target_places(self) -> Slots:
        """The place of each rule's target among them, `(rules,)`."""
        ...

    def find_near(self, forecasts: Float32) -> Flags:
        """Return which of `forecasts (n, targets, horizon, quantiles)` each rule must judge, `(n, rules)`."""
        ...


class ForecastScreen:
    """The screen of some rules: most forecasts are clear of all of them, and need not be judged.

    `near` decides which ones these are; without it, a `RuleScreen` does.
    """

    def __init__(self, state: State, rules: Sequence[AlertRule], near: NearForecasts | None = None) -> None:
        self._state = state
        self._screen: NearForecasts = RuleScreen(rules) if near is None else near
        self._matches = RuleMatches(rules, state.directory.names)
        _, horizon, quantiles = state.contract.forecast_shape
        forecast_bytes = 4 * horizon * quantiles * max(len(self._screen.targets), 1)
        self._chunk_slots = min(max(MAX_CHUNK_BYTES // forecast_bytes, MIN_CHUNK_SLOTS), MAX_CHUNK_SLOTS)

    def copy_chunks(self, slots: Slots) -> Iterator[ForecastChunk]:
        """Yield the newest forecasts of slots, rising; each chunk is copied when it is requested."""
        for first in range(0, len(slots), self._chunk_slots):
            some = slots[first : first + self._chunk_slots]
            generations = self._state.directory.generations[some]
            copied = copy_forecasts(self._state.board, some, self._screen.targets)
            yield ForecastChunk(copied, generations[np.searchsorted(some, copied.slots)])

    def find_current(self, chunk: ForecastChunk) -> Flags:
        """Return which of the slots still have the server that they had before the copy, `(n,)`."""
        current: Flags = self._state.directory.generations[chunk.forecasts.slots] == chunk.generations
        return current

    def select(self, chunk: ForecastChunk, is_new: Flags, is_active: Flags) -> dict[int, RuleRows]:
        """Return the forecasts that a rule must judge, by the place of the rule.

        Those are new, `is_new (n,)`, of a server that the rule applies to, and near its threshold or of an active
        alert, `is_active (n, rules)`.
        """
        copied, generations = chunk
        busy = (self._screen.find_near(copied.values) | is_active) & is_new[:, None]
        busy &= self._matches.find(copied.slots, generations)
        selected = {}
        for place in np.flatnonzero(busy.any(axis=0)).tolist():
            rows = np.flatnonzero(busy[:, place])
            selected[place] = RuleRows(
                copied.slots[rows],
                self._state.contract.to_origins(copied.steps[rows]),
                copied.contexts[rows],
                generations[rows],
                [copied.get_model(row) for row in rows.tolist()],
                copied.values[rows, self._screen.target_places[place]],
            )
        return selected


class RecentValues:
    """Reads whether a feature was sent lately. If not, its forecast is still a number while the window has a value."""

    def __init__(self, state: State) -> None:
        contract = state.contract
        self._windows = state.windows
        self._rows = count_recent_rows(contract.context_length)
        self._window = np.empty(contract.input_shapes["encoder_cont"], np.float32)
        self._statuses = np.empty(contract.context_length, np.int32)

    def has_value(self, slot: int, feature: int) -> bool:
        """Whether a feature has a value in the newest rows of a slot's window."""
        if copy_window(self._windows, slot, self._window, self._statuses) is None:
            return False  # its writer was stopped in the middle of a change
        return bool(find_values(self._window[-self._rows :, feature]).any())
