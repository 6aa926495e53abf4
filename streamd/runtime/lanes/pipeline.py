"""From due servers to posted forecasts: gathers batches into idle lanes and takes them back.

The scheduler decides; this does it, on the event loop. Nothing here waits. Batches go to the deployment that serves;
those of another one that are still under way are posted under the name of the version that made them.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import structlog

from streamd.core.errors import InferenceError, LaneLostError, NotFiniteError
from streamd.core.scheduling.scheduler import Batch, BatchOutcome, Item, RequestItem, Scheduler, ServerItem
from streamd.inference.lane import Float32
from streamd.runtime.lanes.deployment import ClosingLanes, Deployment, Model
from streamd.runtime.lanes.deployments import Deployments
from streamd.runtime.lanes.gather import Request, gather, request_of
from streamd.runtime.lanes.worker import LaneResult, LaneWorker
from streamd.runtime.pauses import Pauses
from streamd.runtime.state.state import State

log = structlog.get_logger(__name__)


SHORTAGE_SECONDS = 1.0
"""How often a disk that was too full is asked again."""


class Observer(Protocol):
    """Who wants to know how batches do (the metrics)."""

    def batch_done(self, windows: int, queue_delay_seconds: float, inference_seconds: float) -> None:
        """A batch came back."""
        ...


class Diversion(Protocol):
    """A candidate that forecasts some of the servers in the pipeline's place, or as well."""

    def takes(self, slot: int, rows: int) -> bool:
        """Whether a server that is due is forecast there, and not by the pipeline."""
        ...

    def posted(self, slot: int) -> None:
        """Learn that the pipeline posted a forecast of a server."""
        ...

    def forget(self, slot: int) -> None:
        """Drop a slot that changes hands."""
        ...


class Pipeline(Deployments):
    """The lanes, what runs on them, and what becomes of it."""

    def __init__(
        self,
        state: State,
        scheduler: Scheduler,
        model: Model,
        *,
        publish: Callable[[Sequence[int], float], None],
        more_comes: Callable[[], bool],
        observer: Observer,
        clock: Callable[[], float] = time.monotonic,
        closing_lanes: ClosingLanes | None = None,
        pauses: Pauses | None = None,
    ) -> None:
        self.scheduler = scheduler
        super().__init__(Deployment(model), closing_lanes or ClosingLanes())
        self.pauses = pauses or Pauses()
        self.diversion: Diversion | None = None
        self.received: dict[int, float] = {}
        """By slot: when the sample that made its latest posted forecast due was received (monotonic seconds)."""
        self.on_posted: Callable[[int, int, bytes, Float32], None] = lambda slot, step, model, forecast: None
        """Told of every forecast that is posted, `(targets, horizon, quantiles)`: a view, to be copied if kept."""
        self._state = state
        self._publish = publish
        self._more_comes = more_comes
        self._observer = observer
        self._clock = clock
        self._kicked = False
        self._timer: asyncio.TimerHandle | None = None
        self._grace_timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._in_flight = 0
        self._settled = asyncio.Event()

    @property
    def in_flight(self) -> int:
        """Windows that lanes are running."""
        return self._in_flight

    # ------------------------------------------------------------ work in
    def mark_due(self, slot: int, rows: int) -> None:
        """Let a server wait for its turn with `rows` more due rows."""
        if self.diversion is None or not self.diversion.takes(slot, rows):
            self.run_soon(slot, rows)

    def run_soon(self, slot: int, rows: int) -> None:
        """Let a server wait for its turn here, whatever candidate there is."""
        self.scheduler.mark_due(slot, self._clock(), rows)
        self.kick()

    def forget(self, slot: int) -> None:
        """Drop a slot that changes hands."""
        if self.diversion is not None:
            self.diversion.forget(slot)
        self.scheduler.forget(slot)
        self.received.pop(slot, None)

    def add_request(self, request: Request, windows: int) -> bool:
        """Queue a caller's windows; false where there is no room."""
        added = self.scheduler.add_request(request, windows, self._clock())
        self.kick()
        return added

    def drop_request(self, request: Request) -> None:
        """End a call: windows that nobody waits for any more leave the line."""
        self.scheduler.drop_request(request)
        self.kick()  # where nothing else waits, `settle` may end

    def kick(self) -> None:
        """Look for work at the loop's next turn, once, after all that came in this one."""
        if not self._kicked:
            self._kicked = True
            self._loop.call_soon(self._dispatch)

    def watch_grace(self) -> None:
        """Close the rows whose grace is over, and come back when the next one's is."""
        if self._grace_timer is not None:
            self._grace_timer.cancel()
        if self._state.shortage() is not None:
            self._grace_timer = self._loop.call_later(SHORTAGE_SECONDS, self.watch_grace)
            return
        now, windows = self._clock(), self._state.windows
        for slot in windows.close_overdue(now - self._paused_in_grace()):
            self.mark_due(slot, 1)
        next_overdue = windows.next_overdue()
        # Rows open at any time and none is overdue before a whole grace: that is when to look again at the latest.
        at = now + windows.grace_seconds if next_overdue is None else next_overdue + self._paused_in_grace()
        self._grace_timer = self._loop.call_later(max(at - now, 0.001), self.watch_grace)

    def _paused_in_grace(self) -> float:
        """How long the process did not run since the longest open row was begun: the rest may lie in the sockets."""
        windows = self._state.windows
        overdue = windows.next_overdue()
        return 0.0 if overdue is None else self.pauses.seconds_since(overdue - windows.grace_seconds)

    # ------------------------------------------------------------ dispatch
    def _dispatch(self) -> None:
        self._kicked = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.scheduler.waiting and self._state.shortage() is not None:  # no forecast could be posted
            self._timer = self._loop.call_later(SHORTAGE_SECONDS, self._dispatch)
            return
        serving = self.serving
        while serving.idle and serving.costs is not None:
            now = self._clock()
            batch = self.scheduler.next_batch(now, len(serving.idle), serving.costs, self._more_comes())
            if batch is None:
                if self.scheduler.waiting:
                    delay = max(self.scheduler.wait_until() - now, 0.0)
                    self._timer = self._loop.call_later(delay, self._dispatch)
                break
            if batch.items:
                self._start(batch)
        self._tell_settled()

    def _start(self, batch: Batch) -> None:
        worker = self.serving.idle.popleft()
        gather(self._state, self.serving.model.server_ids, batch.items, worker.lane.inputs)
        self._in_flight += len(batch.items)
        worker.submit(batch)

    # ------------------------------------------------------------ results
    def take_result(self, worker: LaneWorker, result: LaneResult) -> None:
        """Take a batch back from its lane (called on the loop)."""
        if (home := self._homes.get(worker)) is None:
            return  # it was taken out, and its batch has gone elsewhere
        batch, error = result.batch, result.error
        if isinstance(error, LaneLostError):
            outcome = BatchOutcome(fail=self._take_out(worker, error))
        else:
            self._free(worker)
            if home.retired:
                self._leave(worker)
            else:
                home.idle.append(worker)
            if error is not None:
                log.warning("batch_failed", lane=worker.lane.name, windows=len(batch.items), error=str(error))
                outcome = self.scheduler.failed(batch)
            else:
                outcome = self.scheduler.finished(batch, result.bad_rows)
                error = NotFiniteError("the model gave NaN or infinity for this window")
        # The lane's next batch first, then what this one brought: a lane must not wait for readers.
        self._dispatch()
        now = self._clock()
        for item in outcome.fail:
            self._fail(item, error)
        for row, item in outcome.answer:
            request_of(item).answer(item.index, result.forecasts[row], home.model.text)
        slots = [self._post(item, result.forecasts[row], home.model) for row, item in outcome.deliver]
        self._publish(slots, now)
        oldest = min((item.since for item in batch.items), default=now)
        self._observer.batch_done(len(batch.items), max(batch.started - oldest, 0.0), result.seconds)
        log.debug("batch", lane=worker.lane.name, windows=len(batch.items), ms=round(result.seconds * 1e3, 2))

    def lose(self, losses: Mapping[LaneWorker, LaneLostError]) -> None:
        """Take lanes out, idle or busy, each with its reason; should one answer later, nobody listens.

        Where a lane's device is gone, every other lane of the device goes with it.
        """
        if not losses:
            return
        failed = [(item, error) for worker, error in losses.items() for item in self._take_out(worker, error)]
        self._dispatch()
        for item, error in failed:
            self._fail(item, error)

    def lose_device(self, device: str, error: LaneLostError) -> None:
        """Take out every lane of a device of which it was learnt elsewhere that it is gone."""
        self.lose({worker: error for worker in self._homes if worker.lane.device == device})

    def _post(self, item: ServerItem, forecast: Float32, model: Model) -> int:
        self._state.board.post(item.slot, item.step, item.context, model.name, forecast)
        self.on_posted(item.slot, item.step, model.name, forecast)
        if self.diversion is not None:
            self.diversion.posted(item.slot)
        self.received[item.slot] = item.since
        return item.slot

    def _fail(self, item: Item, error: InferenceError) -> None:
        if isinstance(item, RequestItem):
            request_of(item).fail(item.index, error)
        else:
            server = self._state.directory.names[item.slot]
            log.error("forecast_failed", server=server, step=item.step, code=error.code, error=str(error))

    def _take_out(self, worker: LaneWorker, error: LaneLostError) -> list[Item]:
        """Take out a lane, and with a device that is gone all of its lanes; returns what failed by it.

        A lane that has gone already is none any more. They go before anything is dispatched: a batch may
        move once, and must not move to a lane that is lost too.
        """
        failed: list[Item] = []
        for each in self._going(worker, error):
            log.error("lane_lost", lane=each.lane.name, error=str(error))
            home = self._homes[each]
            home.lost.append(f"{each.lane.name}: {error}")
            if each.running is not None:
                failed += self.scheduler.lost(self._free(each)).fail
            self._leave(each)
            each.stop()
            home.on_lost(each, error)
        if not self.workers:
            failed += self.scheduler.abandon_requests()
        return failed

    def _free(self, worker: LaneWorker) -> Batch:
        """Return what a lane ran; it runs nothing any more."""
        batch = worker.running
        assert batch is not None, f"lane {worker.lane.name} is idle"
        worker.running = None
        self._in_flight -= len(batch.items)
        return batch

    # ------------------------------------------------------------ drain
    async def settle(self) -> None:
        """Wait until nothing waits and nothing runs (or no lane is left to run it)."""
        while not self.settled:
            self._settled.clear()
            await self._settled.wait()

    @property
    def settled(self) -> bool:
        """Whether nothing runs, and nothing waits that a lane is there for."""
        return not self._in_flight and (not self.scheduler.waiting or not self.workers)

    @property
    def unfinished(self) -> int:
        """Windows that wait or run."""
        return self.scheduler.waiting + self._in_flight

    def _tell_settled(self) -> None:
        if self.settled:
            self._settled.set()

    def stop(self) -> None:
        """Stop timers and let the lanes' threads end."""
        for timer in (self._timer, self._grace_timer):
            if timer is not None:
                timer.cancel()
        for worker in self._homes:
            worker.stop()
