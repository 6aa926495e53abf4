"""Collects the servers that become due while samples are taken, so that they are queued together.

Calls the pipeline, and knows neither samples nor windows.
"""

from typing import Protocol

import numpy as np

from streamd.core.arrays import Slots

FEW_SLOTS = 6
"""So few servers are queued one by one, at 1.5 us each: for them an array costs more."""


class RowsDue(Protocol):
    """A receiver of due servers (the pipeline)."""

    def mark_due(self, slot: int, rows: int) -> None:
        """Queue a server that has `rows` more due rows."""
        ...

    def mark_due_many(self, slots: Slots) -> None:
        """Queue distinct servers that have one more due row each."""
        ...


class DueBatch:
    """Servers that became due and are not queued yet; call `flush` in the same turn of the loop, and before a slot gets
    another server. The order and the counts are those of queueing each at once.
    """

    def __init__(self, rows_due: RowsDue) -> None:
        self._rows_due = rows_due
        self._slots: dict[int, None] = {}

    def add(self, slot: int, rows: int) -> None:
        """Queue a server that has `rows` more due rows, at the next `flush` at the latest."""
        if rows == 1 and slot not in self._slots:
            self._slots[slot] = None
        else:
            self.flush()
            self._rows_due.mark_due(slot, rows)

    def flush(self) -> None:
        """Queue those that were added."""
        slots = self._slots
        if not slots:
            return
        self._slots = {}
        if len(slots) <= FEW_SLOTS:
            for slot in slots:
                self._rows_due.mark_due(slot, 1)
        else:
            self._rows_due.mark_due_many(np.fromiter(slots, np.int64, len(slots)))
