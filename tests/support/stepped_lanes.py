"""Parts that the state machines over a pipeline share: servers, and lanes that run and end only when a rule says so."""

import asyncio
from collections import Counter
from collections.abc import Coroutine, Iterable, Sequence
from typing import Any

import numpy as np

from streamd.core.arrays import Float32
from streamd.core.errors import LaneLostError
from streamd.core.scheduling.costs import CostTable
from streamd.core.scheduling.scheduler import Item, RequestItem
from streamd.inference.fake import FakeLane
from streamd.runtime.lanes.deployment import Deployment
from streamd.runtime.lanes.pipeline import Pipeline
from streamd.runtime.lanes.pool import ClosingLanes
from streamd.runtime.lanes.supervisor import LaneSupervisor
from streamd.runtime.lanes.warmup import warm_lane
from streamd.runtime.lanes.worker import LaneResult, LaneWorker
from streamd.runtime.state.state import State
from tests.support.contracts import make_contract
from tests.support.state_files import whole

CONTRACT = make_contract()


class WatchedPipeline(Pipeline):
    """A pipeline that records which lanes were removed from it while they ran a batch."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.result_handled = asyncio.Event()
        self.answering: LaneWorker | None = None
        self.removed_busy: list[LaneWorker] = []
        self.losses: Counter[object] = Counter()
        """By window: how many lanes were lost with it."""
        self.is_released = False
        """Whether lanes run without being held: new ones, and those that were removed while they ran."""

    def open_lanes(self, workers: Sequence[LaneWorker], costs: CostTable, deployment: Deployment | None = None) -> None:
        for worker in workers:
            get_fake_lane(worker).hangs = not self.is_released
        super().open_lanes(workers, costs, deployment)

    def take_removed_busy(self) -> list[LaneWorker]:
        """Return the lanes that were removed since the last call and are held in their batch."""
        removed, self.removed_busy = self.removed_busy, []
        return [] if self.is_released else removed

    def handle_result(self, worker: LaneWorker, result: LaneResult) -> None:
        try:
            super().handle_result(worker, result)
        finally:
            self.result_handled.set()

    def _remove_lost(self, worker: LaneWorker, error: LaneLostError) -> list[Item]:
        before = {each: each.running for each in self.lanes.all_workers}
        failed = super()._remove_lost(worker, error)
        for removed, batch in before.items():
            if removed in self.lanes.all_workers:
                continue
            for key in map(make_item_key, batch.items if batch else []):
                self.losses[key] += 1
                assert self.losses[key] <= 2, "a window that lost two lanes gets no third"
            if batch and removed is not self.answering:
                self.removed_busy.append(removed)
        return failed


class SteppedSupervisor(LaneSupervisor):
    """A supervisor that rebuilds one lane after another, when the test says so."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.waiting: list[Coroutine[Any, Any, None]] = []

    def _start_task(self, coroutine: Coroutine[Any, Any, None]) -> None:
        self.waiting.append(coroutine)

    @property
    def falls_back(self) -> bool:
        return any(getattr(each, "__name__", "") == "_fall_back" for each in self.waiting)


class Fleet:
    """Servers whose rows all hold one value, so that a window is recognized by it."""

    state: State
    loop: asyncio.AbstractEventLoop
    pipeline: WatchedPipeline
    callback_errors: list[dict[str, Any]]
    """Errors in the loop's callbacks, which the loop would only log."""
    stuck: list[LaneWorker]
    """Lanes that were removed while they ran a batch, and still run it."""
    _turning: "asyncio.Task[None] | None" = None

    def make_loop(self) -> None:
        """Make the loop, which turns only inside of `turn_for`."""
        self.callback_errors = []
        self.loop = asyncio.new_event_loop()
        self.loop.set_exception_handler(lambda loop, context: self._note_error(context))

    def close_loop(self) -> None:
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()

    def turn_for(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Turn the loop until this is done.

        An error in a callback ends it, and the test: the event that it waits for may never come.
        """
        self._turning = self.loop.create_task(coroutine)
        try:
            self.loop.run_until_complete(self._turning)
        except asyncio.CancelledError:
            if not self.callback_errors:
                raise
        self._turning = None
        assert self.callback_errors == []

    def _note_error(self, context: dict[str, Any]) -> None:
        self.callback_errors.append(context)
        if self._turning is not None:
            self._turning.cancel()

    async def answer(self, worker: LaneWorker) -> None:
        """Release a lane that is held, and wait until the pipeline has handled its result."""
        self.pipeline.result_handled.clear()
        self.pipeline.answering = worker
        get_fake_lane(worker).gate.set()
        await self.pipeline.result_handled.wait()
        self.pipeline.answering = None

    def join_removed_lanes(self) -> None:
        """Wait for the threads of removed lanes that run nothing; once no lane is held, of all removed lanes."""
        self.stuck += self.pipeline.take_removed_busy()
        join_closing_lanes(self.pipeline.lanes.closing, self.stuck)

    def batch_done(self, windows: int, queue_delay_seconds: float, inference_seconds: float) -> None:
        """Check what a pipeline reports to its observer."""
        assert queue_delay_seconds >= 0

    def window(self, value: float) -> Float32:
        """The window of a server all of whose rows were `whole(value)`."""
        row = np.array(list(whole(value).values()), np.float32)
        return np.broadcast_to(row, (CONTRACT.context_length, len(row)))


def join_closing_lanes(closing_lanes: ClosingLanes, stuck: Iterable[LaneWorker]) -> None:
    """Wait for the threads of closing lanes that run nothing."""
    for worker in closing_lanes.workers - set(stuck):
        assert worker.join(60.0), "a lane that runs nothing ends at once"


async def measure_flat_costs(workers: Sequence[LaneWorker], max_batch: int, budget_seconds: float) -> CostTable:
    """Run every lane once, as measuring does, and return costs that no clock measured: batching is free."""
    await asyncio.gather(*(warm_lane(worker) for worker in workers))
    lane = workers[0].lane
    return CostTable(dict.fromkeys(lane.buckets, 1.0), pads=lane.pads, max_batch=max_batch)


def make_item_key(item: Item) -> object:
    if isinstance(item, RequestItem):
        return id(item.request), item.index
    return item.slot, item.generation, item.step


def get_fake_lane(worker: LaneWorker) -> FakeLane:
    assert isinstance(worker.lane, FakeLane)
    return worker.lane
