"""Servers whose newest row lies ahead of the clock: a clock was ahead when it came, the daemon's or an agent's.

Until the time of that row has come, every row of the present is too old for such a server, or a late one: it gets no
forecast. That the row is wrong, and not the clock, is shown by a sample of the same server from the present.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


class AheadServers:
    """The slots that lie ahead, and since when samples of the present contradict them."""

    def __init__(
        self, names: Sequence[str | None], newest: npt.NDArray[np.int64], open_step: npt.NDArray[np.int64]
    ) -> None:
        self._names = names  # None: the slot is free, and its steps mean nothing
        self._newest = newest
        self._open_step = open_step
        self.contradicted_since: dict[int, float | None] = {}
        """By slot: when a sample of the present first contradicted it (monotonic seconds), None before that."""

    def refresh(self, last_step: int) -> list[int]:
        """Find the slots that have a row after `last_step`, closed or filling; returns those that had none before."""
        beyond = np.flatnonzero(np.maximum(self._newest, self._open_step) > last_step).tolist()
        found = [slot for slot in beyond if self._names[slot] is not None]
        new = [slot for slot in found if slot not in self.contradicted_since]
        self.contradicted_since = {slot: self.contradicted_since.get(slot) for slot in found}
        return new

    def get_latest_step(self, slot: int) -> int:
        """The step of a slot's newest row, closed or filling."""
        return int(max(self._newest[slot], self._open_step[slot]))

    def contradict(self, slot: int, now: float) -> None:
        """Note a sample of the present of a slot that lies ahead (monotonic seconds `now`)."""
        if self.contradicted_since[slot] is None:
            self.contradicted_since[slot] = now

    def is_refuted(self, slot: int, now: float, patience_seconds: float) -> bool:
        """Whether a slot has been contradicted for so long that its rows ahead are to be dropped."""
        since = self.contradicted_since.get(slot)
        return since is not None and now - since >= patience_seconds

    def forget(self, slot: int) -> None:
        """Drop a slot that changes hands, or whose rows ahead were dropped."""
        self.contradicted_since.pop(slot, None)
