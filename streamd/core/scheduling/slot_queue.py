"""A queue of slots in which a newer item of a slot replaces the older one: the `CoalescingQueue` over arrays.

Marks and takes many slots in a few array operations. Used for the servers that are due, and for the forecasts that a
subscriber has not read yet. Has no clock.
"""

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from streamd.core.arrays import Slots, Times
from streamd.core.state.layout import make_scalar_view

FIRST_PLACES = 64
"""The places of a new queue; their number is doubled when they are full."""

_ABSENT, _WAITING, _DISCARDED = 0, 1, 2  # a discarded slot still has a place, which is passed over


class SlotQueue:
    """Slots in the order in which they began to wait; a slot that is marked again keeps its place.

    It stores slots only: the caller that takes a slot reads the newest item at that moment. A slot takes one byte, and
    8 bytes with `keeps_times`; a place in the ring of those that wait takes 8 bytes.
    """

    __slots__ = ("_count", "_discarded", "_head", "_ring", "_since", "_since_of", "_state", "_state_of", "superseded")

    def __init__(self, capacity: int, *, keeps_times: bool = True) -> None:
        self._state = np.zeros(capacity, np.uint8)
        self._state_of = make_scalar_view(self._state)
        self._since = np.zeros(capacity if keeps_times else 0)
        self._since_of = make_scalar_view(self._since)
        # A slot has at most one place. The first place is never that of a discarded slot.
        self._ring = np.empty(FIRST_PLACES, np.int64)
        self._head = 0
        self._count = 0
        self._discarded = 0
        self.superseded = 0
        """The number of items that a newer item of their slot replaced before they were taken."""

    def mark(self, slot: int, now: float, items: int = 1) -> None:
        """Queue `slot`, or keep its place if it waits; `items` of it arrived together at `now` (seconds)."""
        state = self._state_of[slot]
        if state == _WAITING:
            self.superseded += items
            return
        if state == _DISCARDED:
            self._remove_discarded()
        self._reserve(1)
        self._ring[(self._head + self._count) & (len(self._ring) - 1)] = slot
        self._count += 1
        self._state_of[slot] = _WAITING
        if len(self._since):
            self._since_of[slot] = now
        self.superseded += items - 1

    def mark_many(self, slots: Slots, now: float) -> None:
        """Queue distinct slots, each with one item that arrived at `now` (seconds); one that waits keeps its place."""
        states = self._state[slots]
        if states.any():
            fresh = slots[states != _WAITING]
            self.superseded += len(slots) - len(fresh)
            if self._discarded:
                self._remove_discarded()
            slots = fresh
        self._reserve(len(slots))
        self._append(slots)
        self._state[slots] = _WAITING
        if len(self._since):
            self._since[slots] = now

    def take(self, count: int) -> Slots:
        """Remove and return up to `count` slots, the longest waiting first."""
        if self._discarded and count > 0:
            self._remove_discarded()
        taken = self._read(min(count, self._count))
        self._state[taken] = _ABSENT
        self._advance(len(taken))
        return taken

    def take_with_times(self, count: int, before: float = math.inf) -> tuple[Slots, Times]:
        """Remove and return up to `count` slots, the longest waiting first, and when each began to wait (seconds).

        The first slot that began to wait at `before` or later is the end.
        """
        if before != math.inf:
            times = self._since[self.list_waiting()[: max(count, 0)]]
            late = np.flatnonzero(times >= before)
            count = int(late[0]) if len(late) else len(times)
        taken = self.take(count)
        return taken, self._since[taken]

    def discard(self, slot: int) -> bool:
        """Forget a slot; true if it was waiting. Its place is passed over later."""
        if self._state_of[slot] != _WAITING:
            return False
        self._state_of[slot] = _DISCARDED
        self._discarded += 1
        while self._count and self._state_of[first := self._ring[self._head]] == _DISCARDED:
            self._state_of[first] = _ABSENT
            self._discarded -= 1
            self._advance(1)
        return True

    def clear(self) -> None:
        """Forget every slot (their items are not counted as superseded)."""
        self._state[self._read(self._count)] = _ABSENT
        self._advance(self._count)
        self._discarded = 0

    @property
    def oldest_since(self) -> float | None:
        """The time at which the longest waiting slot began to wait, or `None`; not without `keeps_times`."""
        return self._since_of[self._ring[self._head]] if self._count else None

    def list_waiting(self) -> Slots:
        """Return a copy of the slots that wait, the longest waiting first."""
        placed = self._read(self._count)
        return placed[self._state[placed] == _WAITING] if self._discarded else placed

    def find_waiting(self, slots: Slots) -> npt.NDArray[np.bool_]:
        """Return which of `slots` wait."""
        waiting: npt.NDArray[np.bool_] = self._state[slots] == _WAITING
        return waiting

    def __contains__(self, slot: int) -> bool:
        return bool(self._state_of[slot] == _WAITING)

    def __len__(self) -> int:
        return self._count - self._discarded

    def __iter__(self) -> Iterator[int]:
        return iter(self.list_waiting().tolist())

    def __repr__(self) -> str:
        return f"SlotQueue(waiting={len(self)}, superseded={self.superseded})"

    # ------------------------------------------------------------ the ring
    def _read(self, count: int) -> Slots:
        """Return a copy of the first `count` places, also of discarded slots."""
        end = self._head + count
        if end <= len(self._ring):
            return self._ring[self._head : end].copy()
        return np.concatenate((self._ring[self._head :], self._ring[: end - len(self._ring)]))

    def _append(self, slots: Slots) -> None:
        """Write slots behind the last place; there is room for them."""
        begin = (self._head + self._count) & (len(self._ring) - 1)
        room = len(self._ring) - begin
        self._ring[begin : begin + len(slots)] = slots[:room]
        if len(slots) > room:
            self._ring[: len(slots) - room] = slots[room:]
        self._count += len(slots)

    def _advance(self, count: int) -> None:
        self._head = (self._head + count) & (len(self._ring) - 1)
        self._count -= count

    def _reserve(self, count: int) -> None:
        """Make room for `count` more places. The number of places is a power of two, so that `&` wraps around."""
        needed = self._count + count
        if needed > len(self._ring):
            placed = self._read(self._count)
            self._ring = np.empty(1 << (needed - 1).bit_length(), np.int64)
            self._ring[: len(placed)] = placed
            self._head = 0

    def _remove_discarded(self) -> None:
        """Free the places of all discarded slots: the next time one is marked, it must wait at the end."""
        placed = self._read(self._count)
        waits = self._state[placed] == _WAITING
        self._state[placed[~waits]] = _ABSENT
        self._head = self._count = self._discarded = 0
        self._append(placed[waits])
