"""The regular work of a shard's owner beside its forecasts: snapshots, and the steps of servers that are gone."""

import asyncio
import time
from collections.abc import Callable

import structlog

from streamd.cluster.forecasts.chain_follower import ChainFollower
from streamd.cluster.forecasts.row_follower import ShardSnapshots
from streamd.cluster.log import LogAwayError
from streamd.core.cluster.chain_entries import FencedError
from streamd.core.cluster.formats import LaterFormatError
from streamd.core.cluster.log_clock import LogClock
from streamd.runtime.service import Service

log = structlog.get_logger(__name__)

UPKEEP_SECONDS = 1.0
"""The interval at which an owner writes snapshots."""

DROP_SECONDS = 600.0
"""The interval at which an owner drops the steps of servers that are gone."""

GONE_SECONDS = 86_400.0
"""A server without a slot here is gone after so long: its rows are too old to come again."""


class ShardUpkeep:
    """The upkeep of one shard while it is owned; `clock` returns monotonic seconds.

    `has_orders` returns whether the chain lacks an order to forget: a snapshot may hide it from the next owner.
    """

    def __init__(
        self,
        shard: int,
        service: Service,
        snapshots: ShardSnapshots,
        follower: ChainFollower,
        has_orders: Callable[[], bool],
        log_clock: LogClock,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._shard = shard
        self._service = service
        self._snapshots = snapshots
        self._follower = follower
        self._has_orders = has_orders
        self._log_clock = log_clock
        self._clock = clock

    async def run(self) -> None:
        """Keep the shard up until cancelled; raises `FencedError` if there is a later owner, `LaterFormatError`."""
        next_drop = self._clock() + DROP_SECONDS
        while True:
            await asyncio.sleep(UPKEEP_SECONDS)
            try:
                if not self._has_orders():
                    await self._snapshots.write_due(self._clock())
                if self._clock() >= next_drop:
                    next_drop = self._clock() + DROP_SECONDS
                    self.drop_gone()
            except (FencedError, LaterFormatError):
                raise  # it is no defect
            except LogAwayError as exc:
                log.debug("upkeep_waits", shard=self._shard, error=str(exc))
            except Exception as exc:  # a defect must not end it: without it the logs grow, without a reason
                log.exception("upkeep_failed", shard=self._shard, error=str(exc))

    def drop_gone(self) -> None:
        """Drop the steps of servers that came and went: the records would grow with each of them."""
        oldest = (self._log_clock.read(self._clock()) - GONE_SECONDS) / self._service.contract.step_seconds
        gone = self._follower.chain.drop_steps(int(oldest), self._service.state.directory.slots)
        if gone:
            log.info("servers_gone", shard=self._shard, count=len(gone))
