"""The choice of the forecasts that the accuracy history keeps: of some servers, one forecast in each period.

The periods of the servers begin at different steps, by a hash of their slots, so that each step has about as many.
Keeps no forecast.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from streamd.core.accuracy.sampling import hash_origins
from streamd.core.arrays import Numbers

UNKNOWN_PERIOD = -(2**62)
"""The period of a server that has not forecast since it came, or since its rows were dropped."""

NOT_CHOSEN, LEFT_OUT = 2**62, 2**62 - 1
"""Periods that never come: of a server that no glob selects, and of one for which there was no place."""


@dataclass(frozen=True, kw_only=True)
class HistoryLimits:
    """The bounds of the accuracy history; all steps are steps of the grid."""

    servers: tuple[str, ...] = ("*",)
    """Names or globs of the servers that have a history; empty: none."""
    max_servers: int = 2_000
    """Servers with a history; the first ones that come."""
    every_steps: int = 36
    """One forecast of a server is kept in each period of so many steps."""
    retention_days: float = 14.0
    """Scores older than this, by the newest forecast of their server, are deleted."""
    settle_steps: int = 2
    """A forecast is scored once so many steps behind its horizon have closed."""

    def __post_init__(self) -> None:
        if min(self.max_servers, self.settle_steps) < 0 or self.every_steps < 1 or self.retention_days < 0:
            raise ValueError(f"{self}: expected no number below 0, and a period of at least 1 step")


class HistorySelection:
    """The servers that have a history, and the period of the newest forecast of each.

    `matches` says whether a name is selected, `names` has the names of the servers by slot; its owner changes it.
    """

    def __init__(self, limits: HistoryLimits, matches: Callable[[str], bool], names: Sequence[str | None]) -> None:
        self.servers: dict[int, str] = {}
        """The servers with a history, by slot."""
        self.left_out = 0
        """Servers that were selected while there was no place for them."""
        self._limits = limits
        self._matches = matches
        self._names = names
        slots = np.arange(len(names))
        self._phases = (hash_origins(slots, np.zeros_like(slots)) % np.uint64(limits.every_steps)).astype(np.int64)
        self._periods = np.full(len(names), UNKNOWN_PERIOD, np.int64)

    def choose_places(self, slots: Numbers, steps: Numbers) -> list[int]:
        """Return the places of the forecasts to keep among those of distinct `slots` from `steps`, both `(n,)`.

        The first forecast of a server only begins its period, so that a start does not keep those of all at once.
        """
        periods = (steps + self._phases[slots]) // self._limits.every_steps
        fresh = np.flatnonzero(periods > self._periods[slots])
        return [place for place in fresh.tolist() if self._begin_period(int(slots[place]), int(periods[place]))]

    def _begin_period(self, slot: int, period: int) -> bool:
        """Begin a period of a server; returns whether the forecast is kept."""
        before = int(self._periods[slot])
        if slot not in self.servers and not self._admit(slot):
            return False
        self._periods[slot] = period
        return before != UNKNOWN_PERIOD

    def _admit(self, slot: int) -> bool:
        name = self._names[slot]
        if name is None:
            return False
        if not self._matches(name):
            self._periods[slot] = NOT_CHOSEN
            return False
        if len(self.servers) >= self._limits.max_servers:
            self._periods[slot] = LEFT_OUT
            self.left_out += 1
            return False
        self.servers[slot] = name
        return True

    def restore_server(self, slot: int, newest_step: int) -> bool:
        """Continue with a server whose newest kept forecast is from `newest_step`; returns `False` if it has no place.

        Call it before the first forecasts.
        """
        if not self._admit(slot):
            return False
        self._periods[slot] = (newest_step + int(self._phases[slot])) // self._limits.every_steps
        return True

    def restart_server(self, slot: int) -> None:
        """Begin with a server's next forecast again, whatever its step: its newest rows were dropped."""
        if slot in self.servers:
            self._periods[slot] = UNKNOWN_PERIOD

    def forget_server(self, slot: int) -> str | None:
        """Forget the server of a slot; returns its name if it had a history. Those left out may take its place."""
        name = self.servers.pop(slot, None)
        if name is None:
            self.left_out -= int(self._periods[slot] == LEFT_OUT)
        elif self.left_out:
            self._periods[self._periods == LEFT_OUT] = UNKNOWN_PERIOD
            self.left_out = 0
        self._periods[slot] = UNKNOWN_PERIOD
        return name
