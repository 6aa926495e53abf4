"""Runs the scheduler's batches: gathers them into idle lanes and passes the results to a sink.

The scheduler decides, the pipeline acts, on the event loop; nothing here waits. New batches run on the deployment that
serves. Batches that still run on another one are delivered under the name of the version that made them.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import structlog

from streamd.core.arrays import Slots
from streamd.core.errors import InferenceError, LaneLostError, NotFiniteError
from streamd.core.scheduling.batches import Batch, BatchOutcome, Item, RequestItem
from streamd.core.scheduling.costs import CostTable
from streamd.core.scheduling.scheduler import Scheduler
from streamd.runtime.lanes.deployment import Deployment
from streamd.runtime.lanes.filling import fill_lane
from streamd.runtime.lanes.pipeline_interfaces import (
    BatchAnswered,
    BatchDone,
    DueRouter,
    NoRouter,
    NoRowsExpected,
    RowsExpected,
)
from streamd.runtime.lanes.pool import ClosingLanes, LanePool
from streamd.runtime.lanes.requests import Request, answer_requests, get_request
from streamd.runtime.lanes.server_numbers import ServerNumbers
from streamd.runtime.lanes.sinks import ResultSink
from streamd.runtime.lanes.worker import LaneResult, LaneWorker
from streamd.runtime.pauses import Pauses
from streamd.runtime.state.state import State
from streamd.runtime.traces import NO_TRACES, Traces

log = structlog.get_logger(__name__)

SHORTAGE_SECONDS = 1.0
"""The interval at which a full disk is checked again."""


class Pipeline:
    """Runs a scheduler's batches on lanes and passes the results to a sink."""

    def __init__(
        self,
        state: State,
        scheduler: Scheduler,
        sink: ResultSink,
        serving: Deployment,
        *,
        observer: BatchDone,
        answers_observer: BatchAnswered | None = None,
        router: DueRouter | None = None,
        rows_expected: RowsExpected | None = None,
        closing_lanes: ClosingLanes | None = None,
        pauses: Pauses | None = None,
        holds_grace: Callable[[], bool] = lambda: False,
        traces: Traces = NO_TRACES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.scheduler = scheduler
        self.lanes = LanePool(serving, closing_lanes or ClosingLanes())
        self.pauses = pauses or Pauses()
        self.holds_grace = holds_grace
        """Whether open rows must not close by time at present."""
        self.traces = traces
        self._state = state
        self._sink = sink
        self._observer = observer
        self._answers_observer = answers_observer
        self._router = router or NoRouter()
        self._rows_expected = rows_expected or NoRowsExpected()
        self._clock = clock
        self._dispatch_scheduled = False
        self._timer: asyncio.TimerHandle | None = None
        self._grace_timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self.steps = 0
        """Rises whenever a batch ends or a lane is added or removed."""
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
    def is_ready(self) -> bool:
        """Whether the deployment that serves has a lane."""
        return self.lanes.is_ready

    @property
    def in_flight(self) -> int:
        """The number of windows that lanes are running."""
        return self._in_flight

    # ------------------------------------------------------------ work in
    def mark_due(self, slot: int, rows: int) -> None:
        """Queue a server that has `rows` more due rows: here, unless the router queues it elsewhere."""
        if not self._router.route_due(slot, rows):
            self.enqueue(slot, rows)

    def enqueue(self, slot: int, rows: int) -> None:
        """Queue a server here, without asking the router."""
        self.scheduler.mark_due(slot, self._clock(), rows)
        self.schedule_dispatch()

    def mark_due_many(self, slots: Slots) -> None:
        """Queue distinct servers that have one more due row each: here, unless the router queues them elsewhere."""
        self.enqueue_many(self._router.route_due_many(slots))

    def enqueue_many(self, slots: Slots) -> None:
        """Queue distinct servers with one due row each here, without asking the router."""
        if len(slots):
            self.scheduler.mark_due_many(slots, self._clock())
            self.schedule_dispatch()

    def forget(self, slot: int) -> None:
        """Remove a slot that gets another server from the queue."""
        self.scheduler.forget(slot)

    def add_request(self, request: Request, windows: int) -> bool:
        """Queue a caller's windows; returns `False` if the queue has no space for all of them."""
        added = self.scheduler.add_request(request, windows, self._clock())
        self.schedule_dispatch()
        return added

    def drop_request(self, request: Request) -> None:
        """End a call: its windows are removed from the queue."""
        self.scheduler.drop_request(request)
        self._notify_idle()

    def schedule_dispatch(self) -> None:
        """Dispatch once at the loop's next turn, so that all work of this turn is batched."""
        if not self._dispatch_scheduled:
            self._dispatch_scheduled = True
            self._loop.call_soon(self._dispatch)

    def watch_grace(self) -> None:
        """Close the rows whose grace period is over, and do so again when that of the next row is."""
        if self._grace_timer is not None:
            self._grace_timer.cancel()
        if self._state.find_shortage() is not None or self.holds_grace():
            self._grace_timer = self._loop.call_later(SHORTAGE_SECONDS, self.watch_grace)
            return
        now, windows = self._clock(), self._state.windows
        self.mark_due_many(np.array(windows.close_overdue_rows(now - self._paused_in_grace()), np.int64))
        next_overdue = windows.get_next_deadline()
        # A row may open at any time, and stays open for a whole grace period: check again by then.
        at = now + windows.grace_seconds if next_overdue is None else next_overdue + self._paused_in_grace()
        self._grace_timer = self._loop.call_later(max(at - now, 0.001), self.watch_grace)

    def _paused_in_grace(self) -> float:
        """Return the seconds of pauses since the longest open row began; its missing samples may lie in the sockets."""
        windows = self._state.windows
        overdue = windows.get_next_deadline()
        return 0.0 if overdue is None else self.pauses.count_paused_seconds(overdue - windows.grace_seconds)

    # ------------------------------------------------------------ deployments
    def open_lanes(self, workers: Sequence[LaneWorker], costs: CostTable, deployment: Deployment | None = None) -> None:
        """Add warm lanes to a deployment, by default the one that serves, with the costs of their batches."""
        self.lanes.add(deployment or self.serving, workers, costs)
        self.steps += 1
        self.schedule_dispatch()

    def switch(self, deployment: Deployment) -> Deployment:
        """Let a deployment serve from the next batch on; returns the former one.

        Batches that run on the former one's lanes are delivered under its name.
        """
        former = self.lanes.switch(deployment)
        self.schedule_dispatch()
        return former

    def transfer(self, deployment: Deployment, other: "Pipeline") -> None:
        """Give a deployment whose lanes are all idle to another pipeline."""
        self.lanes.transfer(deployment, other.lanes, other.handle_result)

    # ------------------------------------------------------------ dispatch
    def _dispatch(self) -> None:
        self._dispatch_scheduled = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.scheduler.waiting and self._state.find_shortage() is not None:  # a forecast could not be stored
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
            if len(batch):
                self._start(batch)
        if not self.is_ready:
            self._sink.lanes_exhausted()
        self._notify_idle()

    def _start(self, batch: Batch) -> None:
        serving = self.serving
        worker = serving.idle.popleft()
        if serving.server_numbers is None:
            serving.server_numbers = ServerNumbers(serving.spec.server_ids, self._state.directory)
        self._in_flight += len(batch)
        fill_lane(self._state, serving.server_numbers, batch, worker.lane)
        worker.submit(batch)

    # ------------------------------------------------------------ results
    def handle_result(self, worker: LaneWorker, result: LaneResult) -> None:
        """Handle the result of a lane's batch (called on the loop)."""
        owner = self.lanes.find_owner(worker)
        if owner is None:
            return  # the lane was removed, and its batch reassigned
        self.steps += 1
        outcome, error = self._account(worker, owner, result)
        # The lane gets its next batch before the forecasts of this one are delivered: it must not wait for readers.
        self._dispatch()
        now = self._clock()
        for item in outcome.fail:
            self._fail_item(item, error)
        answer_requests(outcome.answer, result.forecasts, owner.name)
        if outcome.answer and self._answers_observer is not None:
            self._answers_observer.batch_answered(outcome.answer, result, owner.name, now)
        if len(outcome.deliver):
            self._deliver(outcome, result, owner)
            self._sink.publish(outcome.deliver.slots, now)
        self._observe(worker, result)
        self.traces.batch_done(
            result.batch, outcome, lane=worker.lane.name, version=owner.name, seconds=result.seconds, done=now
        )

    def _deliver(self, outcome: BatchOutcome, result: LaneResult, owner: Deployment) -> None:
        rows: slice | Slots = outcome.rows
        if len(outcome.rows) == len(result.batch.servers):
            rows = slice(0, len(outcome.rows))  # all of them, which are the first rows: no copy
        self._sink.deliver(outcome.deliver, result.forecasts[rows], result.checks[rows], owner.spec)

    def _account(
        self, worker: LaneWorker, owner: Deployment, result: LaneResult
    ) -> tuple[BatchOutcome, InferenceError]:
        """Free the lane and report to the scheduler; returns the outcome, and the error of the windows that failed.

        1. The lane was lost: it is removed, and its batch runs on another lane or fails.
        2. The batch ran: the windows whose forecasts are not finite fail.
        3. The engine refused the batch: its halves run again, or its only window fails.
        """
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
        log.warning("batch_failed", lane=worker.lane.name, windows=len(result.batch), error=str(error))
        return self.scheduler.bisect_batch(result.batch), error

    def _observe(self, worker: LaneWorker, result: LaneResult) -> None:
        batch = result.batch
        oldest = batch.find_oldest_since()
        delay = 0.0 if oldest is None else max(batch.started - oldest, 0.0)
        self._observer.batch_done(len(batch), delay, result.seconds, batch.reason)
        log.debug("batch", lane=worker.lane.name, windows=len(batch), ms=round(result.seconds * 1e3, 2))

    def remove_lanes(self, losses: Mapping[LaneWorker, LaneLostError]) -> None:
        """Remove lanes, idle or busy, each for its reason. A later result of one is ignored.

        If the device of one is lost, all other lanes of the device are removed too.
        """
        if not losses:
            return
        failed = [(item, error) for worker, error in losses.items() for item in self._remove_lost(worker, error)]
        self._dispatch()
        for item, error in failed:
            self._fail_item(item, error)

    def remove_device(self, device: str, error: LaneLostError) -> None:
        """Remove every lane of a lost device."""
        self.remove_lanes(dict.fromkeys(self.lanes.find_workers_on(device), error))

    def _fail_item(self, item: Item, error: InferenceError) -> None:
        if isinstance(item, RequestItem):
            get_request(item).fail(item.index, error)
        else:
            self._sink.fail(item, error)

    def _remove_lost(self, worker: LaneWorker, error: LaneLostError) -> list[Item]:
        """Remove a lost lane, and all lanes of its device if that is lost; returns the windows that fail.

        All are removed before the next dispatch: a batch may move only once, and must not move to a lane that is lost
        as well.
        """
        failed: list[Item] = []
        for each in self.lanes.find_lost_together(worker, error):
            log.error("lane_lost", lane=each.lane.name, error=str(error))
            owner = self.lanes.find_owner(each)
            assert owner is not None, "the lane is one of the pool"
            owner.lost.append(f"{each.lane.name}: {error}")
            if each.running is not None:
                failed += self.scheduler.reassign_batch(self._free_lane(each)).fail
            self.lanes.remove(each)
            self.steps += 1
            each.stop()
            if owner.supervisor is not None:
                owner.supervisor.lane_lost(each, error)
        if not self.workers:
            failed += self.scheduler.withdraw_requests()
        return failed

    def _free_lane(self, worker: LaneWorker) -> Batch:
        """Return the batch of a busy lane, and mark the lane as idle."""
        batch = worker.running
        assert batch is not None, f"lane {worker.lane.name} is idle"
        worker.running = None
        self._in_flight -= len(batch)
        return batch

    # ------------------------------------------------------------ drain
    async def wait_idle(self) -> None:
        """Wait until `is_idle`."""
        while not self.is_idle:
            self._idle.clear()
            await self._idle.wait()

    @property
    def is_idle(self) -> bool:
        """Whether no window runs, and none waits or no lane is left to run it."""
        return not self._in_flight and (not self.scheduler.waiting or not self.workers)

    @property
    def unfinished(self) -> int:
        """The number of windows that wait or run."""
        return self.scheduler.waiting + self._in_flight

    def _notify_idle(self) -> None:
        if self.is_idle:
            self._idle.set()

    def stop(self) -> None:
        """Cancel the timers, and let the lanes' threads end."""
        for timer in (self._timer, self._grace_timer):
            if timer is not None:
                timer.cancel()
        for worker in self.lanes.all_workers:
            worker.stop()
