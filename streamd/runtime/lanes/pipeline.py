"""From due servers to forecasts: gathers batches into idle lanes and takes the results back.

The scheduler decides; the pipeline does it, on the event loop. Nothing here waits. Batches go to the deployment that
serves; those of another one that are still under way are delivered under the name of the version that made them.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import structlog

from streamd.core.errors import InferenceError, LaneLostError, NotFiniteError
from streamd.core.scheduling.costs import CostTable
from streamd.core.scheduling.scheduler import Batch, BatchOutcome, Item, RequestItem, Scheduler
from streamd.runtime.lanes.deployment import Deployment
from streamd.runtime.lanes.gather import Request, gather, get_request
from streamd.runtime.lanes.pool import ClosingLanes, LanePool
from streamd.runtime.lanes.sinks import ResultSink
from streamd.runtime.lanes.worker import LaneResult, LaneWorker
from streamd.runtime.pauses import Pauses
from streamd.runtime.state.state import State

log = structlog.get_logger(__name__)


SHORTAGE_SECONDS = 1.0
"""How often a full disk is checked again."""


class BatchDone(Protocol):
    """Who wants to know how batches do (the metrics)."""

    def batch_done(self, windows: int, queue_delay_seconds: float, inference_seconds: float) -> None:
        """Learn that a batch came back."""
        ...


class RowsExpected(Protocol):
    """Who knows whether more rows are certain to come (the ingest)."""

    @property
    def expects_rows(self) -> bool:
        """Whether a body is being taken at this moment."""
        ...


class DueRouter(Protocol):
    """Who may take due servers to another pipeline (a canary's)."""

    def route_due(self, slot: int, rows: int) -> bool:
        """Queue a due server elsewhere if it belongs there; returns whether it did."""
        ...


class NoRouter:
    """Routes nothing: every due server stays."""

    def route_due(self, slot: int, rows: int) -> bool:
        """Return `False`."""
        return False


class NoRowsExpected:
    """Nobody says that more rows are certain to come."""

    expects_rows = False


class Pipeline:
    """Runs a scheduler's batches on lanes and hands the results to a sink."""

    def __init__(
        self,
        state: State,
        scheduler: Scheduler,
        sink: ResultSink,
        serving: Deployment,
        *,
        observer: BatchDone,
        router: DueRouter | None = None,
        rows_expected: RowsExpected | None = None,
        closing_lanes: ClosingLanes | None = None,
        pauses: Pauses | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.scheduler = scheduler
        self.lanes = LanePool(serving, closing_lanes or ClosingLanes())
        self.pauses = pauses or Pauses()
        self._state = state
        self._sink = sink
        self._observer = observer
        self._router = router or NoRouter()
        self._rows_expected = rows_expected or NoRowsExpected()
        self._clock = clock
        self._dispatch_scheduled = False
        self._timer: asyncio.TimerHandle | None = None
        self._grace_timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._in_flight = 0
        self._idle = asyncio.Event()

    @property
    def serving(self) -> Deployment:
        """The deployment that new batches go to."""
        return self.lanes.serving

    @property
    def workers(self) -> list[LaneWorker]:
        """The lanes that serve."""
        return self.lanes.serving.workers

    @property
    def ready(self) -> bool:
        """Whether a lane is there to run a batch."""
        return self.lanes.ready

    @property
    def in_flight(self) -> int:
        """Windows that lanes are running."""
        return self._in_flight

    # ------------------------------------------------------------ work in
    def mark_due(self, slot: int, rows: int) -> None:
        """Queue a server that has `rows` more due rows: here, or where the router takes it."""
        if not self._router.route_due(slot, rows):
            self.enqueue(slot, rows)

    def enqueue(self, slot: int, rows: int) -> None:
        """Queue a server here, without asking the router."""
        self.scheduler.mark_due(slot, self._clock(), rows)
        self.schedule_dispatch()

    def forget(self, slot: int) -> None:
        """Drop a slot that changes hands."""
        self.scheduler.forget(slot)

    def add_request(self, request: Request, windows: int) -> bool:
        """Queue a caller's windows; returns `False` where there is no room."""
        added = self.scheduler.add_request(request, windows, self._clock())
        self.schedule_dispatch()
        return added

    def drop_request(self, request: Request) -> None:
        """End a call: its windows leave the queue, because nobody waits for them any more."""
        self.scheduler.drop_request(request)
        self.schedule_dispatch()  # if nothing else waits, `wait_idle` may end

    def schedule_dispatch(self) -> None:
        """Look for work at the loop's next turn, once, after all that came in this one."""
        if not self._dispatch_scheduled:
            self._dispatch_scheduled = True
            self._loop.call_soon(self._dispatch)

    def watch_grace(self) -> None:
        """Close the rows whose grace is over, and come back when the next one's is."""
        if self._grace_timer is not None:
            self._grace_timer.cancel()
        if self._state.shortage() is not None:
            self._grace_timer = self._loop.call_later(SHORTAGE_SECONDS, self.watch_grace)
            return
        now, windows = self._clock(), self._state.windows
        for slot in windows.close_overdue_rows(now - self._paused_in_grace()):
            self.mark_due(slot, 1)
        next_overdue = windows.get_next_deadline()
        # A row may open at any time, and none is overdue before a whole grace: check again then at the latest.
        at = now + windows.grace_seconds if next_overdue is None else next_overdue + self._paused_in_grace()
        self._grace_timer = self._loop.call_later(max(at - now, 0.001), self.watch_grace)

    def _paused_in_grace(self) -> float:
        """Return how long the process was paused since the longest open row began: its rest may lie in the sockets."""
        windows = self._state.windows
        overdue = windows.get_next_deadline()
        return 0.0 if overdue is None else self.pauses.count_paused_seconds(overdue - windows.grace_seconds)

    # ------------------------------------------------------------ deployments
    def open_lanes(self, workers: Sequence[LaneWorker], costs: CostTable, deployment: Deployment | None = None) -> None:
        """Add warm lanes to a deployment (`None`: the one that serves), with what their batches cost."""
        self.lanes.add(deployment or self.serving, workers, costs)
        self.schedule_dispatch()

    def switch(self, deployment: Deployment) -> Deployment:
        """Let a deployment serve from the next batch on; returns the one that did.

        What is under way on the former one's lanes is finished and delivered under its name.
        """
        former = self.lanes.switch(deployment)
        self.schedule_dispatch()
        return former

    def transfer(self, deployment: Deployment, other: "Pipeline") -> None:
        """Give a deployment, none of whose lanes runs anything, to another pipeline."""
        self.lanes.transfer(deployment, other.lanes, other.handle_result)

    # ------------------------------------------------------------ dispatch
    def _dispatch(self) -> None:
        self._dispatch_scheduled = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.scheduler.waiting and self._state.shortage() is not None:  # no forecast could be stored
            self._timer = self._loop.call_later(SHORTAGE_SECONDS, self._dispatch)
            return
        serving = self.serving
        while serving.idle and serving.costs is not None:
            now = self._clock()
            expected = self._rows_expected.expects_rows
            batch = self.scheduler.next_batch(now, len(serving.idle), serving.costs, expected)
            if batch is None:
                if self.scheduler.waiting:
                    delay = max(self.scheduler.dispatch_deadline - now, 0.0)
                    self._timer = self._loop.call_later(delay, self._dispatch)
                break
            if batch.items:
                self._start(batch)
        if not self.ready:
            self._sink.lanes_exhausted()
        self._notify_idle()

    def _start(self, batch: Batch) -> None:
        worker = self.serving.idle.popleft()
        gather(self._state, self.serving.spec.server_ids, batch.items, worker.lane.inputs)
        self._in_flight += len(batch.items)
        worker.submit(batch)

    # ------------------------------------------------------------ results
    def handle_result(self, worker: LaneWorker, result: LaneResult) -> None:
        """Take a batch back from its lane (called on the loop)."""
        owner = self.lanes.find_owner(worker)
        if owner is None:
            return  # the lane was removed, and its batch has gone elsewhere
        outcome, error = self._account(worker, owner, result)
        # The lane's next batch first, then this one's forecasts: a lane must not wait for readers.
        self._dispatch()
        now = self._clock()
        for item in outcome.fail:
            self._fail_item(item, error)
        for row, request in outcome.answer:
            get_request(request).answer(request.index, result.forecasts[row], owner.name)
        for row, server in outcome.deliver:
            self._sink.deliver(server, result.forecasts[row], owner.spec)
        self._sink.publish([server.slot for _, server in outcome.deliver], now)
        self._observe(worker, result, now)

    def _account(
        self, worker: LaneWorker, owner: Deployment, result: LaneResult
    ) -> tuple[BatchOutcome, InferenceError]:
        """Free the lane and tell the scheduler; returns what is to be done, and why its failed windows failed."""
        error = result.error
        if isinstance(error, LaneLostError):
            return BatchOutcome(fail=self._remove_lost(worker, error)), error
        self._free_lane(worker)
        if owner.is_retiring:
            self.lanes.remove(worker)
        else:
            owner.idle.append(worker)
        if error is None:
            not_finite = NotFiniteError("the model gave NaN or infinity for this window")
            return self.scheduler.complete_batch(result.batch, result.bad_rows), not_finite
        log.warning("batch_failed", lane=worker.lane.name, windows=len(result.batch.items), error=str(error))
        return self.scheduler.bisect_batch(result.batch), error

    def _observe(self, worker: LaneWorker, result: LaneResult, now: float) -> None:
        batch = result.batch
        oldest = min((item.since for item in batch.items), default=now)
        self._observer.batch_done(len(batch.items), max(batch.started - oldest, 0.0), result.seconds)
        log.debug("batch", lane=worker.lane.name, windows=len(batch.items), ms=round(result.seconds * 1e3, 2))

    def remove_lanes(self, losses: Mapping[LaneWorker, LaneLostError]) -> None:
        """Remove lanes, idle or busy, each with its reason; if one answers later, the answer is ignored.

        If a lane's device is gone, every other lane of the device is removed with it.
        """
        if not losses:
            return
        failed = [(item, error) for worker, error in losses.items() for item in self._remove_lost(worker, error)]
        self._dispatch()
        for item, error in failed:
            self._fail_item(item, error)

    def remove_device(self, device: str, error: LaneLostError) -> None:
        """Remove every lane of a device that was found to be gone."""
        self.remove_lanes(dict.fromkeys(self.lanes.find_workers_on(device), error))

    def _fail_item(self, item: Item, error: InferenceError) -> None:
        if isinstance(item, RequestItem):
            get_request(item).fail(item.index, error)
        else:
            self._sink.fail(item, error)

    def _remove_lost(self, worker: LaneWorker, error: LaneLostError) -> list[Item]:
        """Remove a lane, and if its device is gone all lanes of the device; returns the items that fail by it.

        They are removed before anything is dispatched: a batch may move once, and must not move to a lane that is
        lost as well.
        """
        failed: list[Item] = []
        for each in self.lanes.find_lost_together(worker, error):
            log.error("lane_lost", lane=each.lane.name, error=str(error))
            owner = self.lanes.find_owner(each)
            assert owner is not None, "lost_together returns lanes of the pool"
            owner.lost.append(f"{each.lane.name}: {error}")
            if each.running is not None:
                failed += self.scheduler.reassign_batch(self._free_lane(each)).fail
            self.lanes.remove(each)
            each.stop()
            if owner.supervisor is not None:
                owner.supervisor.lane_lost(each, error)
        if not self.workers:
            failed += self.scheduler.withdraw_requests()
        return failed

    def _free_lane(self, worker: LaneWorker) -> Batch:
        """Return what a lane ran; it runs nothing any more."""
        batch = worker.running
        assert batch is not None, f"lane {worker.lane.name} is idle"
        worker.running = None
        self._in_flight -= len(batch.items)
        return batch

    # ------------------------------------------------------------ drain
    async def wait_idle(self) -> None:
        """Wait until nothing waits and nothing runs (or no lane is left to run it)."""
        while not self.is_idle:
            self._idle.clear()
            await self._idle.wait()

    @property
    def is_idle(self) -> bool:
        """Whether nothing runs, and nothing waits that a lane could run."""
        return not self._in_flight and (not self.scheduler.waiting or not self.workers)

    @property
    def unfinished(self) -> int:
        """Windows that wait or run."""
        return self.scheduler.waiting + self._in_flight

    def _notify_idle(self) -> None:
        if self.is_idle:
            self._idle.set()

    def stop(self) -> None:
        """Stop timers and let the lanes' threads end."""
        for timer in (self._timer, self._grace_timer):
            if timer is not None:
                timer.cancel()
        for worker in self.lanes.all_workers:
            worker.stop()
