"""The shards of the servers that have a slot here, and the fences of their latest forecasts; by slot."""

import numpy as np

from streamd.core.arrays import Numbers, Slots
from streamd.core.cluster.shards import find_shard
from streamd.core.state.directory import Directory

_NO_SHARD = -1


class ShardSlots:
    """The slots of a directory by shard. A shard is computed once for each server that gets a slot."""

    def __init__(self, directory: Directory, shards: int) -> None:
        self.shards = shards
        self.fences: Numbers = np.zeros(directory.capacity, np.int64)
        """By slot: the fence of the latest forecast on the board; 0 if it is not in the log."""
        self._directory = directory
        self._shards: Numbers = np.full(directory.capacity, _NO_SHARD, np.int64)
        self._servers: list[str | None] = [None] * directory.capacity
        self._generations: Numbers = np.full(directory.capacity, -1, np.int64)

    def find(self, slots: Slots) -> Numbers:
        """Return the shards of slots, -1 for one that is free, `(n,)`."""
        is_stale = self._generations[slots] != self._directory.generations[slots]
        if is_stale.any():
            for slot in slots[is_stale].tolist():
                self._compute(slot)
        return self._shards[slots]

    def _compute(self, slot: int) -> None:
        generation = self._directory.generations[slot]  # first: a name that comes later in another thread is found
        server = self._directory.names[slot]
        if server is None:
            self._shards[slot] = _NO_SHARD
            return
        self._shards[slot] = find_shard(server, self.shards)
        self._servers[slot] = server
        self._generations[slot] = generation

    def list_slots(self, shard: int) -> Slots:
        """Return the slots of all servers of a shard, `(n,)`."""
        used = self._directory.list_used()
        slots: Slots = used[self.find(used) == shard]
        return slots

    def count_slots(self) -> Numbers:
        """Return the number of servers of each shard that have a slot here, `(shards,)`."""
        return np.bincount(self.find(self._directory.list_used()), minlength=self.shards)

    def forget(self, slot: int) -> tuple[str, int] | None:
        """Forget a slot that gets another server, or whose forecast was dropped.

        Returns the server that it had and its shard, `None` if that was never looked up.
        """
        self.fences[slot] = 0
        server = self._servers[slot]
        return None if server is None else (server, int(self._shards[slot]))
