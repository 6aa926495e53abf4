"""Measures time in which this process did not run: it was stopped, its machine was paused, or the loop was blocked.

Deadlines do not count such time, because nothing that had to happen in it could happen. Knows clocks only.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import structlog

log = structlog.get_logger(__name__)

TICK_SECONDS = 0.5
"""The interval at which the clock is checked; a pause is a gap of more than two ticks."""

MAX_PAUSES = 64
"""The number of pauses that are remembered; no deadline is so old that it needs more."""


class Pauses:
    """The pauses of this process from `watch` on: each time the loop turned more than a tick too late."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._checked_at: float | None = None
        self._pauses: deque[tuple[float, float]] = deque(maxlen=MAX_PAUSES)  # (end, seconds)
        self._timer: asyncio.TimerHandle | None = None

    def watch(self) -> None:
        """Check the clock at every tick, until `close`."""
        if self._checked_at is None:
            self._checked_at = self.clock()
        self.check()
        self._timer = asyncio.get_running_loop().call_later(TICK_SECONDS, self.watch)

    def close(self) -> None:
        """Stop checking; later calls notice no pause."""
        if self._timer is not None:
            self._timer.cancel()
        self._checked_at = None

    def check(self) -> None:
        """Note a pause if the last check was too long ago.

        All time since that check counts as paused, so that no deadline expires in it.
        """
        if self._checked_at is None:
            return
        now = self.clock()
        before, self._checked_at = self._checked_at, now
        if now - before > 2 * TICK_SECONDS:
            self._pauses.append((now, now - before))
            log.warning("process_paused", seconds=round(now - before, 1))

    def count_paused_seconds(self, since: float) -> float:
        """Return the seconds since a moment (monotonic seconds) in which the process did not run."""
        self.check()  # after a pause, this call may come before the timer of `watch`
        return sum(seconds for end, seconds in self._pauses if end > since)

    def count_running_seconds(self, since: float) -> float:
        """Return the seconds since a moment (monotonic seconds) in which the process ran."""
        return self.clock() - since - self.count_paused_seconds(since)

    @asynccontextmanager
    async def timeout(self, seconds: float) -> AsyncIterator[None]:
        """Limit the time of a block like `asyncio.timeout`, not counting pauses; raises `TimeoutError`."""
        loop, began = asyncio.get_running_loop(), self.clock()
        timer: asyncio.TimerHandle | None = None
        async with asyncio.timeout(None) as scope:

            def expire_or_wait() -> None:
                nonlocal timer
                left = seconds - self.count_running_seconds(began)
                if left > 0:
                    timer = loop.call_later(max(left, 0.001), expire_or_wait)
                else:
                    scope.reschedule(loop.time())

            timer = loop.call_later(seconds, expire_or_wait)
            try:
                yield
            finally:
                timer.cancel()
