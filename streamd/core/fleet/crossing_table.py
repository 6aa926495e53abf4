"""The crossings of the newest forecasts by rule and server, and of each server the one that matters most.

Touches arrays only; who computes the crossings is elsewhere.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from streamd.core.alerts.evaluation import Flags
from streamd.core.arrays import Float32, Float64, Numbers, Slots
from streamd.core.fleet.conditions import Codes

NO_CROSSING = -1


class FiringRules(NamedTuple):
    """The alerts that fire and are not silenced, `n` in all."""

    rules: Numbers
    """The places of their rules, `(n,)`."""
    slots: Slots
    severities: Codes
    """Above 0; a higher one is worse."""


class FirstCrossings(NamedTuple):
    """The crossing of each server that matters most, by slot; the times are in epoch seconds, or infinity."""

    rules: Numbers
    """The place of the rule, or `NO_CROSSING`, `(capacity,)`."""
    earliest: Float64
    likely: Float64
    latest: Float64


class CrossingTable:
    """The crossings of `capacity` servers for some rules: 12 bytes for each server and rule.

    A crossing is counted in steps from the origin of the forecast that it belongs to.
    """

    def __init__(self, rules: int, capacity: int) -> None:
        self._crossings: Float32 = np.full((3, rules, capacity), np.inf, np.float32)
        self._origins = np.zeros(capacity, np.int64)

    def clear(self, slots: Slots) -> None:
        """Remove all crossings of slots, whose forecasts are not the newest any more."""
        self._crossings[:, :, slots] = np.inf

    def put_origins(self, slots: Slots, origins: Numbers) -> None:
        """Set the origins of the forecasts of slots, in epoch seconds, `(n,)`."""
        self._origins[slots] = origins

    def put(self, rule: int, slots: Slots, crossings: Float64) -> None:
        """Set the earliest, the likely and the latest crossing of a rule, `crossings (n, 3)`, for slots."""
        self._crossings[:, rule, slots] = crossings.T

    def find_first(
        self, rules: Sequence[int], firing: FiringRules, *, step_seconds: int, horizon: int, now: float
    ) -> FirstCrossings:
        """Return the crossing of each server among rules that matters most.

        It is of the worst alert that fires; of several, or without one, it is the first that is likely, else the
        earliest one. A forecast whose horizon is over by `now` (epoch seconds) crosses nothing.
        """
        capacity = len(self._origins)
        found = FirstCrossings(np.full(capacity, NO_CROSSING, np.int64), *(np.full(capacity, np.inf) for _ in range(3)))
        if not rules:
            return found
        earliest, likely, _ = some = self._crossings[:, list(rules)]
        crosses = np.isfinite(earliest) | np.isfinite(likely)
        slots = np.flatnonzero(crosses.any(axis=0) & (self._origins + horizon * step_seconds > now))
        counts = crosses[:, slots] & _find_worst(rules, firing, crosses, slots)
        earliest, likely = (np.where(counts, each[:, slots], np.inf) for each in (earliest, likely))
        # Also if none is likely: then all are alike, and the earliest one decides.
        places = np.where(likely == likely.min(axis=0), np.minimum(earliest, likely), np.inf).argmin(axis=0)
        found.rules[slots] = np.array(rules, np.int64)[places]
        for times, steps in zip(found[1:], some, strict=True):
            times[slots] = self._origins[slots] + steps[places, slots].astype(np.float64) * step_seconds
        return found

    def find_all(self, rules: Sequence[int], slot: int, *, step_seconds: int) -> list[tuple[int, Float64]]:
        """Return each crossing of a server among rules: the rule and the three times; the first likely one first."""
        found = []
        for rule in rules:
            crossing = self._crossings[:, rule, slot].astype(np.float64)
            if np.isfinite(crossing[:2]).any():
                found.append((rule, self._origins[slot] + crossing * step_seconds))
        return sorted(found, key=lambda each: (each[1][1], each[1][0]))


def _find_worst(rules: Sequence[int], firing: FiringRules, crosses: Flags, slots: Slots) -> Flags:
    """Return which rules have the worst severity of those that `slots` cross, `(rules, slots)`."""
    severities = np.zeros(crosses.shape, np.int8)
    for place, rule in enumerate(rules):
        is_of_rule = firing.rules == rule
        severities[place, firing.slots[is_of_rule]] = firing.severities[is_of_rule]
    severities = np.where(crosses[:, slots], severities[:, slots], -1)
    worst: Flags = severities == severities.max(axis=0)
    return worst
