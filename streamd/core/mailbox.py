"""The mailbox of a subscriber: the slots whose newest forecast it has not read, of the servers that it chose.

Decides which servers are chosen; has no clock, and wakes no reader.
"""

from collections.abc import Collection, Sequence
from typing import Protocol

import numpy as np

from streamd.core.access.caller import Caller
from streamd.core.access.scopes import Scope
from streamd.core.arrays import Slots
from streamd.core.scheduling.coalescing import CoalescingQueue
from streamd.core.scheduling.slot_queue import SlotQueue
from streamd.core.selection import ServerGlobs

MAX_INDEXED_NAMES = 64
"""A choice of up to so many exact names costs nothing for each other server; one of more is decided like globs."""

_UNKNOWN, _CHOSEN, _IGNORED = 0, 1, 2


class ServerChoice:
    """The servers that a caller's subscription chose: those that its globs match and its token does not exclude."""

    def __init__(self, globs: ServerGlobs, caller: Caller) -> None:
        self.is_all = globs.is_all and caller.covers_all(Scope.SUBSCRIBE)
        """Whether each server is chosen."""
        self.is_costly = globs.is_costly
        """Whether `includes` takes longer than a few look-ups."""
        names = globs.exact_names
        self.indexed_names: Collection[str] = names if names and len(names) <= MAX_INDEXED_NAMES else ()
        """The only names that can be chosen, if they are few; else nothing."""
        self._globs = globs
        self._caller = caller

    def includes(self, name: str) -> bool:
        """Whether a server is chosen."""
        return self._caller.may(Scope.SUBSCRIBE, name) and self._globs.matches(name)


class Mailbox(Protocol):
    """Slots with a newer forecast, each once, in the order in which they began to wait.

    Whether a server is chosen is decided once, when its first forecast is posted or, if that is costly, later.
    """

    def post(self, slots: Slots, names: Sequence[str]) -> None:
        """Put in those of distinct slots whose servers are chosen; `names` are the servers' names."""
        ...

    def decide_next(self) -> bool:
        """Decide about one server for which that is costly; false if no server waits for it."""
        ...

    def take(self, count: int) -> Slots:
        """Remove and return up to `count` slots, the longest waiting first."""
        ...

    def forget(self, slot: int) -> None:
        """Drop a slot that gets another server."""
        ...

    @property
    def ready(self) -> int:
        """The number of slots that `take` can return."""
        ...

    @property
    def waiting_slots(self) -> Slots:
        """The slots in the mailbox, and those that may get into it."""
        ...

    @property
    def waiting(self) -> int:
        """The number of `waiting_slots`."""
        ...

    @property
    def dropped(self) -> int:
        """The number of forecasts that a newer one replaced before they were taken."""
        ...


class FleetMailbox:
    """A mailbox for globs: a batch of any size is posted with a few array operations. Takes 2 bytes a slot."""

    def __init__(self, capacity: int, choice: ServerChoice) -> None:
        self._choice = choice
        self._queue = SlotQueue(capacity, keeps_times=False)
        self._choices = None if choice.is_all else np.zeros(capacity, np.uint8)
        self._undecided: dict[int, tuple[str, int]] = {}  # by slot: name, forecasts

    def post(self, slots: Slots, names: Sequence[str]) -> None:
        """Put in slots, as `Mailbox.post`."""
        self._queue.mark_many(self._select_chosen(slots, names), 0.0)

    def _select_chosen(self, slots: Slots, names: Sequence[str]) -> Slots:
        if self._choices is None:
            return slots
        choices = self._choices[slots]
        if not choices.all():
            for place in np.flatnonzero(choices == _UNKNOWN).tolist():
                self._meet_server(int(slots[place]), names[place])
            choices = self._choices[slots]
        chosen: Slots = slots[choices == _CHOSEN]
        return chosen

    def _meet_server(self, slot: int, name: str) -> None:
        if self._choice.is_costly:
            _, forecasts = self._undecided.get(slot, (name, 0))
            self._undecided[slot] = name, forecasts + 1
        else:
            self._decide(slot, name)

    def _decide(self, slot: int, name: str) -> bool:
        assert self._choices is not None, "nothing is decided if every server is chosen"
        is_chosen = self._choice.includes(name)
        self._choices[slot] = _CHOSEN if is_chosen else _IGNORED
        return is_chosen

    def decide_next(self) -> bool:
        """Decide about one server, as `Mailbox.decide_next`."""
        if not self._undecided:
            return False
        slot = next(iter(self._undecided))
        name, forecasts = self._undecided.pop(slot)
        if self._decide(slot, name):
            self._queue.mark(slot, 0.0, forecasts)
        return True

    def take(self, count: int) -> Slots:
        """Remove and return slots, as `Mailbox.take`."""
        return self._queue.take(count)

    def forget(self, slot: int) -> None:
        """Drop a slot, as `Mailbox.forget`."""
        self._queue.discard(slot)
        self._undecided.pop(slot, None)
        if self._choices is not None:
            self._choices[slot] = _UNKNOWN

    @property
    def ready(self) -> int:
        """The number of slots that `take` can return."""
        return len(self._queue)

    @property
    def waiting_slots(self) -> Slots:
        """The slots in the mailbox, and those that may get into it."""
        decided = self._queue.list_waiting()
        return np.concatenate((decided, [*self._undecided])).astype(np.int64) if self._undecided else decided

    @property
    def waiting(self) -> int:
        """The number of `waiting_slots`."""
        return len(self._queue) + len(self._undecided)

    @property
    def dropped(self) -> int:
        """The number of forecasts that a newer one replaced before they were taken."""
        return self._queue.superseded


class NamesMailbox:
    """A mailbox for a few exact names, of which there may be thousands: it takes memory only for these servers."""

    def __init__(self, choice: ServerChoice) -> None:
        self._choice = choice
        self._names = choice.indexed_names
        self._queue: CoalescingQueue[int] = CoalescingQueue()
        self._choices: dict[int, bool] = {}

    def post(self, slots: Slots, names: Sequence[str]) -> None:
        """Put in slots, as `Mailbox.post`."""
        for slot, name in zip(slots.tolist(), names, strict=True):
            if name in self._names and self._is_chosen(slot, name):
                self._queue.mark(slot, 0.0)

    def _is_chosen(self, slot: int, name: str) -> bool:
        is_chosen = self._choices.get(slot)
        if is_chosen is None:
            is_chosen = self._choices[slot] = self._choice.includes(name)
        return is_chosen

    def decide_next(self) -> bool:
        """Do nothing: each server is decided when it is posted."""
        return False

    def take(self, count: int) -> Slots:
        """Remove and return slots, as `Mailbox.take`."""
        return np.array(self._queue.take(count), np.int64)

    def forget(self, slot: int) -> None:
        """Drop a slot, as `Mailbox.forget`."""
        self._queue.discard(slot)
        self._choices.pop(slot, None)

    @property
    def ready(self) -> int:
        """The number of slots that `take` can return."""
        return len(self._queue)

    @property
    def waiting_slots(self) -> Slots:
        """The slots in the mailbox."""
        return np.array([*self._queue], np.int64)

    @property
    def waiting(self) -> int:
        """The number of `waiting_slots`."""
        return len(self._queue)

    @property
    def dropped(self) -> int:
        """The number of forecasts that a newer one replaced before they were taken."""
        return self._queue.superseded


def make_mailbox(capacity: int, choice: ServerChoice) -> Mailbox:
    """Make the mailbox of a choice, for `capacity` slots."""
    return NamesMailbox(choice) if choice.indexed_names else FleetMailbox(capacity, choice)
