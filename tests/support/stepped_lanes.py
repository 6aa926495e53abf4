"""A pipeline and a supervisor whose lanes run, end and are rebuilt only when a test says so."""

import asyncio
from collections import Counter
from collections.abc import Coroutine, Iterable, Sequence
from typing import Any

from streamd.core.errors import LaneLostError
from streamd.core.scheduling.batches import Item, RequestItem
from streamd.core.scheduling.costs import CostTable
from streamd.inference.fake import FakeLane
from streamd.runtime.lanes.deployment import Deployment
from streamd.runtime.lanes.pipeline import Pipeline
from streamd.runtime.lanes.pool import ClosingLanes
from streamd.runtime.lanes.supervisor import LaneSupervisor
from streamd.runtime.lanes.warmup import warm_lane
from streamd.runtime.lanes.worker import LaneResult, LaneWorker
from tests.support.contracts import make_contract

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
            get_fake_lane(worker).is_hanging = not self.is_released
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
            for key in map(make_item_key, batch.list_items() if batch else []):
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
