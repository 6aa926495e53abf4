"""Fan-out: each subscriber has a bounded mailbox of the servers whose newest forecast it has not read.

A mailbox holds slots, not forecasts: a slow reader gets the newest forecast, and the number of those that it missed.
Runs on the event loop; sockets are elsewhere.
"""

import asyncio
import time
from collections.abc import Collection, Iterable, Sequence
from itertools import islice

from streamd.core.access.caller import ANYBODY, Caller
from streamd.core.access.scopes import Scope
from streamd.core.scheduling.coalescing import CoalescingQueue
from streamd.core.selection import ForecastSlice, ServerGlobs
from streamd.runtime.aggregation.turns import LoopTurns

MATCHING_SECONDS = 0.005
"""The time that matching names to costly globs takes in one turn of the event loop, for all subscribers together."""

REPLAY_SLICE = 2_000
"""Forecasts that are posted to one subscriber in one turn of the event loop when it begins."""

_UNKNOWN, _CHOSEN, _IGNORED = 0, 1, 2


class Subscription:
    """One subscriber's choice of servers and its mailbox; read it with `wait` and `take`.

    Whether a server is chosen is decided once, when its first forecast is posted. If the globs are costly, the reader
    decides it, in its own turns: the first forecasts of thousands of servers would else block those who publish.
    """

    def __init__(
        self,
        globs: ServerGlobs,
        part: ForecastSlice,
        capacity: int,
        turns: LoopTurns | None = None,
        caller: Caller = ANYBODY,
    ) -> None:
        self.globs = globs
        self.part = part
        self._caller = caller
        self._mailbox: CoalescingQueue[int] = CoalescingQueue()
        self._choices = bytearray(capacity)  # by slot: whether the globs match its server
        self._undecided: dict[int, tuple[str, float, int]] = {}  # by slot: name, time of the first forecast, forecasts
        self._turns = turns or LoopTurns()
        self._news = asyncio.Event()
        self._reported = 0
        self.closed = False

    def post(self, slot: int, name: str, now: float) -> None:
        """Put a server with a newer forecast into the mailbox, if the subscriber has chosen it."""
        choice = self._choices[slot]
        if choice == _UNKNOWN:
            if self.globs.is_costly:
                _, since, items = self._undecided.get(slot, (name, now, 0))
                self._undecided[slot] = name, since, items + 1
                self._news.set()
                return
            choice = self._decide(slot, name)
        if choice == _CHOSEN:
            self._mailbox.mark(slot, now)
            self._news.set()

    def _decide(self, slot: int, name: str) -> int:
        is_chosen = self._caller.may(Scope.SUBSCRIBE, name) and self.globs.matches(name)
        choice = self._choices[slot] = _CHOSEN if is_chosen else _IGNORED
        return choice

    async def _decide_all(self) -> None:
        """Decide which of the servers that were posted first are chosen; the loop gets its turn in between."""
        while self._undecided:
            until = time.monotonic() + MATCHING_SECONDS
            while self._undecided and time.monotonic() < until:
                slot = next(iter(self._undecided))
                name, since, items = self._undecided.pop(slot)
                if self._decide(slot, name) == _CHOSEN:
                    self._mailbox.mark(slot, since, items)
            if self._undecided:
                await self._turns.wait()

    def forget(self, slot: int) -> None:
        """Drop a slot that gets another server."""
        self._mailbox.discard(slot)
        self._undecided.pop(slot, None)
        self._choices[slot] = _UNKNOWN

    def close(self) -> None:
        """Wake the reader; it ends when the mailbox is empty."""
        self.closed = True
        self._news.set()

    async def wait(self) -> None:
        """Wait until the mailbox is not empty, or the subscription is closed and no forecast is undecided."""
        await self._decide_all()
        while not self._mailbox and not self.closed:
            self._news.clear()
            await self._news.wait()
            await self._decide_all()

    def take(self, count: int) -> list[int]:
        """Remove and return up to `count` slots, the longest waiting first."""
        return self._mailbox.take(count)

    def take_newly_dropped(self) -> int:
        """Return the number of forecasts that were replaced unread since the last call, and count from zero again."""
        dropped = self._mailbox.superseded - self._reported
        self._reported = self._mailbox.superseded
        return dropped

    @property
    def dropped(self) -> int:
        """The number of forecasts that were replaced unread since the subscription began."""
        return self._mailbox.superseded

    @property
    def waiting_slots(self) -> Collection[int]:
        """The slots in the mailbox, and those that may get into it."""
        return [*self._mailbox, *self._undecided]

    @property
    def waiting(self) -> int:
        """The number of servers in the mailbox, and of those that may get into it."""
        return len(self._mailbox) + len(self._undecided)


class Hub:
    """The subscriptions of a daemon."""

    def __init__(self, capacity: int, names: Sequence[str | None]) -> None:
        self.turns = LoopTurns()
        """The turns in which subscribers are matched and replayed, one at a time."""
        self._capacity = capacity
        self._names = names
        self._subscriptions: set[Subscription] = set()
        self.left_unread = 0
        """The number of forecasts in the mailboxes of readers that left while the hub was finishing."""
        self._finishing = False
        self._dropped_by_former = 0
        self._reader_left = asyncio.Event()

    def subscribe(self, globs: ServerGlobs, part: ForecastSlice, caller: Caller = ANYBODY) -> Subscription:
        """Add a caller's subscription, which never gets a server that its token excludes; end it with `unsubscribe`."""
        subscription = Subscription(globs, part, self._capacity, self.turns, caller)
        self._subscriptions.add(subscription)
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """End a subscription. A second call is a no-op."""
        if subscription in self._subscriptions:
            self._subscriptions.discard(subscription)
            self._dropped_by_former += subscription.dropped
            self.left_unread += subscription.waiting if self._finishing else 0
            subscription.close()
            self._reader_left.set()

    def publish(self, slots: Iterable[int], now: float) -> None:
        """Post new forecasts to every subscriber (`now`: monotonic seconds)."""
        for slot in slots:
            name = self._names[slot]
            if name is not None:
                for subscription in self._subscriptions:
                    subscription.post(slot, name, now)

    async def replay(self, subscription: Subscription, slots: Iterable[int]) -> None:
        """Post forecasts that are already on the board to one subscriber; the loop gets its turn in between.

        A newer forecast that is posted meanwhile does not count as one that was replaced unread.
        """
        rest = iter(slots)
        while some := list(islice(rest, REPLAY_SLICE)):
            waiting = set(subscription.waiting_slots)
            for slot in some:
                name = self._names[slot]
                if name is not None and slot not in waiting:
                    subscription.post(slot, name, 0.0)
            await self.turns.wait()

    def forget(self, slot: int) -> None:
        """Drop a slot that gets another server from every mailbox."""
        for subscription in self._subscriptions:
            subscription.forget(slot)

    async def finish(self) -> None:
        """Close every subscription, and wait until each reader has emptied its mailbox and left."""
        self._finishing = True
        while self._subscriptions:
            for subscription in self._subscriptions:
                subscription.close()
            self._reader_left.clear()
            await self._reader_left.wait()

    @property
    def waiting(self) -> int:
        """The number of forecasts in all mailboxes."""
        return sum(subscription.waiting for subscription in self._subscriptions)

    @property
    def dropped(self) -> int:
        """The number of forecasts that were replaced unread, for all subscribers since start."""
        return self._dropped_by_former + sum(each.dropped for each in self._subscriptions)

    def __len__(self) -> int:
        return len(self._subscriptions)
