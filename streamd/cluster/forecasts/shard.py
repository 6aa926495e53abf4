"""One shard at this node, from the loading of its windows to the end: rows in, forecasts out.

Ties the rows of the shard, its chain and its publisher together. The node decides when it owns.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping
from enum import Enum
from typing import Any, Protocol

import numpy as np
import structlog

from streamd.cluster.forecasts.chain_follower import ChainFollower
from streamd.cluster.forecasts.chains import ChainUse, ShardChains
from streamd.cluster.forecasts.forecast_publisher import ForecastPublisher
from streamd.cluster.forecasts.row_follower import RowFollower, ShardRows, ShardSnapshots
from streamd.cluster.forecasts.shard_upkeep import ShardUpkeep
from streamd.cluster.log import Log, LogAwayError
from streamd.cluster.shard_slots import ShardSlots
from streamd.core.cluster.log_clock import LogClock
from streamd.core.cluster.pending_forecasts import ForecastRows
from streamd.core.cluster.shards import ClusterNames
from streamd.runtime.service import Service

log = structlog.get_logger(__name__)

ASK_AGAIN_SECONDS = 0.2
"""The wait before the log is asked again, after it was away."""

FINISH_SECONDS = 2.0
"""The time in which a shard that is handed over appends what waits."""

MakePublisher = Callable[[int, ChainFollower], ForecastPublisher]


class ShardState(Enum):
    """The phase of a shard at this node.

    FOLLOWING → OWNING → LEAVING → GONE, and from each to GONE.
    """

    FOLLOWING = "following"
    """Loads the windows and follows the rows and the chain; forecasts nothing."""
    OWNING = "owning"
    """Forecasts and appends."""
    LEAVING = "leaving"
    """Appends what waits, and forecasts nothing more."""
    GONE = "gone"
    """Another node may own it."""


class OwningChanged(Protocol):
    """The receiver of changes (the gate of due rows)."""

    def set_owning(self, shard: int, is_owning: bool) -> None:
        """Note that the rows of a shard are forecast here from now on, or not any more."""
        ...


class OwnedShard:
    """A shard at this node; `publisher` appends its forecasts."""

    def __init__(
        self,
        shard: int,
        cluster_log: Log,
        names: ClusterNames,
        service: Service,
        *,
        rows: ShardRows,
        snapshots: ShardSnapshots,
        chains: ShardChains,
        make_publisher: MakePublisher,
        slots: ShardSlots,
        owning: OwningChanged,
        log_clock: LogClock,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.shard = shard
        self.state = ShardState.FOLLOWING
        self._service = service
        self._rows = rows
        self._snapshots = snapshots
        self._chains = chains
        self._slots = slots
        self._owning = owning
        self._follower = chains.acquire(shard, ChainUse.ROWS)
        self._publisher = make_publisher(shard, self._follower)
        self._reading = RowFollower(shard, cluster_log, names, rows, snapshots, log_clock, clock=clock)
        self._upkeep = ShardUpkeep(
            shard, service, snapshots, self._follower, lambda: self._publisher.has_orders, log_clock, clock=clock
        )
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._tasks: list[asyncio.Task[None]] = []
        self._orders: dict[str, int] = {}
        """The orders to forget that were applied before this node owns the shard, by server."""
        rows.on_forget = self.note_forgotten

    # ------------------------------------------------------------ following
    async def follow(self) -> None:
        """Load the windows and follow the rows until the shard is gone.

        Raises `FencedError` once there is a successor, `LogGapError` if rows are missing, `ChainGapError`: the shard
        must be made anew then.
        """
        reading = asyncio.create_task(self._reading.run())
        try:
            await asyncio.wait([reading, self._ended], return_when=asyncio.FIRST_COMPLETED)
            for done in (self._ended, reading):
                if done.done():
                    done.result()
                    return
        finally:
            reading.cancel()
            await asyncio.wait([reading])

    async def wait_caught_up(self) -> None:
        """Wait until all that was in both logs when it was called is known here."""
        while True:
            try:
                await self._catch_up()
            except LogAwayError:
                await asyncio.sleep(ASK_AGAIN_SECONDS)
            else:
                return

    async def _catch_up(self) -> None:
        await self._reading.catch_up()
        await self._follower.loaded.wait()

    # ------------------------------------------------------------ owning
    async def own(self, fence: int) -> None:
        """Own the shard under the lease of this revision; may be called again after `LogAwayError`.

        Raises `FencedError` if there is a later owner, `ChainGapError` if what it forecast cannot be known, and
        `LogGapError` if rows, or windows with them, are missing here.
        """
        await self._catch_up()
        await self._rows.finish_restore()
        await self._follower.pause()
        await self._follower.make_whole()
        await self._snapshots.claim(fence)
        await self._publisher.claim(fence)
        chain = self._follower.chain
        if chain.needs_rows(self._reading.sequence) and not await self._reading.wait_applied(chain.forgot_rows):
            self._publisher.note_rows_made_anew()
        self._begin_owning()

    def _begin_owning(self) -> None:
        self.state = ShardState.OWNING
        self._owning.set_owning(self.shard, True)
        for server, sequence in self._orders.items():
            self._publisher.note_forgotten(server, sequence)
        self._orders.clear()
        for work in (self._publisher.run, self._upkeep.run):
            self._tasks.append(asyncio.create_task(self._work(work)))
        self._mark_due()

    def _mark_due(self) -> None:
        """Queue the rows that the chain has no forecast of, also those that were forecast here and are not in it."""
        state, chain = self._service.state, self._follower.chain
        due = []
        for slot in self._slots.list_slots(self.shard).tolist():
            step = chain.find_step(state.directory.names[slot] or "")
            newest = state.windows.get_newest_step(slot)
            if not state.windows.is_ready(slot) or (step is not None and step >= newest):
                continue
            if state.board.get_step(slot) >= newest:
                state.board.take_down(slot)  # its forecast never came into the log
            due.append(slot)
        self._service.pipeline.mark_due_many(np.array(due, np.int64))

    async def _work(self, run: Callable[[], Coroutine[Any, Any, None]]) -> None:
        try:
            await run()
        except Exception as exc:  # whatever it was, this node must not go on as the owner
            self._lose(exc)

    def _lose(self, exc: Exception) -> None:
        log.warning("shard_lost", shard=self.shard, reason=str(exc))
        self._end()
        if not self._ended.done():
            self._ended.set_exception(exc)

    @property
    def is_owning(self) -> bool:
        """Whether rows are forecast here."""
        return self.state is ShardState.OWNING

    def offer(self, rows: ForecastRows) -> None:
        """Take forecasts of this shard's servers; those that come after it was lost are dropped."""
        if self.is_owning:
            self._publisher.offer(rows)

    def note_forgotten(self, server: str, sequence: int = 0) -> None:
        """Note that a server was forgotten, by the order `sequence` in the row log (0: by none, or not known)."""
        if self._reading.is_applying and not sequence:
            sequence = self._reading.sequence + 1  # the message that is applied just now
        if self.is_owning:
            self._publisher.note_forgotten(server, sequence)
        elif self.state is ShardState.FOLLOWING and sequence:
            self._orders[server] = sequence

    # ------------------------------------------------------------ the end
    async def leave(self) -> None:
        """Append what waits, for a moment at most, and then nothing more."""
        if self.state is not ShardState.OWNING:
            return
        self.state = ShardState.LEAVING
        self._owning.set_owning(self.shard, False)
        try:
            async with asyncio.timeout(FINISH_SECONDS):
                await self._publisher.wait_idle()
        except TimeoutError:
            log.warning("forecasts_left", shard=self.shard, waiting=self._publisher.waiting)
        await self._stop_tasks()
        self._end()
        self._follower.start()

    async def close(self) -> None:
        """End at once, whatever it does; what other nodes forecast is still read if there are readers."""
        self._end()
        await self._stop_tasks()
        await self._chains.release(self.shard, ChainUse.ROWS)
        # Asked last: readers may have come or left meanwhile.
        follower = self._chains.find(self.shard)
        if follower is None:
            self._rows.drop()
        else:
            follower.start()
            self._rows.empty()
        if not self._ended.done():
            self._ended.cancel()
        elif not self._ended.cancelled():
            self._ended.exception()  # it was raised by `follow`, or no task follows any more

    def _end(self) -> None:
        self.state = ShardState.GONE
        self._owning.set_owning(self.shard, False)
        self._publisher.drop_all()
        self._follower.chain.resign()

    async def _stop_tasks(self) -> None:
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # ------------------------------------------------------------ reports
    def describe(self) -> Mapping[str, Any]:
        """Return the shard's entries of the status."""
        chain, publisher = self._follower.chain, self._publisher
        return {
            "state": self.state.value,
            "fence": chain.fence if self.is_owning else 0,
            **self._reading.describe(),
            "chain_sequence": chain.position,
            "publisher": publisher.state.value,
            "forecasts_waiting": publisher.waiting,
            "is_local": publisher.is_away,
        }

    @property
    def publisher(self) -> ForecastPublisher:
        """The publisher, for metrics."""
        return self._publisher
