"""Wires the parts that bring forecasts through the log of a cluster: the sink, the shards, the mirrors, the board.

Made before the service, which gets its `links`; `open` gives it the service.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from streamd.cluster.forecasts.chain_appender import LOCAL_SECONDS, PublisherCounts
from streamd.cluster.forecasts.chain_follower import ChainFollower
from streamd.cluster.forecasts.chains import ShardChains
from streamd.cluster.forecasts.cluster_sink import ClusterSink, OwnedRouter, OwningGate
from streamd.cluster.forecasts.forecast_poster import ForecastPoster
from streamd.cluster.forecasts.forecast_publisher import ForecastPublisher
from streamd.cluster.forecasts.mirrors import PREPARE_SECONDS, READ_ON_SECONDS, Mirrors
from streamd.cluster.forecasts.reader_ids import ReaderIds
from streamd.cluster.forecasts.row_follower import ShardRows, ShardSnapshots
from streamd.cluster.forecasts.shard import OwnedShard
from streamd.cluster.log import Log
from streamd.cluster.shard_slots import ShardSlots
from streamd.core.arrays import Slots
from streamd.core.cluster.log_clock import LogClock
from streamd.core.cluster.shards import ClusterNames
from streamd.runtime.lanes.pipeline_interfaces import DueRouter
from streamd.runtime.lanes.sinks import BoardSink, ResultSink
from streamd.runtime.process_links import ProcessLinks
from streamd.runtime.service import Service
from streamd.runtime.state.state import State

OVERLAP_SECONDS = 2.0
"""A reader of another node continues so long before its id: the boards of two nodes differ by a moment."""

BACK_SECONDS = 2.0
"""Rows are read again so long after the log is back, at most."""


@dataclass(frozen=True, kw_only=True)
class ForecastTimes:
    """Waiting times, which tests shorten."""

    local_seconds: float = LOCAL_SECONDS
    prepare_seconds: float = PREPARE_SECONDS
    linger_seconds: float = READ_ON_SECONDS


@dataclass(frozen=True, kw_only=True)
class ShardParts:
    """The parts of a shard beside its forecasts."""

    rows: ShardRows
    snapshots: ShardSnapshots


class ClusterForecasts:
    """The forecasts of one node of a cluster; `make_parts` makes what a shard has of rows.

    The log takes at most `max_chain_bytes` of the forecasts of a shard; -1: no limit.
    """

    def __init__(
        self,
        node: str,
        cluster_log: Log,
        names: ClusterNames,
        shards: int,
        state: State,
        make_parts: Callable[[int], ShardParts],
        *,
        max_chain_bytes: int = -1,
        times: ForecastTimes | None = None,
        wall: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.log_clock = LogClock(wall() - clock())
        self.slots = ShardSlots(state.directory, shards)
        self.gate = OwningGate(shards)
        self.poster = ForecastPoster(self.slots, self.log_clock, wall=wall, clock=clock)
        self.chains = ShardChains(self._make_follower)
        self.times = times or ForecastTimes()
        self.mirrors = Mirrors(
            shards,
            self.chains,
            self.slots,
            self.poster,
            prepare_seconds=self.times.prepare_seconds,
            linger_seconds=self.times.linger_seconds,
        )
        self.reader_ids = ReaderIds(self.log_clock, self._hears_all, clock)
        self.hears_owners: Callable[[], bool] = lambda: True
        """Whether heartbeats come of each node that has a shard."""
        self.shards: dict[int, OwnedShard] = {}
        """The shards that are followed or owned here."""
        self.counts = PublisherCounts()
        """What the publishers of all shards did since start; shards come and go."""
        self.published: Callable[[Slots], None] = lambda slots: None
        """Is called with the slots of own forecasts that are in the log (`ServerSubjects.publish`)."""
        self.sink: ClusterSink | None = None
        self._node = node
        self._log = cluster_log
        self._names = names
        self._state = state
        self._make_parts = make_parts
        self._max_chain_bytes = max_chain_bytes
        self._clock = clock
        self._away_until = -math.inf

    @property
    def links(self) -> ProcessLinks:
        """The links of the service."""
        return ProcessLinks(
            wrap_sink=self._wrap_sink,
            wrap_due_router=self._wrap_router,
            holds_grace=self._holds_grace,
            owners=(self,),
            fences=self.slots.fences,
            interest=self.mirrors,
            resumes_before=int(OVERLAP_SECONDS * 1e6),
            limit_reader_id=self.reader_ids.limit,
        )

    def open(self, service: Service) -> None:
        """Serve a service that was built with `links`."""
        self.poster.open(service)

    def make_shard(self, shard: int) -> OwnedShard:
        """Return a shard that is not loaded; it takes the place of a former one, which is closed."""
        parts = self._make_parts(shard)
        made = OwnedShard(
            shard,
            self._log,
            self._names,
            self.poster.service,
            rows=parts.rows,
            snapshots=parts.snapshots,
            chains=self.chains,
            make_publisher=self._make_publisher,
            slots=self.slots,
            owning=self.gate,
            log_clock=self.log_clock,
            clock=self._clock,
        )
        self.shards[shard] = made
        return made

    def forget(self, slot: int) -> None:
        """Forget a slot that gets another server, or whose rows and forecast were dropped."""
        found = self.slots.forget(slot)
        if found is not None and (shard := self.shards.get(found[1])) is not None:
            shard.note_forgotten(found[0])

    async def close(self) -> None:
        """Read no chain any more; the shards are closed by their node."""
        await self.reader_ids.close()
        await self.mirrors.close()
        await self.chains.close()

    @property
    def _is_away(self) -> bool:
        return not self._log.is_connected or any(shard.publisher.is_away for shard in self.shards.values())

    def _holds_grace(self) -> bool:
        """Whether the log is away, or came back a moment ago: the other samples of open rows may be in it."""
        now = self._clock()
        if self._is_away:
            self._away_until = now + BACK_SECONDS
        return now < self._away_until

    def _hears_all(self) -> bool:
        return not self._is_away and self.mirrors.is_loaded and self.hears_owners()

    def _wrap_sink(self, board: BoardSink) -> ResultSink:
        self.sink = ClusterSink(board, self.slots, self.shards.get, self.poster)
        return self.sink

    def _wrap_router(self, candidates: DueRouter) -> DueRouter:
        return OwnedRouter(self.slots, self.gate, candidates)

    def _make_follower(self, shard: int) -> ChainFollower:
        return ChainFollower(
            shard,
            self._log,
            self._names,
            self.poster,
            self.log_clock,
            self._state.contract.forecast_shape,
            max_bytes=self._max_chain_bytes,
            clock=self._clock,
        )

    def _make_publisher(self, shard: int, follower: ChainFollower) -> ForecastPublisher:
        return ForecastPublisher(
            shard,
            self._node,
            self._log,
            self._names,
            follower,
            self.poster,
            self.log_clock,
            self.counts,
            published=self._note_published,
            local_seconds=self.times.local_seconds,
            clock=self._clock,
        )

    def _note_published(self, slots: Slots) -> None:
        self.published(slots)
