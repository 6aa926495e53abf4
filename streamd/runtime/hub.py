"""Fan-out: every subscriber has a bounded mailbox of servers whose newest forecast it has not read.

A mailbox holds slots, not forecasts: whoever reads late reads the newest, loses the older ones and is told.
"""

import asyncio
from collections.abc import Collection, Iterable, Sequence

from streamd.core.scheduling.coalescing import CoalescingQueue
from streamd.core.selection import ForecastSlice, ServerGlobs

_UNKNOWN, _WANTED, _UNWANTED = 0, 1, 2


class Subscription:
    """One subscriber's choice and mailbox; read it by `wait` and `take`."""

    def __init__(self, globs: ServerGlobs, part: ForecastSlice, capacity: int) -> None:
        self.globs = globs
        self.part = part
        self._mailbox: CoalescingQueue[int] = CoalescingQueue()
        self._wanted = bytearray(capacity)  # by slot: does the glob match its server
        self._news = asyncio.Event()
        self._told = 0
        self.closed = False

    def post(self, slot: int, name: str, now: float) -> None:
        """Note that this server has a newer forecast, if it is wanted."""
        wanted = self._wanted[slot]
        if wanted == _UNKNOWN:
            wanted = self._wanted[slot] = _WANTED if self.globs.matches(name) else _UNWANTED
        if wanted == _WANTED:
            self._mailbox.mark(slot, now)
            self._news.set()

    def forget(self, slot: int) -> None:
        """Drop a slot that changes hands."""
        self._mailbox.discard(slot)
        self._wanted[slot] = _UNKNOWN

    def close(self) -> None:
        """Wake the reader for the last time."""
        self.closed = True
        self._news.set()

    async def wait(self) -> None:
        """Wait until there is something to take, or the subscription is closed."""
        if not self._mailbox and not self.closed:
            self._news.clear()
            await self._news.wait()

    def take(self, count: int) -> list[int]:
        """Remove and return up to `count` slots, the longest waiting first."""
        return self._mailbox.take(count)

    def take_newly_dropped(self) -> int:
        """How many forecasts were replaced unread since this was last asked."""
        dropped = self._mailbox.superseded - self._told
        self._told = self._mailbox.superseded
        return dropped

    @property
    def dropped(self) -> int:
        """Forecasts that were replaced unread, in all."""
        return self._mailbox.superseded

    @property
    def waiting_slots(self) -> Collection[int]:
        """The slots in the mailbox."""
        return list(self._mailbox)

    @property
    def waiting(self) -> int:
        """Servers in the mailbox."""
        return len(self._mailbox)


class Hub:
    """All subscriptions."""

    def __init__(self, capacity: int, names: Sequence[str | None]) -> None:
        self._capacity = capacity
        self._names = names
        self._subscriptions: set[Subscription] = set()
        self.left_unread = 0
        """Forecasts in the mailboxes of readers that left while the hub was finishing."""
        self._finishing = False
        self._dropped_by_former = 0
        self._left = asyncio.Event()

    def subscribe(self, globs: ServerGlobs, part: ForecastSlice) -> Subscription:
        """Add a subscription; end it with `unsubscribe`."""
        subscription = Subscription(globs, part, self._capacity)
        self._subscriptions.add(subscription)
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """End a subscription; twice is harmless."""
        if subscription in self._subscriptions:
            self._subscriptions.discard(subscription)
            self._dropped_by_former += subscription.dropped
            self.left_unread += subscription.waiting if self._finishing else 0
            subscription.close()
            self._left.set()

    def publish(self, slots: Iterable[int], now: float) -> None:
        """Tell every subscriber of new forecasts (monotonic seconds `now`)."""
        for slot in slots:
            name = self._names[slot]
            if name is not None:
                for subscription in self._subscriptions:
                    subscription.post(slot, name, now)

    def replay(self, subscription: Subscription, slots: Iterable[int]) -> None:
        """Post forecasts that are on the board already to one subscriber."""
        for slot in slots:
            name = self._names[slot]
            if name is not None:
                subscription.post(slot, name, 0.0)

    def forget(self, slot: int) -> None:
        """Drop a slot that changes hands from every mailbox."""
        for subscription in self._subscriptions:
            subscription.forget(slot)

    async def finish(self) -> None:
        """End every subscription once its reader has taken what waits, and wait until all have."""
        self._finishing = True
        while self._subscriptions:
            for subscription in self._subscriptions:
                subscription.close()
            self._left.clear()
            await self._left.wait()

    @property
    def waiting(self) -> int:
        """Forecasts that no subscriber's socket has taken yet."""
        return sum(subscription.waiting for subscription in self._subscriptions)

    @property
    def dropped(self) -> int:
        """Forecasts replaced unread, over all subscribers since start."""
        return self._dropped_by_former + sum(each.dropped for each in self._subscriptions)

    def __len__(self) -> int:
        return len(self._subscriptions)
