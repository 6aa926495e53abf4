"""Servers whose newest row lies ahead of the clock, because the clock of the daemon or of an agent was ahead.

Decides when such rows are wrong; it reads the steps and drops nothing. Until the time of its newest row, a server gets
no forecast: each sample of the present is late or too old. A sample of the same server from the present shows that the
row is wrong, and not the clock.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


class AheadServers:
    """The slots that lie ahead, each with the time since which samples of the present contradict it."""

    def __init__(
        self, names: Sequence[str | None], newest: npt.NDArray[np.int64], open_step: npt.NDArray[np.int64]
    ) -> None:
        self._names = names  # None: the slot is free, and its steps have no meaning
        self._newest = newest
        self._open_step = open_step
        self.contradicted_since: dict[int, float | None] = {}
        """By slot: when a sample of the present first contradicted it (monotonic seconds), None before that."""

    def refresh(self, last_step: int) -> list[int]:
        """Find again the slots with a row after `last_step`, closed or open; returns those that had none before."""
        beyond = np.flatnonzero(np.maximum(self._newest, self._open_step) > last_step).tolist()
        found = [slot for slot in beyond if self._names[slot] is not None]
        former = dict(self.contradicted_since)
        self.contradicted_since.clear()  # the same dict stays: ingest reads it for each sample
        self.contradicted_since.update((slot, former.get(slot)) for slot in found)
        return [slot for slot in found if slot not in former]

    def get_latest_step(self, slot: int) -> int:
        """Return the step of a slot's newest row, closed or open."""
        return int(max(self._newest[slot], self._open_step[slot]))

    def contradict(self, slot: int, now: float) -> None:
        """Record that a slot which lies ahead got a sample of the present at `now` (monotonic seconds)."""
        if self.contradicted_since[slot] is None:
            self.contradicted_since[slot] = now

    def is_refuted(self, slot: int, now: float, patience_seconds: float) -> bool:
        """Whether a slot has been contradicted for `patience_seconds`, so that its rows ahead are wrong."""
        since = self.contradicted_since.get(slot)
        return since is not None and now - since >= patience_seconds

    def forget(self, slot: int) -> None:
        """Forget a slot that gets another server, or whose rows ahead were dropped."""
        self.contradicted_since.pop(slot, None)
