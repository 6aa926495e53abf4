"""Fan-out: each subscriber has a bounded mailbox of the servers whose newest forecast it has not read.

A mailbox holds slots, not forecasts: a slow reader gets the newest forecast, and the number of those that it missed.
Runs on the event loop; sockets are elsewhere.
"""

import asyncio
import contextlib
import time
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from streamd.core.access.caller import ANYBODY, Caller
from streamd.core.arrays import Slots
from streamd.core.mailbox import ServerChoice, make_mailbox
from streamd.core.selection import ForecastSlice, ServerGlobs
from streamd.runtime.loop_turns import LoopTurns
from streamd.runtime.reader_index import ReaderIndex

MATCHING_SECONDS = 0.005
"""The time that matching names to costly globs takes in one turn of the event loop, for all subscribers together."""

REPLAY_SLICE = 2_000
"""Forecasts that are posted to one subscriber in one turn of the event loop when it begins."""


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
        choice = ServerChoice(globs, caller)
        self.indexed_names = choice.indexed_names
        """The only names of servers that can be chosen, if they are few; else nothing."""
        self._mailbox = make_mailbox(capacity, choice)
        self._turns = turns or LoopTurns()
        self._news = asyncio.Event()
        self._closing = asyncio.Event()
        self._reported = 0
        self._left_out = 0
        self.closed = False

    def post(self, slots: Slots, names: Sequence[str]) -> None:
        """Put those of distinct slots into the mailbox whose servers, called `names`, the subscriber has chosen."""
        self._mailbox.post(slots, names)
        if self._mailbox.waiting:
            self._news.set()

    async def _decide_all(self) -> None:
        """Decide which of the servers that were posted first are chosen; the loop gets its turn in between."""
        until = time.monotonic() + MATCHING_SECONDS
        while self._mailbox.decide_next():
            if time.monotonic() >= until:
                await self._turns.wait()
                until = time.monotonic() + MATCHING_SECONDS

    def forget(self, slot: int) -> None:
        """Drop a slot that gets another server."""
        self._mailbox.forget(slot)

    def close(self) -> None:
        """Wake the reader; it ends when the mailbox is empty."""
        self.closed = True
        self._news.set()
        self._closing.set()

    async def pause(self, seconds: float) -> None:
        """Wait so long, or until the subscription is closed, while forecasts gather in the mailbox."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._closing.wait()

    async def wait(self) -> None:
        """Wait until the mailbox is not empty, or the subscription is closed and no forecast is undecided."""
        await self._decide_all()
        while not self._mailbox.ready and not self.closed:
            self._news.clear()
            await self._news.wait()
            await self._decide_all()

    def take(self, count: int) -> Slots:
        """Remove and return up to `count` slots, the longest waiting first."""
        return self._mailbox.take(count)

    def take_newly_dropped(self) -> int:
        """Return the number of forecasts that were replaced unread since the last call, and count from zero again."""
        dropped = self.dropped - self._reported
        self._reported += dropped
        return dropped

    def count_dropped(self, count: int) -> None:
        """Count forecasts that were taken and could not be sent: newer ones, or none, are in their place by now."""
        self._left_out += count

    @property
    def dropped(self) -> int:
        """The number of forecasts that were replaced unread since the subscription began."""
        return self._mailbox.dropped + self._left_out

    @property
    def waiting_slots(self) -> Slots:
        """The slots in the mailbox, and those that may get into it."""
        return self._mailbox.waiting_slots

    @property
    def waiting(self) -> int:
        """The number of servers in the mailbox, and of those that may get into it."""
        return self._mailbox.waiting


class ForecastInterest(Protocol):
    """The source of forecasts that are made elsewhere, which brings what is read here (the mirrors of a cluster)."""

    def add(self, globs: ServerGlobs) -> None:
        """Bring the forecasts of these servers from now on."""
        ...

    def remove(self, globs: ServerGlobs) -> None:
        """Note that one reader of these servers has left."""
        ...

    async def prepare(self, globs: ServerGlobs) -> None:
        """Return when the forecasts of these servers come, and the board has their latest ones; or after a moment."""
        ...


class NoInterest:
    """The interest of a daemon that is alone: it makes all forecasts itself."""

    def add(self, globs: ServerGlobs) -> None:
        """Do nothing."""

    def remove(self, globs: ServerGlobs) -> None:
        """Do nothing."""

    async def prepare(self, globs: ServerGlobs) -> None:
        """Return at once."""


NO_INTEREST = NoInterest()


class Hub:
    """The subscriptions of a daemon; `names` are those of all servers by slot, `slots` their slots by name."""

    def __init__(
        self,
        capacity: int,
        names: Sequence[str | None],
        slots: Mapping[str, int],
        interest: ForecastInterest = NO_INTEREST,
    ) -> None:
        self.turns = LoopTurns()
        """The turns in which subscribers are matched and replayed, one at a time."""
        self._capacity = capacity
        self._names = names
        self._slots = slots
        self._subscriptions: ReaderIndex[Subscription] = ReaderIndex()
        self._candidates = np.ones(capacity, np.bool_)
        """By slot: false if no subscription chose its server by name, so that it costs no look-up for each forecast."""
        self.left_unread = 0
        """The number of forecasts in the mailboxes of readers that left while the hub was finishing."""
        self.interest = interest
        """Learns which servers are read; await its `prepare` before a subscription begins."""
        self._finishing = False
        self._dropped_by_former = 0
        self._reader_left = asyncio.Event()

    def subscribe(self, globs: ServerGlobs, part: ForecastSlice, caller: Caller = ANYBODY) -> Subscription:
        """Add a caller's subscription, which never gets a server that its token excludes; end it with `unsubscribe`."""
        subscription = Subscription(globs, part, self._capacity, self.turns, caller)
        self._subscriptions.add(subscription)
        self.interest.add(globs)
        self._candidates[[self._slots[name] for name in subscription.indexed_names if name in self._slots]] = True
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """End a subscription. A second call is a no-op."""
        if self._subscriptions.discard(subscription):
            self.interest.remove(subscription.globs)
            self._dropped_by_former += subscription.dropped
            self.left_unread += subscription.waiting if self._finishing else 0
            subscription.close()
            self._reader_left.set()

    def publish(self, slots: Slots, now: float) -> None:
        """Post new forecasts of distinct slots to every subscriber (`now`: monotonic seconds)."""
        if not self._subscriptions:
            return
        if self._subscriptions.wide:
            named, names = self._find_names(slots)
            for subscription in self._subscriptions.wide:
                subscription.post(named, names)
        if self._subscriptions.by_name:
            self._publish_by_name(slots)

    def _publish_by_name(self, slots: Slots) -> None:
        by_name = self._subscriptions.by_name
        for place in self._candidates.take(slots).nonzero()[0].tolist():
            slot = int(slots[place])
            if (name := self._names[slot]) is None:
                continue
            readers = by_name.get(name, ())
            if not readers:
                self._candidates[slot] = False
            for subscription in readers:
                subscription.post(slots[place : place + 1], [name])

    def _find_names(self, slots: Slots) -> tuple[Slots, list[str]]:
        """Return those of the slots that have a server, and the servers' names."""
        found = [self._names[slot] for slot in slots.tolist()]
        names = [name for name in found if name is not None]
        if len(names) < len(found):
            slots = slots[np.array([name is not None for name in found], np.bool_)]
        return slots, names

    async def replay(self, subscription: Subscription, slots: Slots) -> None:
        """Post forecasts that are already on the board to one subscriber; the loop gets its turn in between.

        A newer forecast that is posted meanwhile does not count as one that was replaced unread.
        """
        for begin in range(0, len(slots), REPLAY_SLICE):
            some = slots[begin : begin + REPLAY_SLICE]
            fresh = some[np.isin(some, subscription.waiting_slots, invert=True)]
            subscription.post(*self._find_names(fresh))
            await self.turns.wait()

    def forget(self, slot: int) -> None:
        """Drop a slot that gets another server from every mailbox."""
        self._candidates[slot] = True
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
