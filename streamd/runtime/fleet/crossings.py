"""Finds when the newest forecasts cross the thresholds of all rules, whether or not that is an alert.

Reads the forecasts that changed, in chunks, as the rules of the alerts are evaluated. Belongs to the thread of the
overview.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from streamd.core.alerts.crossings import find_crossings
from streamd.core.alerts.rules import AlertRule
from streamd.core.arrays import Float64
from streamd.core.fleet.crossing_table import CrossingTable, FiringRules, FirstCrossings
from streamd.core.fleet.outer_screen import OuterScreen
from streamd.runtime.alerts.alert_making import RuleRows, join_rule_rows
from streamd.runtime.alerts.evaluator import MAX_COLLECTED_BYTES
from streamd.runtime.alerts.screening import ForecastChunk, ForecastScreen
from streamd.runtime.fleet.snapshot import FleetSnapshot
from streamd.runtime.state.state import State

_UNREAD = -1
"""The serial of a forecast that must be read again."""


class FleetCrossings:
    """The crossings of all servers by the rules that apply to them."""

    def __init__(self, state: State, rules: Sequence[AlertRule]) -> None:
        capacity = state.directory.capacity
        self.rules = tuple(rules)
        self._state = state
        self._screen = ForecastScreen(state, rules, OuterScreen(rules))
        self._table = CrossingTable(len(rules), capacity)
        self._nothing_active = np.zeros((1, len(rules)), np.bool_)
        self._serials = np.zeros(capacity, np.int64)
        self._generations = np.full(capacity, -1, np.int64)

    def update(self, snapshot: FleetSnapshot) -> Iterator[None]:
        """Read the forecasts that are newer than before; yields after each chunk, so that the caller can wait."""
        is_changed = (snapshot.serials != self._serials) | (snapshot.generations != self._generations)
        changed = np.flatnonzero(is_changed)
        self._serials[changed] = snapshot.serials[changed]
        self._generations[changed] = snapshot.generations[changed]
        if not self.rules:
            return
        self._table.clear(changed)
        posted = changed[snapshot.serials[changed] > 0]
        self._serials[posted] = _UNREAD
        collected: list[list[RuleRows]] = [[] for _ in self.rules]
        left = MAX_COLLECTED_BYTES
        for chunk in self._screen.copy_chunks(posted):
            for place, rows in self._screen_chunk(chunk, snapshot).items():
                collected[place].append(rows)
                left -= rows.values.nbytes
            if left <= 0:
                self._put_crossings(collected)
                left = MAX_COLLECTED_BYTES
            yield
        self._put_crossings(collected)

    def _screen_chunk(self, chunk: ForecastChunk, snapshot: FleetSnapshot) -> dict[int, RuleRows]:
        """Note which forecasts are read, and return those that cross a threshold by the place of the rule."""
        slots = chunk.forecasts.slots
        is_current = self._screen.find_current(chunk) & (chunk.generations == snapshot.generations[slots])
        # Others are of a server that came after the snapshot, or were torn: they are read the next time.
        self._serials[slots[is_current]] = snapshot.serials[slots[is_current]]
        self._table.put_origins(slots, self._state.contract.to_origins(chunk.forecasts.steps))
        return self._screen.select(chunk, is_current, self._nothing_active)

    def _put_crossings(self, collected: list[list[RuleRows]]) -> None:
        """Find the crossings of what was collected for each rule, and begin to collect again.

        Of many chunks together, since a rule takes about as long for one forecast as for a hundred.
        """
        for place, parts in enumerate(collected):
            if parts:
                rows = join_rule_rows(parts)
                self._table.put(place, rows.slots, self._find_crossings(self.rules[place], rows))
                parts.clear()

    def _find_crossings(self, rule: AlertRule, rows: RuleRows) -> Float64:
        found = [
            find_crossings(rows.values[:, :, quantile], rule.threshold, is_above=rule.is_above)
            for quantile in rule.range_indices
        ]
        return np.stack(found, axis=1)

    def find_first(self, rules: Sequence[int], firing: FiringRules, now: float) -> FirstCrossings:
        """Return the crossing of each server among rules, by their places, that matters most (`CrossingTable`)."""
        contract = self._state.contract
        return self._table.find_first(
            rules, firing, step_seconds=contract.step_seconds, horizon=contract.horizon, now=now
        )

    def find_all(self, rules: Sequence[int], slot: int) -> list[tuple[int, Float64]]:
        """Return all crossings of a server among rules (`CrossingTable`)."""
        return self._table.find_all(rules, slot, step_seconds=self._state.contract.step_seconds)
