"""A waiting line in which a newer item of a key replaces the older one: latest wins, first come first served.

It serves twice: servers that are due, and forecasts that a subscriber has not read yet.
"""

from collections import OrderedDict
from collections.abc import Hashable, Iterator
from itertools import islice
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)


class CoalescingQueue(Generic[Key]):
    """Keys in the order in which they began to wait; a key that is marked again keeps its place.

    Holds no content: whoever takes a key reads what is newest then. So memory is bounded by the number of
    keys, and nothing runs twice for one item.
    """

    __slots__ = ("_since", "superseded")

    def __init__(self) -> None:
        # Not a dict: after a burst, one that is taken from at its front has the burst's empty places before its first
        # key, and whoever asks for that passes all of them.
        self._since: OrderedDict[Key, float] = OrderedDict()
        self.superseded = 0
        """How many items were replaced by a newer one of their key before their turn came."""

    def mark(self, key: Key, now: float, items: int = 1) -> None:
        """Let `key` wait with its newest item; `items` of it arrived at once (seconds `now`)."""
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
        """When the longest waiting key began to wait; none where nothing waits."""
        return next(iter(self._since.values()), None)

    def get_since(self, key: Key) -> float | None:
        """When `key` began to wait; none where it does not."""
        return self._since.get(key)

    def __contains__(self, key: object) -> bool:
        return key in self._since

    def __len__(self) -> int:
        return len(self._since)

    def __iter__(self) -> Iterator[Key]:
        return iter(self._since)

    def __repr__(self) -> str:
        return f"CoalescingQueue(waiting={len(self._since)}, superseded={self.superseded})"
