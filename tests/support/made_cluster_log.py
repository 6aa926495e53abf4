"""A naive log and table of a cluster, and a network that loses, delays, copies and reorders; they check what is stored.

For the model of the whole protocol: everything runs in one thread, and the schedule says what happens next.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from streamd.core.cluster.chain_entries import ChainEntry, EntryKind
from streamd.core.cluster.lease_actions import Lease


class ViolationError(AssertionError):
    """A promise of the cluster that was broken."""


@dataclass(frozen=True)
class Row:
    """A row or, without a step, an order to forget; `life` counts the server's orders before it."""

    server: str
    step: int | None
    life: int = 0


@dataclass(frozen=True)
class Stored:
    """An entry of the chain with its numbers: the row and the maker of each forecast."""

    entry: ChainEntry
    forecasts: dict[str, tuple[Row, str]] = field(default_factory=dict)


class NaiveStream:
    """The chain of one shard, in a stream with compare-and-set; keeps all that ever was in it for the checks."""

    def __init__(self, *, compares: bool = True) -> None:
        self.last = 0
        self.content: dict[int, Stored] = {}
        self.forecast: dict[Row, str] = {}
        self.fence = 0
        self._compares = compares
        self._ids: dict[str, int] = {}
        self._newest: dict[str, tuple[int, int]] = {}

    def append(self, stored: Stored, expected: int, identity: str) -> tuple[bool, int]:
        """Return whether it is stored, and its sequence; else the last sequence. A second one of an identity is not."""
        if identity in self._ids:
            return True, self._ids[identity]
        if self._compares and expected != self.last:
            return False, self.last
        self.last += 1
        self._ids[identity] = self.last
        self._check(stored)
        entry = stored.entry
        if entry.kind is EntryKind.RECORD:
            former = (at for at, each in self.content.items() if each.entry.kind is EntryKind.RECORD)
            for at in [at for at in former if self.content[at].entry.part == entry.part]:
                del self.content[at]
        self.content[self.last] = replace(stored, entry=replace(entry, sequence=self.last))
        return True, self.last

    def read(self, after: int, limit: int) -> list[Stored]:
        """Return some of what is there after a sequence."""
        return [self.content[at] for at in sorted(at for at in self.content if at > after)[:limit]]

    def purge(self, below: int) -> None:
        """Remove batches and markers below a sequence."""
        for at in [at for at, each in self.content.items() if at < below and each.entry.kind is not EntryKind.RECORD]:
            del self.content[at]

    def _check(self, stored: Stored) -> None:
        entry = stored.entry
        is_marker = entry.kind is EntryKind.MARKER
        if entry.fence < self.fence or (is_marker and entry.fence == self.fence):
            raise ViolationError(f"fence {entry.fence} after {self.fence}")
        if entry.fence > self.fence and not is_marker:
            raise ViolationError(f"an owner with fence {entry.fence} appends without a marker")
        self.fence = entry.fence
        for server, (row, maker) in stored.forecasts.items():
            if row in self.forecast:
                raise ViolationError(f"{row} is forecast by {self.forecast[row]} and by {maker}")
            if row.step is None or (row.life, row.step) <= self._newest.get(server, (-1, -1)):
                raise ViolationError(f"{row} is forecast after {self._newest[server]}")
            self.forecast[row] = maker
            self._newest[server] = (row.life, row.step)


class NaiveTable:
    """The leases, changed by compare-and-set; each change is an event for those who watch."""

    def __init__(self, *, compares: bool = True) -> None:
        self.revision = 0
        self.leases: dict[int, tuple[Lease, int]] = {}
        self.events: list[tuple[int, Lease, int]] = []
        self._compares = compares

    def put(self, shard: int, lease: Lease, expected: int) -> int | None:
        """Return the new revision; `None` if the key has another revision than is expected."""
        newest = self.leases.get(shard, (Lease(), 0))[1]
        if newest != expected and self._compares:
            return None
        if newest != expected:
            raise ViolationError(f"the lease of shard {shard} was changed at revision {expected}; it had {newest}")
        self.revision += 1
        self.leases[shard] = (lease, self.revision)
        self.events.append((shard, lease, self.revision))
        return self.revision


class NaiveNetwork:
    """Messages in flight: the schedule picks which is delivered, lost or copied next."""

    def __init__(self) -> None:
        self.flying: list[Callable[[], None]] = []

    def send(self, deliver: Callable[[], None]) -> None:
        """Put a message in flight; `deliver` is what happens when it comes, possibly more than once, possibly never."""
        self.flying.append(deliver)

    def deliver(self, number: int) -> None:
        """Deliver one of them."""
        if self.flying:
            self.flying.pop(number % len(self.flying))()

    def drop(self, number: int) -> None:
        """Lose one of them."""
        if self.flying:
            self.flying.pop(number % len(self.flying))

    def copy(self, number: int) -> None:
        """Send one of them again."""
        if self.flying and len(self.flying) < 200:
            self.flying.append(self.flying[number % len(self.flying)])

    def deliver_all(self, is_lost: Callable[[], bool], limit: int = 400) -> None:
        """Deliver in order what is in flight, and what is sent because of it, but for what is lost."""
        for _ in range(limit):
            if not self.flying:
                return
            deliver = self.flying.pop(0)
            if not is_lost():
                deliver()
