"""The slots with forecasts that no rule was evaluated for yet: noted on the loop, taken by the thread of the alerts."""

from collections.abc import Callable

import numpy as np

from streamd.core.arrays import Slots


class NotedSlots:
    """Slots of servers, each once; a forecast that is replaced before it is taken is passed over.

    `clock` returns monotonic seconds.
    """

    def __init__(self, capacity: int, clock: Callable[[], float]) -> None:
        self._marks = np.zeros(capacity, np.uint8)
        self._clock = clock
        self._since: float | None = None
        self._taken_since: float | None = None

    def note(self, slots: Slots) -> None:
        """Note slots; called on the loop for every batch."""
        # First the marks: a thread that takes them in between leaves a time that is too early by one batch.
        self._marks[slots] = 1
        if self._since is None:
            self._since = self._clock()

    def take(self) -> Slots:
        """Return the slots that were noted, rising, and forget them; called in the thread, `finish` later."""
        # This order, so that `lag_seconds` finds the time at one of both places.
        self._taken_since = self._since
        self._since = None
        # A copy: numpy gives up the search of an array in which the loop notes more meanwhile.
        slots = np.flatnonzero(self._marks.copy())
        # Before their forecasts are read: one that is posted after this is noted again.
        self._marks[slots] = 0
        return slots

    def finish(self) -> None:
        """Note that the rules were evaluated for the slots that were taken last; called in the thread."""
        self._taken_since = None

    @property
    def lag_seconds(self) -> float:
        """The time for which the slot that was noted first waits or is being evaluated; 0 without one."""
        waiting, taken = self._since, self._taken_since
        since = waiting if taken is None else taken
        return 0.0 if since is None else max(self._clock() - since, 0.0)
