"""The kept forecasts of the accuracy history whose truth is not known yet. Pure: it is given what windows have."""

from collections.abc import Sequence

import numpy as np

from streamd.core.arrays import Numbers

NEVER = 2**62
"""A step that no server reaches."""


class PendingTruth:
    """The steps of forecasts that wait for their truth, by slot; each is known `wait_steps` after its step."""

    def __init__(self, capacity: int, wait_steps: int) -> None:
        self._wait_steps = wait_steps
        self._pending: dict[int, list[int]] = {}  # rising
        # By slot: the newest step of a window that has the truth of the first of them.
        self._due: Numbers = np.full(capacity, NEVER, np.int64)

    def add(self, slot: int, step: int) -> None:
        """Add a forecast, which is newer than those that wait."""
        self._pending.setdefault(slot, []).append(step)
        self._set_due(slot)

    def restore(self, slot: int, steps: Sequence[int]) -> None:
        """Set the forecasts that wait, rising."""
        self._pending[slot] = list(steps)
        self._set_due(slot)

    def find_due(self, newest_steps: Numbers, most: int) -> list[int]:
        """Return up to `most` slots with forecasts whose truth is known, by the newest steps of all windows."""
        due: list[int] = np.flatnonzero(newest_steps >= self._due)[:most].tolist()
        return due

    def take_known(self, slot: int, newest_step: int) -> list[int]:
        """Take the forecasts of a slot whose truth is known; returns their steps, rising."""
        pending = self._pending.get(slot, [])
        known = [step for step in pending if step + self._wait_steps <= newest_step]
        self.restore(slot, pending[len(known) :])
        return known

    def drop_after(self, slot: int, newest_step: int) -> None:
        """Drop the forecasts of a slot whose rows after `newest_step` were dropped."""
        self.restore(slot, [step for step in self._pending.get(slot, ()) if step <= newest_step])

    def forget(self, slot: int) -> None:
        """Drop all forecasts of a slot."""
        self.restore(slot, ())

    def _set_due(self, slot: int) -> None:
        pending = self._pending[slot]
        if pending:
            self._due[slot] = pending[0] + self._wait_steps
        else:
            del self._pending[slot]
            self._due[slot] = NEVER
