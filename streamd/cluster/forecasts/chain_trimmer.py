"""Keeps the chain of an owned shard short: removes what later entries have, and appends again what it must not lose.

The newest forecast of a server that has been silent for long is moved to the end, with the same numbers. No reader
takes it for a new one, and a node that loads the chain later still finds it.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from streamd.cluster.forecasts.chain_appender import ChainAppender
from streamd.cluster.forecasts.chain_follower import ChainFollower
from streamd.cluster.forecasts.chain_purger import ChainPurger
from streamd.cluster.forecasts.forecast_poster import ForecastPoster, KeptForecasts
from streamd.core.cluster.forecast_batches import ChainBatch
from streamd.core.cluster.log_clock import LogClock

TRIM_SECONDS = 5.0
"""The interval at which an owner checks whether its chain is too long."""


class ChainTrimmer:
    """The trimmer of one shard's chain, which `follower` knows. `clock` returns monotonic seconds."""

    def __init__(
        self,
        follower: ChainFollower,
        poster: ForecastPoster,
        appender: ChainAppender,
        purger: ChainPurger,
        log_clock: LogClock,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._follower = follower
        self._poster = poster
        self._appender = appender
        self._purger = purger
        self._log_clock = log_clock
        self._clock = clock
        self._next = 0.0

    async def trim_due(self, most: int) -> None:
        """Shorten the chain if that is due and it is too long; appends batches of at most `most` forecasts.

        Raises as the appender.
        """
        if self._clock() < self._next and not self._follower.retention.is_full:
            return
        self._next = self._clock() + TRIM_SECONDS
        below = self._follower.find_removable(self._log_clock.read(self._clock()))
        if not below:
            return
        # What is moved must fit beside what it is moved from; the rest follows once this part is removed. One message
        # always goes: the log takes more than this node believes while it keeps a former, higher limit.
        below = self._follower.chain.limit_forecasts(below, max(most, self._follower.forecasts_that_fit))
        if await self._move_forecasts(below, most):
            await self._purger.remove(below)

    async def _move_forecasts(self, below: int, most: int) -> bool:
        """Append again the newest forecasts that lie below a sequence; returns whether all are stored.

        Not those of servers whose next forecast waits to be appended: it takes their place.
        """
        chain = self._follower.chain
        steps = {server: chain.steps[server] for server in chain.list_forecasts(below)}
        for forecasts in self._poster.read_forecasts(steps):
            for batch in _cut(forecasts, chain.fence, most):
                if not await self._append_again(batch):
                    return False
        return True

    async def _append_again(self, batch: ChainBatch) -> bool:
        entry = self._follower.chain.begin_batch(dict(zip(batch.servers, batch.steps.tolist(), strict=True)))
        number = self._appender.take_number()
        is_stored = await self._appender.append(replace(batch, number=number, forgot_rows=entry.forgot_rows))
        self._appender.counts.kept += len(batch.servers) if is_stored else 0
        return is_stored


def _cut(forecasts: KeptForecasts, fence: int, most: int) -> Iterator[ChainBatch]:
    servers: Sequence[str] = forecasts.servers
    for begin in range(0, len(servers), most):
        part = slice(begin, begin + most)
        yield ChainBatch(
            fence=fence,
            number=0,
            model=forecasts.model,
            servers=tuple(servers[part]),
            steps=forecasts.steps[part],
            contexts=forecasts.contexts[part],
            values=forecasts.values[part],
            serials=forecasts.serials[part],
            made_fence=forecasts.fence,
        )
