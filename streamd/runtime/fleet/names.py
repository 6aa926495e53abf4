"""The names of all servers as the overview needs them: their order, and which of them searches and callers select.

Kept up to date for servers that come and leave. Belongs to the thread of the overview.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable

import numpy as np

from streamd.core.access.caller import Caller
from streamd.core.access.scopes import Scope
from streamd.core.alerts.evaluation import Flags
from streamd.core.arrays import Numbers, Slots
from streamd.core.fleet.prefixes import find_prefix
from streamd.core.fleet.search import NameSearch
from streamd.core.selection import ServerGlobs
from streamd.core.state.directory import Directory
from streamd.runtime.fleet.snapshot import FleetSnapshot

MAX_SELECTIONS = 256
"""Selections that are remembered: the searches of readers, the servers of their tokens, and those of rules.

Each takes a byte for each server. One that is not remembered is decided anew for each frame: 30 ms for a glob and 4,000
servers, so the readers of more searches than this wait for each other.
"""


class FleetNames:
    """The servers of the newest snapshot by name."""

    def __init__(self, directory: Directory) -> None:
        capacity = directory.capacity
        self._directory = directory
        self._generations = np.full(capacity, -1, np.int64)
        self._seeds = np.zeros(capacity, np.uint32)
        self._lower: list[str] = [""] * capacity
        self._selections: OrderedDict[Hashable, tuple[Callable[[int], bool], Flags]] = OrderedDict()
        self._prefix_numbers: dict[str, int] = {}
        self._prefixes: Numbers | None = None
        self.names: list[str] = [""] * capacity
        """The name of each slot's server; empty without one."""
        self.prefix_names: list[str] = []
        """The prefixes by their numbers; see `get_prefixes`."""
        self.ordered: Slots = np.empty(0, np.int64)
        """The slots of all servers in the order of their names."""
        self.is_server: Flags = np.zeros(capacity, np.bool_)

    def update(self, snapshot: FleetSnapshot) -> None:
        """Take over the servers of a snapshot."""
        seeds = np.where(snapshot.is_server, snapshot.seeds, 0)
        changed = np.flatnonzero((snapshot.generations != self._generations) | (seeds != self._seeds))
        if not len(changed):
            return
        for slot in changed.tolist():
            name = self._directory.names[slot] if seeds[slot] else None
            if name is None or self._directory.generations[slot] != snapshot.generations[slot]:
                name, seeds[slot] = "", 0
            self.names[slot], self._lower[slot] = name, name.lower()
        self._generations[:], self._seeds[:] = snapshot.generations, seeds
        self.is_server = seeds != 0
        # Mostly sorted already, so that this takes little time.
        former = self.ordered[self.is_server[self.ordered] & ~np.isin(self.ordered, changed)]
        new = changed[self.is_server[changed]]
        order = sorted([*former.tolist(), *new.tolist()], key=self.names.__getitem__)
        self.ordered = np.array(order, np.int64)
        for decide, selected in self._selections.values():
            for slot in changed.tolist():
                selected[slot] = bool(self.names[slot]) and decide(slot)
        if len(self.prefix_names) > 2 * len(self.names):  # most are of servers that left: they are numbered anew
            self._prefixes, self._prefix_numbers, self.prefix_names = None, {}, []
        if self._prefixes is not None:
            self._number_prefixes(self._prefixes, changed)

    # ------------------------------------------------------------ selections
    def select_found(self, search: str) -> Flags:
        """Return which servers a text finds, `(capacity,)`; raises `InvalidSelectionError`."""
        if not search:
            return self.is_server
        finds = NameSearch(search).finds
        return self._select(("search", search), lambda slot: finds(self._lower[slot]))

    def select_permitted(self, caller: Caller, scope: Scope) -> Flags:
        """Return the servers that a caller has a scope for, `(capacity,)`; if its token is gone, no server."""
        if caller.is_revoked:
            return np.zeros_like(self.is_server)
        if caller.covers_all(scope):
            return self.is_server
        return self._select((caller, scope), lambda slot: caller.may(scope, self.names[slot]))

    def select_chosen(self, globs: ServerGlobs) -> Flags:
        """Return which servers a choice of servers has, `(capacity,)`."""
        if globs.is_all:
            return self.is_server
        return self._select(globs, lambda slot: globs.matches(self.names[slot]))

    def _select(self, key: Hashable, decide: Callable[[int], bool]) -> Flags:
        """Return the servers for which `decide` is true, which is called once for each."""
        if key not in self._selections:
            selected = np.zeros_like(self.is_server)
            slots = self.ordered.tolist()
            selected[slots] = [decide(slot) for slot in slots]
            self._selections[key] = decide, selected
            if len(self._selections) > MAX_SELECTIONS:
                self._selections.popitem(last=False)
        self._selections.move_to_end(key)
        return self._selections[key][1]

    # ------------------------------------------------------------ prefixes
    def get_prefixes(self) -> Numbers:
        """Return the number of each server's prefix, `(capacity,)`, which is its place in `prefix_names`."""
        if self._prefixes is None:
            self._prefixes = np.zeros(len(self.names), np.int64)
            self._number_prefixes(self._prefixes, self.ordered)
        return self._prefixes

    def select_prefix(self, prefix: str) -> Flags:
        """Return which servers have a prefix, `(capacity,)`."""
        prefixes = self.get_prefixes()
        number = self._prefix_numbers.get(prefix)
        return np.zeros_like(self.is_server) if number is None else self.is_server & (prefixes == number)

    def _number_prefixes(self, prefixes: Numbers, slots: Slots) -> None:
        numbers = self._prefix_numbers
        for slot in slots.tolist():
            prefix = find_prefix(self.names[slot])
            if prefix not in numbers:
                numbers[prefix] = len(numbers)
                self.prefix_names.append(prefix)
            prefixes[slot] = numbers[prefix]
