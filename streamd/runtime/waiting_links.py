"""Links that wait for what they lead to: of a body to the row that it fills, of a row to its forecast.

Bounded in keys and in links of a key; the oldest are dropped. Has no clock: times are parameters.
"""

import math
from collections import OrderedDict, deque
from collections.abc import Hashable
from typing import Generic, NamedTuple, TypeVar

LinkKey = TypeVar("LinkKey", bound=Hashable)
LinkValue = TypeVar("LinkValue")


class WaitingLink(NamedTuple, Generic[LinkValue]):
    """A link and the time since which it waits."""

    since: float
    link: LinkValue


class WaitingLinks(Generic[LinkKey, LinkValue]):
    """The newest `max_links` links of each of the `max_keys` keys that got one last."""

    def __init__(self, max_keys: int, max_links: int) -> None:
        self._max_keys = max_keys
        self._max_links = max_links
        self._by_key: OrderedDict[LinkKey, deque[WaitingLink[LinkValue]]] = OrderedDict()

    def add(self, key: LinkKey, link: LinkValue, since: float) -> None:
        """Add a link of a key, unless it is the newest one already; times of one key do not decrease."""
        waiting = self._by_key.get(key)
        if waiting is None:
            waiting = self._by_key[key] = deque(maxlen=self._max_links)
            if len(self._by_key) > self._max_keys:
                self._by_key.popitem(last=False)
        else:
            self._by_key.move_to_end(key)
        if not waiting or waiting[-1].link is not link:
            waiting.append(WaitingLink(since, link))

    def take(self, key: LinkKey, until: float = math.inf) -> list[WaitingLink[LinkValue]]:
        """Remove and return the links of a key that were added at `until` or before."""
        waiting = self._by_key.get(key)
        taken: list[WaitingLink[LinkValue]] = []
        if waiting is not None:
            while waiting and waiting[0].since <= until:
                taken.append(waiting.popleft())
            if not waiting:
                del self._by_key[key]
        return taken

    def discard(self, key: LinkKey, link: LinkValue) -> None:
        """Remove one link of a key, the one that was added last if it is there more than once."""
        waiting = self._by_key.get(key)
        if waiting is not None:
            for each in reversed(waiting):
                if each.link is link:
                    waiting.remove(each)
                    break
            if not waiting:
                del self._by_key[key]

    def forget(self, key: LinkKey) -> None:
        """Remove all links of a key."""
        self._by_key.pop(key, None)

    def __len__(self) -> int:
        return len(self._by_key)
