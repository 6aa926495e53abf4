"""The shards whose alerts this node evaluates, as the thread of the alerts knows them; only that thread calls this."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from streamd.cluster.alerts.alert_records import find_record_key
from streamd.cluster.shard_finder import ShardFinder
from streamd.cluster.shard_slots import ShardSlots
from streamd.core.arrays import Slots
from streamd.core.state.directory import Directory
from streamd.runtime.alerts.evaluator import AlertEvaluator
from streamd.runtime.alerts.store import StoredChange

TermChanges = Sequence[tuple[str, int, Sequence[StoredChange]]]
"""Changes by record, each with the fence under which they were found."""


class AlertTerms:
    """The terms of this node: each shard that it evaluates, from `begin` to `end`, with its fence."""

    def __init__(self, directory: Directory, shards: int) -> None:
        self._shards = shards
        self._fences: dict[int, int] = {}
        self._finder = ShardFinder(shards)
        self._slots = ShardSlots(directory, shards)

    def begin(self, shard: int, fence: int) -> None:
        """Evaluate the servers of a shard from now on, under a fence."""
        self._fences[shard] = fence

    def end(self, shard: int, evaluator: AlertEvaluator) -> None:
        """Evaluate the servers of a shard no more, and forget their state."""
        self._fences.pop(shard, None)
        evaluator.release(lambda server: self._finder.find(server) == shard)

    def select(self, slots: Slots) -> Slots:
        """Return those of slots whose servers are evaluated here."""
        if not self._fences or not len(slots):
            return slots[:0]
        return slots[np.isin(self._slots.find(slots), list(self._fences))]

    def sort(self, changes: Sequence[StoredChange]) -> TermChanges:
        """Return changes by their records, without those of other nodes' servers."""
        found: defaultdict[tuple[str, int], list[StoredChange]] = defaultdict(list)
        for each in changes:
            server = each.change.alert.server
            shard = self._finder.find(server)
            if (fence := self._fences.get(shard)) is not None:
                found[find_record_key(server, shard, self._shards), fence].append(each)
        return [(key, fence, some) for (key, fence), some in found.items()]
