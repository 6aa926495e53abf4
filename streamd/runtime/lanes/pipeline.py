"""Runs the scheduler's batches: gathers them into idle lanes and passes the results to a sink.

The scheduler decides, the pipeline acts, on the event loop; nothing here waits. New batches run on the deployment that
serves. Batches that still run on another one are delivered under the name of the version that made them.
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
from streamd.runtime.traces import NO_TRACES, Traces

log = structlog.get_logger(__name__)

SHORTAGE_SECONDS = 1.0
"""The interval at which a full disk is checked again."""


class BatchDone(Protocol):
    """An observer of batches (the metrics)."""

    def batch_done(self, windows: int, queue_delay_seconds: float, inference_seconds: float) -> None:
        """Observe a batch that ended."""
        ...


class RowsExpected(Protocol):
    """The source of rows, which knows whether more are certain to arrive (the ingest)."""

    @property
    def expects_rows(self) -> bool:
        """Whether more rows are certain to arrive at once."""
        ...


class DueRouter(Protocol):
    """A router that may queue due servers at another pipeline (a canary's)."""

    def route_due(self, slot: int, rows: int) -> bool:
        """Queue a due server elsewhere if it belongs there; returns whether it did."""
        ...


class NoRouter:
    """A router that leaves every due server here."""

    def route_due(self, slot: int, rows: int) -> bool:
        """Return `False`."""
        return False


class NoRowsExpected:
    """A source of rows that is never certain of more."""

    expects_rows = False


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
        router: DueRouter | None = None,
        rows_expected: RowsExpected | None = None,
        closing_lanes: ClosingLanes | None = None,
        pauses: Pauses | None = None,
        traces: Traces = NO_TRACES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.scheduler = scheduler
        self.lanes = LanePool(serving, closing_lanes or ClosingLanes())
        self.pauses = pauses or Pauses()
        self.traces = traces
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
        self.schedule_dispatch()  # if nothing else waits, `wait_idle` may end

    def schedule_dispatch(self) -> None:
        """Dispatch once at the loop's next turn, so that all work of this turn is batched."""
        if not self._dispatch_scheduled:
            self._dispatch_scheduled = True
            self._loop.call_soon(self._dispatch)

    def watch_grace(self) -> None:
        """Close the rows whose grace period is over, and do so again when that of the next row is."""
        if self._grace_timer is not None:
            self._grace_timer.cancel()
        if self._state.find_shortage() is not None:
            self._grace_timer = self._loop.call_later(SHORTAGE_SECONDS, self.watch_grace)
            return
        now, windows = self._clock(), self._state.windows
        for slot in windows.close_overdue_rows(now - self._paused_in_grace()):
            self.mark_due(slot, 1)
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
            if batch.items:
                self._start(batch)
        if not self.is_ready:
            self._sink.lanes_exhausted()
        self._notify_idle()

    def _start(self, batch: Batch) -> None:
        worker = self.serving.idle.popleft()
        gather(self._state, self.serving.spec.server_ids, batch.items, worker.lane.inputs)
        self._in_flight += len(batch.items)
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
        for row, request in outcome.answer:
            get_request(request).answer(request.index, result.forecasts[row], owner.name)
        for row, server in outcome.deliver:
            self._sink.deliver(server, result.forecasts[row], owner.spec)
        self._sink.publish([server.slot for _, server in outcome.deliver], now)
        self._observe(worker, result, now)
        self.traces.batch_done(
            result.batch, outcome, lane=worker.lane.name, version=owner.name, seconds=result.seconds, done=now
        )

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
        log.warning("batch_failed", lane=worker.lane.name, windows=len(result.batch.items), error=str(error))
        return self.scheduler.bisect_batch(result.batch), error

    def _observe(self, worker: LaneWorker, result: LaneResult, now: float) -> None:
        batch = result.batch
        oldest = min((item.since for item in batch.items), default=now)
        self._observer.batch_done(len(batch.items), max(batch.started - oldest, 0.0), result.seconds)
        log.debug("batch", lane=worker.lane.name, windows=len(batch.items), ms=round(result.seconds * 1e3, 2))

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
        self._in_flight -= len(batch.items)
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
