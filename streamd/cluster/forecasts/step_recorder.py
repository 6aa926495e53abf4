"""Appends records of the steps that a chain knows, at an interval: so that the forecasts before them may be removed."""

import time
from collections.abc import Callable

from streamd.cluster.forecasts.chain_appender import ChainAppender
from streamd.cluster.forecasts.chain_follower import ChainFollower
from streamd.core.cluster.forecast_batches import StepRecord

RECORD_SECONDS = 0.6
"""The interval of records while forecasts come and the chain is long: all parts take five seconds."""

QUIET_SHARE = 16
"""While the chain is short, records are so many times rarer: each costs the log as much as a batch of forecasts."""


class StepRecorder:
    """The recorder of one shard's owner; `clock` returns monotonic seconds."""

    def __init__(
        self, follower: ChainFollower, appender: ChainAppender, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._follower = follower
        self._appender = appender
        self._clock = clock
        self._last = 0.0
        self._last_bytes = 0

    def begin(self) -> None:
        """Begin with the first record after the short interval, or at once if the chain is long."""
        self._last = self._clock() - (QUIET_SHARE - 1) * RECORD_SECONDS

    async def append_due(self) -> None:
        """Append the next record if it is due and says something new; raises as the appender."""
        if not self._is_due():
            return
        self._last, self._last_bytes = self._clock(), self._follower.retention.noted_bytes
        entry = self._follower.chain.begin_record()
        if entry is None:
            return
        record = StepRecord(
            fence=entry.fence,
            number=self._appender.take_number(),
            part=entry.part,
            steps=dict(entry.steps),
            forgot_rows=entry.forgot_rows,
        )
        await self._appender.append(record)

    def _is_due(self) -> bool:
        retention = self._follower.retention
        if not 0 <= retention.noted_bytes - self._last_bytes < retention.record_bytes:
            return True
        # A chain that has just become long does not wait for the rest of a long interval.
        return self._clock() >= self._last + RECORD_SECONDS * (1 if self._follower.is_long else QUIET_SHARE)
