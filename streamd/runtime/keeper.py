"""Keeps lanes: opens a backend's, watches for those that hang, rebuilds what was lost, falls back when it must.

Peers are known to say that they are ready after their device's error is sticky; here a lost lane is out at once,
and readiness is that of the lanes that are left.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import structlog

from streamd.core.costs import CostTable
from streamd.core.errors import BackendUnavailableError, LaneLostError, StreamdError
from streamd.core.lanes import LaneLimits, LaneRoster
from streamd.device.lane import Backend, Lane
from streamd.runtime.pipeline import Pipeline
from streamd.runtime.warmup import measure_costs, warm
from streamd.runtime.worker import LaneWorker

log = structlog.get_logger(__name__)

WATCH_SECONDS = 0.5


@dataclass
class Opened:
    """A backend that runs, its lanes, and what was tried before it."""

    backend: Backend
    lanes: list[Lane]
    fallbacks: list[dict[str, str]] = field(default_factory=list)


OpenBackend = Callable[[frozenset[str]], Opened]
"""Opens the first backend of the chain that runs here and is not named; blocks."""


class LaneKeeper:
    """All lanes of one pipeline, for as long as it runs; `changed` hears of every other backend."""

    def __init__(
        self,
        pipeline: Pipeline,
        open_backend: OpenBackend,
        *,
        max_batch: int,
        warmup_seconds: float,
        limits: LaneLimits,
        changed: Callable[[Opened, CostTable], None] = lambda opened, costs: None,
    ) -> None:
        self.fallbacks: list[dict[str, str]] = []
        """What was tried and why it was passed over, at start and since; at most one entry a backend and change."""
        self._pipeline = pipeline
        self._open_backend = open_backend
        self._max_batch = max_batch
        self._warmup_seconds = warmup_seconds
        self._limits = limits
        self._changed = changed
        self._opened: Opened | None = None
        self._costs: CostTable | None = None
        self._roster: LaneRoster | None = None
        self._places: dict[LaneWorker, int] = {}
        self._spent: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        pipeline.on_lost = self._lost

    async def open(self) -> None:
        """Open the first backend that runs, warm its lanes, put them to work and begin to watch.

        Raises `BackendUnavailableError` with every reason where none runs.
        """
        try:
            await self._open_next()
        except BackendUnavailableError as error:
            before = "; ".join(f"{each['backend']}: {each['reason']}" for each in self.fallbacks)
            raise BackendUnavailableError(f"{error}; before that {before}" if before else str(error)) from error
        self._watch()

    def close(self) -> None:
        """Stop watching and rebuilding."""
        if self._timer is not None:
            self._timer.cancel()
        for task in self._tasks:
            task.cancel()

    # ------------------------------------------------------------ a backend
    async def _open_next(self) -> Opened:
        """Open and warm the first backend that is not spent; one whose lanes fail while warming is spent."""
        while True:
            opened = await asyncio.to_thread(self._open_backend, frozenset(self._spent))
            for passed_over in opened.fallbacks:
                self._pass_over(passed_over["backend"], passed_over["reason"])
            workers = [self._worker(lane) for lane in opened.lanes]
            try:
                async with asyncio.timeout(self._warmup_seconds + self._limits.hang_seconds):
                    costs = await measure_costs(workers, self._max_batch, self._warmup_seconds)
            except (StreamdError, TimeoutError) as error:
                self._pass_over(opened.backend.name, f"its lanes failed while warming: {_told(error)}")
                for worker in workers:
                    worker.stop()
                continue
            self._opened, self._costs = opened, costs
            self._places = {worker: index for index, worker in enumerate(workers)}
            self._roster = LaneRoster(len(workers), self._limits, time.monotonic())
            self._pipeline.open_lanes(workers, costs)
            self._changed(opened, costs)
            return opened

    def _pass_over(self, name: str, reason: str) -> None:
        self._spent.add(name)
        self.fallbacks.append({"backend": name, "reason": reason})
        log.info("backend_passed_over", backend=name, reason=reason)

    def _worker(self, lane: Lane) -> LaneWorker:
        return LaneWorker(lane, self._loop, self._pipeline.take_result)

    # ------------------------------------------------------------ watching
    def _watch(self) -> None:
        self._timer = self._loop.call_later(WATCH_SECONDS, self._watch)
        self.look(time.monotonic())

    def look(self, now: float) -> None:
        """Take out lanes that hang and begin to rebuild those whose time has come."""
        assert self._roster is not None
        assert self._costs is not None
        for worker in list(self._pipeline.workers):
            if worker.running is None:
                continue
            ran = now - worker.running.started
            if self._limits.hung(ran, self._costs.cost(len(worker.running.items))):
                self._pipeline.give_up(worker, LaneLostError(f"no answer for {ran:.1f} s"))
        for index in self._roster.take_due(now):
            self._begin(self._rebuild(index))
        if self._roster.spent and not self._tasks:
            self._begin(self._fall_back())

    def _lost(self, worker: LaneWorker, error: LaneLostError) -> None:
        index = self._places.pop(worker, None)
        if index is not None and self._roster is not None:
            self._roster.lost(index, time.monotonic())

    def _begin(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # ------------------------------------------------------------ mending
    async def mended(self) -> None:
        """Wait until what is being rebuilt or opened at this moment is done, or has failed."""
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _rebuild(self, index: int) -> None:
        opened, costs, roster = self._opened, self._costs, self._roster
        assert opened is not None
        assert costs is not None
        assert roster is not None
        worker: LaneWorker | None = None
        try:
            lane = await asyncio.to_thread(opened.backend.make_lane, index)
            worker = self._worker(lane)
            async with asyncio.timeout(self._limits.hang_seconds):
                await warm(worker)
        except (StreamdError, TimeoutError) as error:
            log.warning("lane_not_rebuilt", backend=opened.backend.name, lane=index, error=_told(error))
            roster.lost(index, time.monotonic())
            if worker is not None:
                worker.stop()
            return
        self._places[worker] = index
        roster.rebuilt(index, time.monotonic())
        log.info("lane_rebuilt", backend=opened.backend.name, lane=worker.lane.name)
        self._pipeline.open_lanes([worker], costs)

    async def _fall_back(self) -> None:
        opened, roster = self._opened, self._roster
        assert opened is not None
        assert roster is not None
        name = opened.backend.name
        last = self._pipeline.lost[-1] if self._pipeline.lost else "unknown"
        self._pass_over(name, f"all its lanes were lost; the last: {last}")
        try:
            successor = await self._open_next()
        except BackendUnavailableError as error:
            # Nothing else runs here: what there was is tried again, for devices do come back.
            self._spent.discard(name)
            self.fallbacks.pop()
            log.error("no_backend_left", error=str(error))
            roster.persist(time.monotonic())
        else:
            log.error("fell_back", from_backend=name, to_backend=successor.backend.name)


def _told(error: Exception) -> str:
    return str(error) or "no answer"
