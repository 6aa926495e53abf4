"""A queue in which a newer item of a key replaces the older one: latest wins, first come, first served.

Used for the servers that are due, and for the forecasts that a subscriber has not read yet. Has no clock.
"""

from collections import OrderedDict
from collections.abc import Hashable, Iterator
from itertools import islice
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)


class CoalescingQueue(Generic[Key]):
    """Keys in the order in which they began to wait; a key that is marked again keeps its place.

    It stores keys only: the caller that takes a key reads the newest item at that moment. So memory is bounded by the
    number of keys, and no item is processed twice.
    """

    __slots__ = ("_since", "superseded")

    def __init__(self) -> None:
        # Not a dict: if keys are removed from its front, a dict keeps their empty entries, and each search for the
        # first key passes all of them. After a burst there are many.
        self._since: OrderedDict[Key, float] = OrderedDict()
        self.superseded = 0
        """The number of items that a newer item of their key replaced before they were taken."""

    def mark(self, key: Key, now: float, items: int = 1) -> None:
        """Queue `key`, or keep its place if it waits; `items` of it arrived together at `now` (seconds)."""
        if key in self._since:
            self.superseded += items
        else:
            self._since[key] = now
            self.superseded += items - 1

    def take(self, count: int) -> list[Key]:
        """Remove and return up to `count` keys, the longest waiting first."""
        keys = list(islice(self._since, count))
        for key in keys:
            del self._since[key]
        return keys

    def discard(self, key: Key) -> bool:
        """Forget a key; true if it was waiting."""
        return self._since.pop(key, None) is not None

    def clear(self) -> None:
        """Forget every key (their items are not counted as superseded)."""
        self._since.clear()

    @property
    def oldest_since(self) -> float | None:
        """The time at which the longest waiting key began to wait, or None if the queue is empty."""
        return next(iter(self._since.values()), None)

    def __contains__(self, key: object) -> bool:
        return key in self._since

    def __len__(self) -> int:
        return len(self._since)

    def __iter__(self) -> Iterator[Key]:
        return iter(self._since)

    def __repr__(self) -> str:
        return f"CoalescingQueue(waiting={len(self._since)}, superseded={self.superseded})"
