"""When this process did not run: it was stopped, its virtual machine was paused, or something held the loop for long.

Whatever was due in the meantime is late because of that, not because of those who were to do it: a deadline leaves
pauses out.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import structlog

log = structlog.get_logger(__name__)

TICK_SECONDS = 0.5
KEPT = 64
"""Pauses that are remembered; older ones concern no deadline any more."""


class Pauses:
    """Notes pauses from `watch` on: the loop turned later than it should have, by more than a tick."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._seen: float | None = None
        self._pauses: deque[tuple[float, float]] = deque(maxlen=KEPT)  # (when it was over, how long it was)
        self._timer: asyncio.TimerHandle | None = None

    def watch(self) -> None:
        """Look at the clock at every tick, until `close`."""
        if self._seen is None:
            self._seen = self.clock()
        self.check()
        self._timer = asyncio.get_running_loop().call_later(TICK_SECONDS, self.watch)

    def close(self) -> None:
        """Stop looking; from then on there are no pauses."""
        if self._timer is not None:
            self._timer.cancel()
        self._seen = None

    def check(self) -> None:
        """Note a pause, if the last look is too long ago: all of the time since, so that no deadline passed in it."""
        if self._seen is None:
            return
        now = self.clock()
        before, self._seen = self._seen, now
        if now - before > 2 * TICK_SECONDS:
            self._pauses.append((now, now - before))
            log.warning("process_paused", seconds=round(now - before, 1))

    def count_paused_seconds(self, then: float) -> float:
        """How long the process did not run since a moment (monotonic seconds)."""
        self.check()  # whoever asks first after a pause learns of it, whichever timer comes first
        return sum(seconds for over, seconds in self._pauses if over > then)

    def count_running_seconds(self, since: float) -> float:
        """The seconds since a moment in which the process ran."""
        return self.clock() - since - self.count_paused_seconds(since)

    @asynccontextmanager
    async def timeout(self, seconds: float) -> AsyncIterator[None]:
        """Bound the time of a block as `asyncio.timeout` does, without pauses; raises `TimeoutError`."""
        loop, began = asyncio.get_running_loop(), self.clock()
        timer: asyncio.TimerHandle | None = None
        async with asyncio.timeout(None) as scope:

            def check() -> None:
                nonlocal timer
                left = seconds - self.count_running_seconds(began)
                if left > 0:
                    timer = loop.call_later(max(left, 0.001), check)
                else:
                    scope.reschedule(loop.time())

            timer = loop.call_later(seconds, check)
            try:
                yield
            finally:
                timer.cancel()
