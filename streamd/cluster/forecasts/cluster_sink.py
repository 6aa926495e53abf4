"""Stands where the board's sink stands: forecasts of own shards go to their publishers, all others are dropped.

Also the gate of due rows: rows of shards that this node does not own are followed, and not forecast.
"""

from collections.abc import Callable
from itertools import pairwise

import numpy as np

from streamd.cluster.forecasts.forecast_poster import ForecastPoster
from streamd.cluster.forecasts.shard import OwnedShard
from streamd.cluster.shard_slots import ShardSlots
from streamd.core.arrays import Float32, Slots
from streamd.core.cluster.pending_forecasts import ForecastRows
from streamd.core.errors import InferenceError
from streamd.core.scheduling.batches import ServerItem, ServerRows
from streamd.core.state.forecast_seals import Sums
from streamd.runtime.lanes.deployment import DeploymentSpec
from streamd.runtime.lanes.pipeline_interfaces import DueRouter
from streamd.runtime.lanes.sinks import BoardSink

FindShard = Callable[[int], OwnedShard | None]


class OwningGate:
    """The shards that this node owns, as an array: it is asked for each due row."""

    def __init__(self, shards: int) -> None:
        self.is_owning = np.zeros(shards + 1, np.bool_)  # the last one is that of a free slot, -1
        self.changed: Callable[[int, bool], None] = lambda shard, is_owning: None
        """Is called after each change."""

    def set_owning(self, shard: int, is_owning: bool) -> None:
        """Note that the rows of a shard are forecast here from now on, or not any more."""
        if self.is_owning[shard] == is_owning:
            return
        self.is_owning[shard] = is_owning
        self.changed(shard, is_owning)


class OwnedRouter:
    """A router that swallows due rows of other nodes' servers, and asks the router of candidates for the rest."""

    def __init__(self, slots: ShardSlots, gate: OwningGate, candidates: DueRouter) -> None:
        self._slots = slots
        self._gate = gate
        self._candidates = candidates

    def route_due(self, slot: int, rows: int) -> bool:
        """Route a due server; true if it is not to be queued here."""
        shard = self._slots.find(np.array([slot], np.int64))[0]
        return not self._gate.is_owning[shard] or self._candidates.route_due(slot, rows)

    def route_due_many(self, slots: Slots) -> Slots:
        """Return those of distinct servers that are to be queued here."""
        if not len(slots):
            return slots
        return self._candidates.route_due_many(slots[self._gate.is_owning[self._slots.find(slots)]])


class ClusterSink:
    """The sink of the version that serves, in a cluster."""

    def __init__(self, board: BoardSink, slots: ShardSlots, find_shard: FindShard, poster: ForecastPoster) -> None:
        self.dropped = 0
        """Forecasts since start that were dropped, because another node owns their server by now."""
        self._board = board
        self._slots = slots
        self._find_shard = find_shard
        self._poster = poster

    def deliver(self, servers: ServerRows, forecasts: Float32, checks: Sums, spec: DeploymentSpec) -> None:
        """Copy forecasts, and pass them to the publishers of their shards."""
        shards = self._slots.find(servers.slots)
        order = np.argsort(shards, kind="stable")
        in_order = shards[order]
        bounds = [0, *(np.flatnonzero(in_order[1:] != in_order[:-1]) + 1).tolist(), len(order)]
        for begin, end in pairwise(bounds):
            rows, number = order[begin:end], int(in_order[begin])
            shard = self._find_shard(number)
            if shard is None or not shard.is_owning:
                self.dropped += len(rows)
                continue
            shard.offer(self._copy_rows(rows, servers, forecasts, checks, spec))

    def _copy_rows(
        self, rows: Slots, servers: ServerRows, forecasts: Float32, checks: Sums, spec: DeploymentSpec
    ) -> ForecastRows:
        names = self._poster.service.state.directory.names
        slots = servers.slots[rows]
        return ForecastRows(
            model=spec.model.decode(),
            servers=tuple(names[slot] or "" for slot in slots.tolist()),
            slots=slots,
            generations=servers.generations[rows],
            steps=servers.steps[rows],
            contexts=servers.contexts[rows],
            since=servers.since[rows],
            values=forecasts[rows],
            checks=checks[rows],
            is_posted=np.zeros(len(rows), np.bool_),
        )

    def publish(self, slots: Slots, now: float) -> None:
        """Do nothing: readers get forecasts once they are in the log."""

    def fail(self, item: ServerItem, error: InferenceError) -> None:
        """Log the server and the error."""
        self._board.fail(item, error)

    def lanes_exhausted(self) -> None:
        """Do nothing: waiting windows run on rebuilt lanes."""
