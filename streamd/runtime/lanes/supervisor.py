"""Supervises lanes: opens a backend, finds lanes that hang, rebuilds lost ones, falls back to the next backend.

Other servers still report ready after their device has a sticky error. Here a lost lane is removed at once, and
readiness follows the remaining lanes. A lost device loses all of its lanes, and gets no new one before the former ones
have ended. Runs on the event loop; backends and lanes are opened in threads.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Protocol, TypeVar

import structlog

from streamd.core.errors import BackendUnavailableError, DeviceLostError, LaneLostError
from streamd.core.scheduling.costs import CostTable
from streamd.core.scheduling.lane_health import LaneRoster
from streamd.inference.lane import Backend, Lane
from streamd.inference.opening import OpenedBackend, SkippedBackend, join_reasons
from streamd.runtime.lanes.deployment import Deployment
from streamd.runtime.lanes.pipeline import Pipeline
from streamd.runtime.lanes.warmup import measure_costs, warm_lane
from streamd.runtime.lanes.worker import LaneWorker

log = structlog.get_logger(__name__)

WATCH_SECONDS = 0.5
"""The interval of checks."""

T = TypeVar("T")


class BackendChanged(Protocol):
    """A listener for changes of a deployment's backend."""

    def backend_changed(self, deployment: Deployment) -> None:
        """Handle that a deployment runs on another backend from now on."""
        ...

    def device_lost(self, deployment: Deployment, error: LaneLostError) -> None:
        """Handle that a device of a deployment is lost for this process."""
        ...


class LaneSupervisor:
    """The supervisor of one deployment's lanes, from `open` until `close`."""

    def __init__(
        self,
        pipeline: Pipeline,
        deployment: Deployment,
        listener: BackendChanged,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.fallbacks: list[SkippedBackend] = []
        """The backends that were skipped, at start and later, with the reasons; each backend at most once."""
        self.deployment = deployment
        self._pipeline = pipeline
        self._closing = pipeline.lanes.closing
        self._listener = listener
        self._limits = deployment.spec.lane_limits
        self._roster: LaneRoster | None = None
        self._clock = clock
        self._indexes: dict[LaneWorker, int] = {}
        self._devices: list[str] = []  # of each lane, by index
        self._rebuilding: dict[str, asyncio.Lock] = {}  # by device: its lanes are rebuilt one after another
        self._exhausted: set[str] = set()  # backends that are not tried again
        self._abandoned: set[LaneWorker] = set()  # lanes that were lost while the deployment retired
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        deployment.supervisor = self

    async def open(self) -> None:
        """Open the first backend that runs, warm its lanes and add them to the deployment; call `watch` next.

        Raises `BackendUnavailableError` with every reason if no backend runs.
        """
        try:
            await self._open_next()
        except BackendUnavailableError as error:
            before = join_reasons(self.fallbacks)
            raise BackendUnavailableError(f"{error}; before that {before}" if before else str(error)) from error

    def watch(self) -> None:
        """Check the lanes from now on, until `close`."""
        self._timer = self._loop.call_later(WATCH_SECONDS, self.watch)
        self.check_lanes(self._clock())

    def close(self) -> None:
        """Stop watching and rebuilding."""
        if self._timer is not None:
            self._timer.cancel()
        self._cancel_tasks()

    def move(self, pipeline: Pipeline, listener: BackendChanged) -> None:
        """Supervise the lanes for the pipeline to which they were transferred."""
        self._pipeline, self._listener = pipeline, listener

    async def retire(self) -> None:
        """Let every lane finish its batch and end; returns when their threads have ended.

        Until then the lanes are checked: one that hangs is removed, and this does not wait for its thread. The
        deployment must not serve.
        """
        self._cancel_tasks()
        ending = list(self.deployment.workers)
        self._pipeline.lanes.retire(self.deployment)
        await self.deployment.wait_empty()
        self.close()
        for worker in ending:
            if worker not in self._abandoned:
                await self._wait_ended(worker)
        self._closing.discard_ended()

    async def _wait_ended(self, worker: LaneWorker) -> None:
        try:
            async with self._pipeline.pauses.timeout(self._limits.hang_seconds):
                await worker.wait_ended()
        except TimeoutError:
            log.warning("lane_not_released", lane=worker.lane.name, device=worker.lane.device)

    def _cancel_tasks(self) -> None:
        for task in self._tasks:
            task.cancel()

    # ------------------------------------------------------------ a backend
    async def _open_next(self) -> Backend:
        """Open and warm the first backend that is not exhausted, and return it.

        A backend that is unavailable, or whose lanes fail while warming, is exhausted.
        """
        spec = self.deployment.spec
        while True:
            opened = await _run_in_thread(partial(spec.open_backend, frozenset(self._exhausted)), _close_backend)
            for each in opened.passed_over:
                self._pass_over(each)
            workers = [self._make_worker(lane) for lane in opened.lanes]
            log.info("lanes_warming", engine=spec.name, backend=opened.backend.name, lanes=len(workers))
            try:
                async with self._pipeline.pauses.timeout(spec.warmup_seconds + self._limits.hang_seconds):
                    costs = await measure_costs(workers, spec.max_batch, spec.warmup_seconds)
            except BaseException as error:
                for worker in workers:
                    self._end_lane(worker)
                if not isinstance(error, Exception):
                    raise  # cancelled
                reason = f"its lanes failed while warming: {_describe(error)}"
                self._pass_over(SkippedBackend(opened.backend.name, reason))
                continue
            self._add_lanes(opened, workers, costs)
            return opened.backend

    def _add_lanes(self, opened: OpenedBackend, workers: list[LaneWorker], costs: CostTable) -> None:
        self.deployment.backend = opened.backend
        self._indexes = {worker: index for index, worker in enumerate(workers)}
        self._devices = [lane.device for lane in opened.lanes]
        self._roster = LaneRoster(len(workers), self._limits, self._clock())
        self._closing.lost_devices.difference_update(self._devices)
        self._pipeline.open_lanes(workers, costs, self.deployment)
        self._listener.backend_changed(self.deployment)

    def _pass_over(self, passed_over: SkippedBackend) -> None:
        self._exhausted.add(passed_over.backend)
        self.fallbacks.append(passed_over)
        log.info("backend_passed_over", backend=passed_over.backend, reason=passed_over.reason)

    def _make_worker(self, lane: Lane) -> LaneWorker:
        worker = LaneWorker(lane, self._loop, self._pipeline.handle_result)
        self._closing.enter(worker)
        return worker

    def _end_lane(self, worker: LaneWorker) -> None:
        """Let a lane's thread close its lane and end as soon as its present work is done."""
        worker.stop()
        self._closing.add(worker)

    # ------------------------------------------------------------ watching
    def check_lanes(self, now: float) -> None:
        """Remove lanes that hang or whose device is lost, and start to rebuild those that are due."""
        assert self._roster is not None
        errors = {worker: self._find_loss(worker, now) for worker in self.deployment.workers}
        self._pipeline.remove_lanes({worker: error for worker, error in errors.items() if error is not None})
        if self.deployment.is_retiring:
            return
        for index in self._roster.take_due(now):
            self._start_task(self._rebuild(index))
        if self._roster.is_exhausted and not self._tasks:
            self._start_task(self._fall_back())

    def _find_loss(self, worker: LaneWorker, now: float) -> LaneLostError | None:
        """Return why a lane counts as lost; `None` if it is healthy."""
        assert self.deployment.costs is not None
        if worker.running is None:
            try:
                worker.lane.check()
            except LaneLostError as error:
                return error
            return None
        started = worker.running.started
        ran = now - started - self._pipeline.pauses.count_paused_seconds(started)
        hung = self._limits.is_hung(ran, self.deployment.costs.estimate_seconds(len(worker.running)))
        return LaneLostError(f"no answer for {ran:.1f} s") if hung else None

    def lane_lost(self, worker: LaneWorker, error: LaneLostError) -> None:
        """Schedule the rebuilding of a lane that the pipeline removed."""
        if self.deployment.is_retiring:
            self._abandoned.add(worker)
        if error.device_gone:
            self._note_device_lost(worker.lane.device, error)
        index = self._indexes.pop(worker, None)
        if index is not None and self._roster is not None:
            self._roster.mark_lost(index, self._clock())

    def _note_device_lost(self, device: str, error: LaneLostError) -> None:
        self._closing.lost_devices.add(device)
        self._listener.device_lost(self.deployment, error)

    def _start_task(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # ------------------------------------------------------------ rebuilding
    async def wait_rebuilt(self) -> None:
        """Wait until every lane and backend that is being opened is ready, or has failed."""
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _rebuild(self, index: int) -> None:
        backend, costs, roster = self.deployment.backend, self.deployment.costs, self._roster
        assert backend is not None
        assert costs is not None
        assert roster is not None
        device = self._devices[index]
        try:
            async with self._rebuilding.setdefault(device, asyncio.Lock()):
                worker = await self._make_warm_lane(backend, index, device)
        except Exception as error:  # whatever the backend raises, only this lane is affected
            log.warning("lane_not_rebuilt", backend=backend.name, lane=index, error=_describe(error))
            self.deployment.lost.append(f"lane {index} was not rebuilt: {_describe(error)}")
            roster.mark_lost(index, self._clock(), permanent=isinstance(error, DeviceLostError))
            if isinstance(error, LaneLostError) and error.device_gone:
                self._note_device_lost(device, error)
                self._pipeline.remove_device(device, error)
            return
        self._indexes[worker] = index
        roster.mark_rebuilt(index, self._clock())
        log.info("lane_rebuilt", backend=backend.name, lane=worker.lane.name)
        self._pipeline.open_lanes([worker], costs, self.deployment)

    async def _make_warm_lane(self, backend: Backend, index: int, device: str) -> LaneWorker:
        """Make a lane and warm it; if that fails, the lane is closed."""
        self._check_device_free(device)
        async with self._pipeline.pauses.timeout(self._limits.make_timeout_seconds):
            lane = await _run_in_thread(partial(backend.make_lane, index), _close_lane)
        worker = self._make_worker(lane)
        try:
            async with self._pipeline.pauses.timeout(self._limits.hang_seconds):
                await warm_lane(worker)
        except BaseException:
            self._end_lane(worker)
            raise
        return worker

    def _check_device_free(self, device: str) -> None:
        """Raise `LaneLostError` while a lost device has lanes, because its memory is released with the last of them."""
        if device not in self._closing.lost_devices:
            return
        if names := self._closing.find_names_on(device):
            raise LaneLostError(f"{device} is gone, and {', '.join(names)} still hold it")
        self._closing.lost_devices.discard(device)

    async def _fall_back(self) -> None:
        backend, roster = self.deployment.backend, self._roster
        assert backend is not None
        assert roster is not None
        last = self.deployment.lost[-1] if self.deployment.lost else "unknown"
        self._pass_over(SkippedBackend(backend.name, f"all its lanes were lost; the last: {last}"))
        try:
            successor = await self._open_next()
        except Exception as error:
            # No other backend runs here. The former one is tried again, because devices can recover.
            self._exhausted.discard(backend.name)
            self.fallbacks.pop()
            log.error("no_backend_left", error=str(error))
            roster.retry_abandoned(self._clock())
        else:
            log.error("fell_back", from_backend=backend.name, to_backend=successor.name)


def _describe(error: Exception) -> str:
    """Return the text of an error; a timeout has no text of its own."""
    return str(error) or "no answer"


def _close_lane(lane: Lane) -> None:
    """Close a lane that has no thread yet."""
    lane.close()


def _close_backend(opened: OpenedBackend) -> None:
    """Close a backend's lanes that have no threads yet."""
    for lane in opened.lanes:
        lane.close()


async def _run_in_thread(make: Callable[[], T], release: Callable[[T], None]) -> T:
    """Run `make` in a thread and return its result; if the caller is cancelled meanwhile, the result is released."""
    making = asyncio.ensure_future(asyncio.to_thread(make))
    try:
        return await asyncio.shield(making)
    except asyncio.CancelledError:
        making.add_done_callback(lambda made: None if made.cancelled() or made.exception() else release(made.result()))
        raise
