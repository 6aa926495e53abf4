"""Keeps lanes: opens a backend's, watches for those that hang, rebuilds what was lost, falls back when it must.

Peers are known to say that they are ready after their device's error is sticky; here a lost lane is out at once,
and readiness is that of the lanes that are left. A device that is gone takes all of its lanes with it, and gets none
until it has let go of those.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import structlog

from streamd.core.errors import BackendUnavailableError, DeviceLostError, LaneLostError
from streamd.core.scheduling.costs import CostTable
from streamd.core.scheduling.lane_health import LaneLimits, LaneRoster
from streamd.inference.lane import Backend, Lane
from streamd.runtime.lanes.deployment import Deployment
from streamd.runtime.lanes.opening import OpenBackend, OpenedBackend, close, close_all, describe_error, in_thread
from streamd.runtime.lanes.pipeline import Pipeline
from streamd.runtime.lanes.warmup import measure_costs, warm
from streamd.runtime.lanes.worker import LaneWorker

log = structlog.get_logger(__name__)

WATCH_SECONDS = 0.5


class LaneSupervisor:
    """The lanes of one deployment (none: the one that serves), for as long as there are any.

    `changed` hears of every other backend.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        open_backend: OpenBackend,
        *,
        deployment: Deployment | None = None,
        max_batch: int,
        warmup_seconds: float,
        limits: LaneLimits,
        changed: Callable[[OpenedBackend, CostTable], None] = lambda opened, costs: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.fallbacks: list[dict[str, str]] = []
        """What was tried and why it was passed over, at start and since; at most one entry a backend and change."""
        self.deployment = deployment or pipeline.serving
        self._pipeline = pipeline
        self._departures = pipeline.closing_lanes
        self._open_backend = open_backend
        self._max_batch = max_batch
        self._warmup_seconds = warmup_seconds
        self._limits = limits
        self._changed = changed
        self._opened: OpenedBackend | None = None
        self._costs: CostTable | None = None
        self._roster: LaneRoster | None = None
        self._clock = clock
        self._places: dict[LaneWorker, int] = {}
        self._devices: list[str] = []  # of each lane, by index
        self._mending: dict[str, asyncio.Lock] = {}  # by device: its lanes are rebuilt one after another
        self._spent: set[str] = set()
        self._given_up: set[LaneWorker] = set()  # lost while they were to end
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self.deployment.on_lost = self._lost

    async def open(self) -> None:
        """Open the first backend that runs, warm its lanes and put them to work; `watch` is next.

        Raises `BackendUnavailableError` with every reason where none runs.
        """
        try:
            await self._open_next()
        except BackendUnavailableError as error:
            before = "; ".join(f"{each['backend']}: {each['reason']}" for each in self.fallbacks)
            raise BackendUnavailableError(f"{error}; before that {before}" if before else str(error)) from error

    def watch(self) -> None:
        """Look after the lanes from now on, until `close`."""
        self._timer = self._loop.call_later(WATCH_SECONDS, self.watch)
        self.look(self._clock())

    def close(self) -> None:
        """Stop watching and rebuilding."""
        if self._timer is not None:
            self._timer.cancel()
        self._stop_mending()

    def move(self, pipeline: Pipeline) -> None:
        """Look after the lanes for another pipeline from now on, which has got them."""
        self._pipeline = pipeline

    async def retire(self) -> None:
        """Let every lane finish what it runs and end; returns when their threads have ended.

        Until then they are watched: one that hangs is given up, and its thread not waited for. The deployment must
        not serve.
        """
        self._stop_mending()
        ending = list(self.deployment.workers)
        self._pipeline.retire(self.deployment)
        await self.deployment.emptied()
        self.close()
        for worker in ending:
            if worker not in self._given_up:
                await self._seen_off(worker)
        self._departures.forget_ended()
        self.deployment.on_lost = lambda worker, error: None  # nothing here holds the other any more
        self._changed = lambda opened, costs: None

    async def _seen_off(self, worker: LaneWorker) -> None:
        try:
            async with self._pipeline.pauses.timeout(self._limits.hang_seconds):
                await worker.over()
        except TimeoutError:
            log.warning("lane_not_let_go", lane=worker.lane.name, device=worker.lane.device)

    def _stop_mending(self) -> None:
        for task in self._tasks:
            task.cancel()

    # ------------------------------------------------------------ a backend
    async def _open_next(self) -> OpenedBackend:
        """Open and warm the first backend that is not spent; one whose lanes fail while warming is spent."""
        while True:
            opened = await in_thread(partial(self._open_backend, frozenset(self._spent)), close_all)
            for passed_over in opened.fallbacks:
                self._pass_over(passed_over["backend"], passed_over["reason"])
            workers = [self._worker(lane) for lane in opened.lanes]
            engine, name = self.deployment.model.text, opened.backend.name
            log.info("lanes_warming", engine=engine, backend=name, lanes=len(workers))
            try:
                async with self._pipeline.pauses.timeout(self._warmup_seconds + self._limits.hang_seconds):
                    costs = await measure_costs(workers, self._max_batch, self._warmup_seconds)
            except BaseException as error:
                for worker in workers:
                    self._let_go(worker)
                if not isinstance(error, Exception):
                    raise  # told to stop
                self._pass_over(name, f"its lanes failed while warming: {describe_error(error)}")
                continue
            self._opened, self._costs = opened, costs
            self._places = {worker: index for index, worker in enumerate(workers)}
            self._devices = [lane.device for lane in opened.lanes]
            self._roster = LaneRoster(len(workers), self._limits, self._clock())
            self._departures.gone.difference_update(self._devices)
            self._pipeline.open_lanes(workers, costs, self.deployment)
            self._changed(opened, costs)
            return opened

    def _pass_over(self, name: str, reason: str) -> None:
        self._spent.add(name)
        self.fallbacks.append({"backend": name, "reason": reason})
        log.info("backend_passed_over", backend=name, reason=reason)

    def _worker(self, lane: Lane) -> LaneWorker:
        worker = LaneWorker(lane, self._loop, self._pipeline.take_result)
        self._departures.enter(worker)
        return worker

    def _let_go(self, worker: LaneWorker) -> None:
        """Let a lane's thread close its lane and end, once it comes back from what it does."""
        worker.stop()
        self._departures.remember(worker)

    # ------------------------------------------------------------ watching
    def look(self, now: float) -> None:
        """Take out lanes that hang or whose device is gone, and begin to rebuild those whose time has come."""
        assert self._roster is not None
        complaints = {worker: self._complaint(worker, now) for worker in self.deployment.workers}
        self._pipeline.lose({worker: error for worker, error in complaints.items() if error is not None})
        if self.deployment.retired:
            return
        for index in self._roster.take_due(now):
            self._begin(self._rebuild(index))
        if self._roster.exhausted and not self._tasks:
            self._begin(self._fall_back())

    def _complaint(self, worker: LaneWorker, now: float) -> LaneLostError | None:
        assert self._costs is not None
        if worker.running is None:
            try:
                worker.lane.check()
            except LaneLostError as error:
                return error
            return None
        started = worker.running.started
        ran = now - started - self._pipeline.pauses.seconds_since(started)
        hung = self._limits.hung(ran, self._costs.cost(len(worker.running.items)))
        return LaneLostError(f"no answer for {ran:.1f} s") if hung else None

    def _lost(self, worker: LaneWorker, error: LaneLostError) -> None:
        if self.deployment.retired:
            self._given_up.add(worker)
        if error.device_gone:
            self._departures.gone.add(worker.lane.device)
        index = self._places.pop(worker, None)
        if index is not None and self._roster is not None:
            self._roster.lost(index, self._clock())

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
        opened, costs, roster, device = self._opened, self._costs, self._roster, self._devices[index]
        assert opened is not None
        assert costs is not None
        assert roster is not None
        try:
            async with self._mending.setdefault(device, asyncio.Lock()):
                worker = await self._made(opened.backend, index, device)
        except Exception as error:  # a backend's defect is a lane that is not rebuilt, and no more
            log.warning("lane_not_rebuilt", backend=opened.backend.name, lane=index, error=describe_error(error))
            self.deployment.lost.append(f"lane {index} was not rebuilt: {describe_error(error)}")
            roster.lost(index, self._clock(), permanent=isinstance(error, DeviceLostError))
            if isinstance(error, LaneLostError) and error.device_gone:
                self._departures.gone.add(device)
                self._pipeline.lose_device(device, error)
            return
        self._places[worker] = index
        roster.rebuilt(index, self._clock())
        log.info("lane_rebuilt", backend=opened.backend.name, lane=worker.lane.name)
        self._pipeline.open_lanes([worker], costs, self.deployment)

    async def _made(self, backend: Backend, index: int, device: str) -> LaneWorker:
        """Make a lane and warm it; whatever goes wrong, nothing of it is left."""
        self._check_let_go(device)
        async with self._pipeline.pauses.timeout(self._limits.make_timeout_seconds):
            lane = await in_thread(partial(backend.make_lane, index), close)
        worker = self._worker(lane)
        try:
            async with self._pipeline.pauses.timeout(self._limits.hang_seconds):
                await warm(worker)
        except BaseException:
            self._let_go(worker)
            raise
        return worker

    def _check_let_go(self, device: str) -> None:
        """Raise `LaneLostError` while a device that is gone has lanes: what they share goes with the last of them."""
        if device not in self._departures.gone:
            return
        if names := self._departures.holding(device):
            raise LaneLostError(f"{device} is gone, and {', '.join(names)} did not let go of it")
        self._departures.gone.discard(device)

    async def _fall_back(self) -> None:
        opened, roster = self._opened, self._roster
        assert opened is not None
        assert roster is not None
        name = opened.backend.name
        last = self.deployment.lost[-1] if self.deployment.lost else "unknown"
        self._pass_over(name, f"all its lanes were lost; the last: {last}")
        try:
            successor = await self._open_next()
        except Exception as error:
            # Nothing else runs here: what there was is tried again, for devices do come back.
            self._spent.discard(name)
            self.fallbacks.pop()
            log.error("no_backend_left", error=str(error))
            roster.retry_abandoned(self._clock())
        else:
            log.error("fell_back", from_backend=name, to_backend=successor.backend.name)
