"""The highest id that readers get at this node: above it, they would pass forecasts that other nodes have already.

A reader that continues at another node gets what was posted there after its id. So while this node may not hear of all
that is forecast (the log is away, an owner is silent, a chain is not read yet), ids stand still. They are only too low,
then, and a reader gets some forecasts twice.
"""

import asyncio
from collections.abc import Callable

from streamd.cluster.lasting_tasks import start_task
from streamd.core.cluster.log_clock import LogClock, make_serial

ID_CHECK_SECONDS = 0.5
"""The interval of the checks."""

ID_LATE_SECONDS = 1.5
"""A check that comes so long after the one before says that this process stood still: it may have missed anything."""

ID_CALM_SECONDS = 3.0
"""Ids go on so long after all is well again: the chains are read to their ends by then."""


class ReaderIds:
    """The bound of the ids of one node. `hears_all` says whether nothing hides the forecasts of other nodes.

    Without `start` there is no bound. `clock` returns monotonic seconds.
    """

    def __init__(self, log_clock: LogClock, hears_all: Callable[[], bool], clock: Callable[[], float]) -> None:
        self._log_clock = log_clock
        self._hears_all = hears_all
        self._clock = clock
        self._behind_seconds = 0.0
        self._checked_at = 0.0
        self._calm_since: float | None = None
        self._bound: int | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self, behind_seconds: float) -> None:
        """Check from now on. The bound is so far behind the present: so late it is noticed that a node is silent."""
        self.begin(behind_seconds)
        self._task = start_task(self._run())

    def begin(self, behind_seconds: float) -> None:
        """Bound the ids from now on, as if all had been well so far."""
        now = self._clock()
        self._behind_seconds = behind_seconds
        self._checked_at, self._calm_since = now, now - ID_CALM_SECONDS
        self.check()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(ID_CHECK_SECONDS)
            self.check()

    def check(self) -> None:
        """Raise the bound to the present, if all has been well for a while."""
        now = self._clock()
        is_late, self._checked_at = now - self._checked_at > ID_LATE_SECONDS, now
        if is_late or not self._hears_all():
            self._calm_since = None
        elif self._calm_since is None:
            self._calm_since = now
        if self._bound is None or (self._calm_since is not None and now - self._calm_since >= ID_CALM_SECONDS):
            self._bound = max(self._bound or 0, make_serial(self._log_clock.read(now - self._behind_seconds)))

    def limit(self, reader_id: int) -> int:
        """Return the id that a reader may get in place of this one."""
        return reader_id if self._bound is None else min(reader_id, self._bound)

    async def close(self) -> None:
        """Check no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
