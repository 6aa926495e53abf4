"""Appends the forecasts of a shard to its chain: one message at a time, and what comes meanwhile is the next one.

A forecast exists once it is in the chain; then it is posted here. While the log is away for longer than a moment, the
readers of this node get forecasts without a fence.
"""

import asyncio
import time
from collections.abc import Callable, Collection
from itertools import islice

import numpy as np

from streamd.cluster.forecasts.chain_appender import LOCAL_SECONDS, ChainAppender, PublisherCounts, PublisherState
from streamd.cluster.forecasts.chain_follower import ChainFollower
from streamd.cluster.forecasts.chain_purger import ChainPurger
from streamd.cluster.forecasts.chain_trimmer import ChainTrimmer
from streamd.cluster.forecasts.forecast_poster import ForecastPoster
from streamd.cluster.forecasts.step_recorder import RECORD_SECONDS, StepRecorder
from streamd.cluster.log import Log
from streamd.core.arrays import Slots
from streamd.core.cluster.forecast_batches import ChainBatch
from streamd.core.cluster.forecast_chain import ForecastChain
from streamd.core.cluster.log_clock import LogClock
from streamd.core.cluster.pending_forecasts import ForecastRows, PendingForecasts
from streamd.core.cluster.shards import ClusterNames

MAX_BATCH_BYTES = 512 * 1024
"""A message has forecasts of about so many bytes at most."""

MAX_FORGOTTEN = 1_000
"""Servers that one message forgets, at most."""

ServersPublished = Callable[[Slots], None]
"""Is called with the slots of forecasts that are in the log now."""


class ForecastPublisher:
    """The publisher of one shard at one node: `claim`, then `run`.

    `published` is called with the slots of what is in the log; `counts` are shared by the publishers of a node.
    """

    def __init__(
        self,
        shard: int,
        node: str,
        cluster_log: Log,
        names: ClusterNames,
        follower: ChainFollower,
        poster: ForecastPoster,
        log_clock: LogClock,
        counts: PublisherCounts,
        *,
        published: ServersPublished = lambda slots: None,
        local_seconds: float = LOCAL_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.counts = counts
        self.pending = PendingForecasts()
        self._shard = shard
        self._node = node
        self._log = cluster_log
        self._follower = follower
        self._poster = poster
        self._published = published
        purger = ChainPurger(cluster_log, names, follower)
        self._appender = ChainAppender(
            shard,
            cluster_log,
            names,
            follower,
            purger,
            log_clock,
            counts,
            on_late=self._post_locally,
            local_seconds=local_seconds,
            clock=clock,
        )
        self._recorder = StepRecorder(follower, self._appender, clock=clock)
        self._trimmer = ChainTrimmer(follower, poster, self._appender, purger, log_clock, clock=clock)
        self._in_flight: ForecastRows | None = None
        self._forgotten: dict[str, int] = {}
        """The orders to forget that wait, by server, in the order of the row log."""
        self._forgetting: dict[str, int] = {}
        """Those that are in flight."""
        self._forgot_before = 0
        self._news = asyncio.Event()
        self._idle = asyncio.Event()

    @property
    def _chain(self) -> ForecastChain:
        return self._follower.chain

    @property
    def state(self) -> PublisherState:
        """The activity of the publisher."""
        return self._appender.state

    @property
    def waiting(self) -> int:
        """The number of forecasts that are not in the log."""
        return len(self.pending) + (0 if self._in_flight is None else len(self._in_flight))

    @property
    def has_orders(self) -> bool:
        """Whether the chain lacks orders to forget that were applied here."""
        return bool(self._forgotten or self._forgetting)

    @property
    def is_away(self) -> bool:
        """Whether readers get forecasts before they are in the log."""
        return self._appender.is_late

    async def claim(self, fence: int) -> None:
        """Append the marker of this owner, while the follower is paused; may be called again after it was cut off.

        Raises `FencedError` if the chain has a later owner, `ChainGapError`, and `LogAwayError`.
        """
        await self._appender.claim(fence, self._node)
        self._forgot_before = self._chain.forgot_rows
        self._recorder.begin()

    def note_rows_made_anew(self) -> None:
        """Note that the row log is another one: its orders to forget are counted from the beginning."""
        self._chain.note_rows_made_anew()
        self._forgot_before = 0

    # ------------------------------------------------------------ work in
    def offer(self, rows: ForecastRows) -> None:
        """Take forecasts; a newer one of a server replaces one that waits."""
        self.pending.add(rows)
        if self.is_away:
            self._post_locally()
        self._idle.clear()
        self._news.set()

    def note_forgotten(self, server: str, sequence: int = 0) -> None:
        """Note that a server was forgotten, by the order `sequence` in the row log (0: by none)."""
        self.pending.drop(server)
        if not sequence or sequence > self._forgot_before:
            # At the end, so that the orders of a message are all up to the last one in it.
            self._forgotten[server] = max(sequence, self._forgotten.pop(server, 0))
            self._news.set()

    async def wait_idle(self) -> None:
        """Wait until all that was offered or noted is in the log; the caller limits the time."""
        while self.waiting or self.has_orders:
            self._idle.clear()
            await self._idle.wait()

    # ------------------------------------------------------------ work out
    async def run(self) -> None:
        """Append what comes until cancelled; raises `FencedError` once there is a successor, and `ChainGapError`."""
        while True:
            await self._wait_news()
            self._news.clear()
            while self.pending or self._forgotten:
                await self._append_next()
                await self._tidy()
            self._idle.set()
            await self._tidy()

    async def _tidy(self) -> None:
        """Record and shorten what is due, also while more waits: under a steady load something always does."""
        await self._recorder.append_due()
        await self._trimmer.trim_due(self._count_in_message())

    async def _wait_news(self) -> None:
        """Wait until there is something to append, or a record is due."""
        if self._news.is_set():
            return
        try:
            async with asyncio.timeout(RECORD_SECONDS):
                await self._news.wait()
        except TimeoutError:
            return

    async def _append_next(self) -> None:
        forgotten = dict(islice(self._forgotten.items(), MAX_FORGOTTEN))
        for server in forgotten:
            del self._forgotten[server]
        rows = self._take_rows(forgotten)
        self._in_flight, self._forgetting = rows, forgotten
        try:
            await self._append_batch(rows, forgotten)
        finally:
            self._in_flight, self._forgetting = None, {}

    def _take_rows(self, forgotten: Collection[str]) -> ForecastRows | None:
        """Take the forecasts of the next message: those of rows that the chain has none of."""
        while (rows := self.pending.take(self._count_in_message())) is not None:
            if (rows := self._select_new(rows, forgotten)) is not None:
                return rows
        return None

    def _select_new(self, rows: ForecastRows, forgotten: Collection[str]) -> ForecastRows | None:
        """Return those that the chain may get; of a server that the same message forgets, any."""
        chosen = self._chain.select(zip(rows.servers, rows.steps.tolist(), strict=True), forgotten)
        if all(chosen):
            return rows
        places = [place for place, is_new in enumerate(chosen) if is_new]
        self.counts.known += len(rows) - len(places)
        return rows.select(np.array(places, np.int64)) if places else None

    def _count_in_message(self) -> int:
        return max(1, min(MAX_BATCH_BYTES, self._log.max_message_bytes // 2) // self._follower.forecast_bytes)

    async def _append_batch(self, rows: ForecastRows | None, forgotten: dict[str, int]) -> None:
        """Append until it is in the chain; raises `FencedError` if it cannot be any more."""
        while rows is not None or forgotten:
            batch = self._begin_batch(rows, forgotten)
            if await self._appender.append(batch):
                if rows is not None:
                    self.counts.forecasts += len(rows)
                    self._poster.post_rows(rows, batch.fence)
                    self._published(rows.slots)
                return
            # Something else came before, which is read by now. Without a later marker it was an own entry.
            if rows is not None:
                self._in_flight = rows = self._select_new(rows, forgotten)

    def _begin_batch(self, rows: ForecastRows | None, forgotten: dict[str, int]) -> ChainBatch:
        """Return the message of forecasts and orders, whose entry is in flight in the chain from now on."""
        empty = np.empty(0, np.int64)
        forgot_rows = max([self._chain.forgot_rows, *forgotten.values()])
        steps = {} if rows is None else dict(zip(rows.servers, rows.steps.tolist(), strict=True))
        entry = self._chain.begin_batch(steps, tuple(forgotten), forgot_rows)
        return ChainBatch(
            fence=entry.fence,
            number=self._appender.take_number(),
            model="" if rows is None else rows.model,
            servers=() if rows is None else rows.servers,
            steps=empty if rows is None else rows.steps,
            contexts=empty if rows is None else rows.contexts,
            values=self._make_no_values() if rows is None else rows.values,
            forgotten=tuple(forgotten),
            forgot_rows=entry.forgot_rows,
        )

    def _make_no_values(self) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        return np.empty((0, *self._poster.service.contract.forecast_shape), np.float32)

    # ------------------------------------------------------------ while the log is away
    def _post_locally(self) -> None:
        """Give the readers of this node what they do not have yet, without a fence."""
        parts = list(self.pending.iterate_unposted())
        if self._in_flight is not None and not self._in_flight.is_posted.all():
            parts.insert(0, self._in_flight)
        for rows in parts:
            self._poster.post_rows(rows, 0)
            self.counts.local += len(rows)
        self.pending.mark_posted()
        if self._in_flight is not None:
            self._in_flight.is_posted[:] = True

    def drop_all(self) -> None:
        """Drop what waits: this node is not the owner any more."""
        self.pending.clear()
        self._forgotten.clear()
        self._appender.is_late = False
        self._idle.set()
