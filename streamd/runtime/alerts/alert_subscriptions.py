"""Subscriptions to alerts: each reader gets all active alerts, and then the newest state of each that changes.

A reader that lags costs memory for each alert once: a newer state replaces one that it has not read. Runs on the event
loop; sockets are elsewhere.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from streamd.core.access.caller import ANYBODY, Caller
from streamd.core.mailbox import ServerChoice
from streamd.core.selection import ServerGlobs
from streamd.runtime.alerts.alert import Alert, AlertChange, AlertKey
from streamd.runtime.loop_turns import LoopTurns
from streamd.runtime.reader_index import ReaderIndex

MAX_UNMERGED = 4_096
"""Changes that wait for a reader before they are merged by alert; a reader that keeps up merges them itself."""

READING_SECONDS = 0.005
"""The time that choosing alerts for one reader takes in one turn of the event loop."""


@dataclass(frozen=True)
class AlertChoice:
    """The alerts that a reader wants."""

    globs: ServerGlobs
    rules: frozenset[str] | None = None
    """The names of the rules; `None`: all."""


@dataclass(frozen=True)
class AlertNews:
    """Alerts for a reader, each in its newest state."""

    alerts: Sequence[Alert]
    is_snapshot: bool
    """Whether they were active when the reader began."""
    has_more: bool
    """Whether more of the snapshot follows."""


class AlertSubscription:
    """One reader's choice of alerts, and what it has not read of them.

    `snapshot` has the keys of what was active when it began, which many readers share; `active` is read while it lasts.
    With `None` the reader waits until `begin`.
    """

    def __init__(
        self,
        choice: AlertChoice,
        servers: ServerChoice,
        snapshot: Sequence[AlertKey] | None,
        active: Mapping[AlertKey, Alert],
        turns: LoopTurns,
    ) -> None:
        self.indexed_names = frozenset(servers.indexed_names)
        """The only servers whose alerts can be chosen, if they are few; else nothing."""
        self._rules = choice.rules
        self.servers = servers
        self._active = active
        self._turns = turns
        self._snapshot = snapshot
        self._position = 0
        self._has_begun = False
        self._newest: dict[AlertKey, Alert] = {}
        self._batches: list[Sequence[AlertChange]] = []
        self._unmerged = 0
        self._news = asyncio.Event()
        self.closed = False

    @property
    def waiting(self) -> int:
        """The number of alerts and changes that the reader has not read."""
        return len(self._snapshot or ()) - self._position + len(self._newest) + self._unmerged

    def post(self, changes: Sequence[AlertChange]) -> None:
        """Add changes. The reader decides which are chosen, in its own turns."""
        self._batches.append(changes)
        self._unmerged += len(changes)
        if self._unmerged > MAX_UNMERGED:
            self._merge()
        self._news.set()

    def begin(self, snapshot: Sequence[AlertKey]) -> None:
        """Wake the reader, which then reads the snapshot."""
        self._snapshot = snapshot
        self._news.set()

    def close(self) -> None:
        """Wake the reader, which then ends."""
        self.closed = True
        self._news.set()

    async def wait(self) -> None:
        """Wait until there is something to read, or the subscription is closed. A wait may be cancelled at any time."""
        while not self.closed and (self._snapshot is None or (self._has_begun and not self.waiting)):
            self._news.clear()
            await self._news.wait()

    async def read(self, count: int) -> AlertNews | None:
        """Return up to `count` alerts of the choice; `None` if all that waited are of others.

        The first answers are the snapshot, also without alerts. Cancelled, it loses what it has read.
        """
        if self._snapshot is None:
            return None  # closed before it could begin
        is_snapshot = not self._has_begun
        take_next = self._take_of_snapshot if is_snapshot else self._take_newest
        self._merge()
        found: list[Alert] = []
        until = time.monotonic() + READING_SECONDS
        while len(found) < count and (self._position < len(self._snapshot) if is_snapshot else self._newest):
            alert = take_next()
            if alert is not None:
                found.append(alert)
            if time.monotonic() >= until:
                await self._turns.wait()
                until = time.monotonic() + READING_SECONDS
        if self._position == len(self._snapshot):
            self._has_begun, self._snapshot, self._position = True, (), 0
        if not found and not is_snapshot:
            return None
        return AlertNews(found, is_snapshot, has_more=is_snapshot and not self._has_begun)

    def _take_of_snapshot(self) -> Alert | None:
        """Take the next alert of the snapshot, in its newest state; `None` if it is not chosen or not active now."""
        assert self._snapshot is not None, "it is being read"
        key = self._snapshot[self._position]
        self._position += 1
        if not self._includes(key):
            return None
        return self._newest.pop(key, None) or self._active.get(key)

    def _take_newest(self) -> Alert | None:
        """Take the change that has waited longest; `None` if it is not chosen."""
        key = next(iter(self._newest))
        alert = self._newest.pop(key)
        return alert if self._includes(key) else None

    def _merge(self) -> None:
        """Put the changes that wait into the map by alert; the place of an alert that waits there already stays."""
        for changes in self._batches:
            for change in changes:
                self._newest[change.alert.key] = change.alert
        self._batches, self._unmerged = [], 0

    def _includes(self, key: AlertKey) -> bool:
        rule, server = key
        if self._rules is not None and rule not in self._rules:
            return False
        return self.servers.includes(server)


class AlertSubscriptions:
    """The readers of alerts, as a listener of the monitor; without a monitor there are no alerts."""

    def __init__(self) -> None:
        self.are_restored = True
        """Whether the active alerts are known; a daemon that starts reads those of the former process first."""
        self._active: Mapping[AlertKey, Alert] = {}
        self._snapshot: tuple[AlertKey, ...] | None = None  # until what is active changes
        self._turns = LoopTurns()
        self._subscriptions: ReaderIndex[AlertSubscription] = ReaderIndex()

    def __len__(self) -> int:
        return len(self._subscriptions)

    def follow(self, active: Mapping[AlertKey, Alert], *, are_restored: bool = True) -> None:
        """Take the snapshots of later readers from the active alerts of a monitor.

        Unless these are restored, readers wait until `begin`: without alerts, a snapshot would say that all is well.
        """
        self._active = active
        self._snapshot = None
        self.are_restored = are_restored

    def begin(self) -> None:
        """Let the readers begin that wait for the alerts of the former process, which are active again."""
        self.are_restored = True
        self._snapshot = None
        for subscription in self._subscriptions:
            subscription.begin(self._take_snapshot(subscription.servers))

    def subscribe(self, choice: AlertChoice, caller: Caller = ANYBODY) -> AlertSubscription:
        """Add a caller's subscription, which never gets a server that its token excludes; end it with `unsubscribe`."""
        servers = ServerChoice(choice.globs, caller)
        snapshot = self._take_snapshot(servers) if self.are_restored else None
        subscription = AlertSubscription(choice, servers, snapshot, self._active, self._turns)
        self._subscriptions.add(subscription)
        return subscription

    def _take_snapshot(self, servers: ServerChoice) -> tuple[AlertKey, ...]:
        if self._snapshot is None:
            self._snapshot = tuple(self._active)
        names = servers.indexed_names
        # Thousands of readers of one server each must not walk through the alerts of all servers, in their turns.
        return tuple(key for key in self._snapshot if key[1] in names) if names else self._snapshot

    def unsubscribe(self, subscription: AlertSubscription) -> None:
        """End a subscription. A second call is a no-op."""
        subscription.close()
        self._subscriptions.discard(subscription)

    def alerts_changed(self, changes: Sequence[AlertChange]) -> None:
        """Post changes to the readers."""
        self._snapshot = None
        if not self._subscriptions:
            return
        for subscription in self._subscriptions.wide:
            subscription.post(changes)
        if by_name := self._subscriptions.by_name:
            for change in changes:
                for subscription in by_name.get(change.alert.server, ()):
                    subscription.post((change,))

    def close(self) -> None:
        """End all of them, when the daemon stops."""
        for subscription in list(self._subscriptions):
            self.unsubscribe(subscription)
