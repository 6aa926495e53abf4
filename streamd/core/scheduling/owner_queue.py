"""A queue in which owners take turns, so that many items of one owner do not delay those of others."""

from collections import OrderedDict, deque
from collections.abc import Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class OwnerQueue(Generic[T]):
    """A queue with a line for each owner: the oldest item of the next owner comes first (round robin)."""

    def __init__(self) -> None:
        self._lines: OrderedDict[Hashable, deque[T]] = OrderedDict()

    def __len__(self) -> int:
        return sum(map(len, self._lines.values()))

    def __bool__(self) -> bool:
        return bool(self._lines)

    def append(self, owner: Hashable, item: T) -> None:
        """Add an item behind all others of its owner."""
        self._lines.setdefault(owner, deque()).append(item)

    def pop(self) -> T:
        """Remove and return the oldest item of the next owner, which moves behind all others.

        Raises `KeyError` if the queue is empty.
        """
        owner, line = self._lines.popitem(last=False)
        item = line.popleft()
        if line:
            self._lines[owner] = line
        return item

    def discard(self, owner: Hashable, item: T) -> None:
        """Remove an item of an owner, if it is there."""
        line = self._lines.get(owner)
        if line is not None and item in line:
            line.remove(item)
            if not line:
                del self._lines[owner]
