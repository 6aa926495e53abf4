"""From due servers to posted forecasts: gathers batches into idle lanes and takes them back.

The scheduler decides; this does it, on the event loop. Nothing here waits.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import structlog

from streamd.core.calendar import known_future
from streamd.core.costs import CostTable
from streamd.core.errors import InferenceError, LaneLostError, NotFiniteError
from streamd.core.scheduler import Batch, Item, RequestItem, Scheduler, ServerItem
from streamd.device.lane import Float32, Inputs
from streamd.runtime.state import State
from streamd.runtime.worker import LaneWorker, Result

log = structlog.get_logger(__name__)


class Request(Protocol):
    """A caller's windows."""

    def fill(self, index: int, inputs: Inputs, row: int) -> None:
        """Copy window `index` into row `row` of a lane's inputs."""
        ...

    def answer(self, index: int, forecast: Float32) -> None:
        """Take the forecast `(targets, horizon, quantiles)` of window `index`."""
        ...

    def fail(self, index: int, error: InferenceError) -> None:
        """Learn that window `index` has no forecast."""
        ...


@dataclass(slots=True)
class Model:
    """The version that serves: its name, and its servers' ids in training."""

    name: bytes
    server_ids: dict[str, int]


class Observer(Protocol):
    """Who wants to know how batches do (the metrics)."""

    def batch_done(self, windows: int, queue_delay_seconds: float, inference_seconds: float) -> None:
        """A batch came back."""
        ...


class Pipeline:
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
    ) -> None:
        self.scheduler = scheduler
        self.workers: list[LaneWorker] = []
        self.lost: deque[str] = deque(maxlen=32)
        """The last lanes that were taken out, with the reason."""
        self.on_lost: Callable[[LaneWorker, LaneLostError], None] = lambda worker, error: None
        self.received: dict[int, float] = {}
        """By slot: when the sample that made its latest posted forecast due was received (monotonic seconds)."""
        self._state = state
        self._model = model
        self._publish = publish
        self._more_comes = more_comes
        self._observer = observer
        self._idle: deque[LaneWorker] = deque()  # the longest idle first: round robin
        self._costs: CostTable | None = None
        self._kicked = False
        self._timer: asyncio.TimerHandle | None = None
        self._grace_timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._in_flight = 0
        self._settled = asyncio.Event()

    # ------------------------------------------------------------ lanes
    def open_lanes(self, workers: Sequence[LaneWorker], costs: CostTable) -> None:
        """Put warm lanes to work, with what their batches cost."""
        self._costs = costs
        self.workers.extend(workers)
        self._idle.extend(workers)
        self.kick()

    @property
    def ready(self) -> bool:
        """Whether a lane is there to run a batch."""
        return bool(self.workers)

    @property
    def in_flight(self) -> int:
        """Windows that lanes are running."""
        return self._in_flight

    # ------------------------------------------------------------ work in
    def mark_due(self, slot: int, rows: int) -> None:
        """Let a server wait for its turn with `rows` more due rows."""
        self.scheduler.mark_due(slot, time.monotonic(), rows)
        self.kick()

    def forget(self, slot: int) -> None:
        """Drop a slot that changes hands."""
        self.scheduler.forget(slot)
        self.received.pop(slot, None)

    def add_request(self, request: Request, windows: int) -> bool:
        """Queue a caller's windows; false where there is no room."""
        added = self.scheduler.add_request(request, windows, time.monotonic())
        self.kick()
        return added

    def kick(self) -> None:
        """Look for work at the loop's next turn, once, after all that came in this one."""
        if not self._kicked:
            self._kicked = True
            self._loop.call_soon(self._dispatch)

    def watch_grace(self) -> None:
        """Close the rows whose grace is over, and come back when the next one's is."""
        if self._grace_timer is not None:
            self._grace_timer.cancel()
        now = time.monotonic()
        for slot in self._state.windows.close_overdue(now):
            self.mark_due(slot, 1)
        next_overdue = self._state.windows.next_overdue()
        # Rows open at any time and none is overdue before a whole grace: that is when to look again at the latest.
        at = now + self._state.windows.grace_seconds if next_overdue is None else next_overdue
        self._grace_timer = self._loop.call_later(max(at - now, 0.001), self.watch_grace)

    # ------------------------------------------------------------ dispatch
    def _dispatch(self) -> None:
        self._kicked = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._idle and self._costs is not None:
            now = time.monotonic()
            batch = self.scheduler.next_batch(now, len(self._idle), self._costs, self._more_comes())
            if batch is None:
                if self.scheduler.waiting:
                    delay = max(self.scheduler.wait_until() - now, 0.0)
                    self._timer = self._loop.call_later(delay, self._dispatch)
                break
            if batch.items:
                self._start(batch)
        self._tell_settled()

    def _start(self, batch: Batch) -> None:
        worker = self._idle.popleft()
        gather(self._state, self._model.server_ids, batch.items, worker.lane.inputs)
        self._in_flight += len(batch.items)
        worker.submit(batch)

    # ------------------------------------------------------------ results
    def take_result(self, worker: LaneWorker, result: Result) -> None:
        """Take a batch back from its lane (called on the loop)."""
        if worker not in self.workers:
            return  # it was given up, and its batch has gone elsewhere
        batch, error = result.batch, result.error
        worker.running = None
        self._in_flight -= len(batch.items)
        if isinstance(error, LaneLostError):
            self._take_out(worker, error)
            outcome = self.scheduler.lost(batch)
            if not self.workers:
                outcome.fail += self.scheduler.abandon_requests()
        elif error is not None:
            log.warning("batch_failed", lane=worker.lane.name, windows=len(batch.items), error=str(error))
            outcome = self.scheduler.failed(batch)
        else:
            outcome = self.scheduler.finished(batch, result.bad_rows)
            error = NotFiniteError("the model gave NaN or infinity for this window")
        if worker in self.workers:
            self._idle.append(worker)
        # The lane's next batch first, then what this one brought: a lane must not wait for readers.
        self._dispatch()
        now = time.monotonic()
        for item in outcome.fail:
            self._fail(item, error)
        for row, item in outcome.answer:
            _request(item).answer(item.index, result.forecasts[row])
        slots = [self._post(item, result.forecasts[row]) for row, item in outcome.deliver]
        self._publish(slots, now)
        oldest = min((item.since for item in batch.items), default=now)
        self._observer.batch_done(len(batch.items), max(batch.started - oldest, 0.0), result.seconds)
        log.debug("batch", lane=worker.lane.name, windows=len(batch.items), ms=round(result.seconds * 1e3, 2))

    def give_up(self, worker: LaneWorker, error: LaneLostError) -> None:
        """Take a lane out that does not answer; should it answer later, nobody listens."""
        assert worker.running is not None, f"lane {worker.lane.name} is idle"
        nothing = np.empty((0, 0, 0, 0), np.float32)
        seconds = time.monotonic() - worker.running.started
        self.take_result(worker, Result(worker.running, nothing, (), error, seconds))

    def _post(self, item: ServerItem, forecast: Float32) -> int:
        self._state.board.post(item.slot, item.step, item.context, self._model.name, forecast)
        self.received[item.slot] = item.since
        return item.slot

    def _fail(self, item: Item, error: InferenceError) -> None:
        if isinstance(item, RequestItem):
            _request(item).fail(item.index, error)
        else:
            server = self._state.directory.names[item.slot]
            log.error("forecast_failed", server=server, step=item.step, code=error.code, error=str(error))

    def _take_out(self, worker: LaneWorker, error: LaneLostError) -> None:
        log.error("lane_lost", lane=worker.lane.name, error=str(error))
        self.workers.remove(worker)
        self.lost.append(f"{worker.lane.name}: {error}")
        worker.stop()
        self.on_lost(worker, error)

    # ------------------------------------------------------------ drain
    async def settle(self) -> None:
        """Wait until nothing waits and nothing runs (or no lane is left to run it)."""
        while (self.scheduler.waiting and self.workers) or self._in_flight:
            self._settled.clear()
            await self._settled.wait()

    def _tell_settled(self) -> None:
        if not self._in_flight and (not self.scheduler.waiting or not self.workers):
            self._settled.set()

    def stop(self) -> None:
        """Stop timers and let the lanes' threads end."""
        for timer in (self._timer, self._grace_timer):
            if timer is not None:
                timer.cancel()
        for worker in self.workers:
            worker.stop()


def gather(state: State, server_ids: dict[str, int], items: Sequence[Item], inputs: Inputs) -> None:
    """Copy a batch's windows into a lane's inputs, row by row in the items' order."""
    windows, contract, count = state.windows, state.contract, len(items)
    values, categories = inputs.encoder_cont, inputs.encoder_cat
    calendars: dict[int, Float32] = {}
    categories[:count, :, 0] = inputs.decoder_cat[:count, :, 0] = 0
    for row, item in enumerate(items):
        if isinstance(item, RequestItem):
            continue
        windows.gather(item.slot, values[row], categories[row, :, 1])
        if (calendar := calendars.get(item.step)) is None:
            calendar = calendars[item.step] = known_future(item.step, contract.horizon, contract.step_seconds)
        inputs.decoder_cont[row] = calendar
        if server_ids:
            name = state.directory.names[item.slot] or ""
            categories[row, :, 0] = inputs.decoder_cat[row, :, 0] = server_ids.get(name, 0)
    # The last status that was given holds for the future.
    inputs.decoder_cat[:count, :, 1] = categories[:count, -1:, 1]
    for row, item in enumerate(items):
        if isinstance(item, RequestItem):
            _request(item).fill(item.index, inputs, row)


def _request(item: RequestItem) -> Request:
    request: Request = item.request  # type: ignore[assignment]
    return request
