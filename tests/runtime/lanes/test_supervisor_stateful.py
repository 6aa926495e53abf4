"""Pipeline and keeper over fake devices that fail, hang, die and come back, in any order.

The loop turns only inside of a rule, lanes answer only when a rule lets them go, and time is a number: nothing sleeps.
"""

import asyncio
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import structlog
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from streamd.core.errors import BackendUnavailableError, BatchFailedError, InferenceError, LaneLostError
from streamd.core.scheduling.costs import CostTable
from streamd.core.scheduling.lane_health import LaneLimits
from streamd.core.scheduling.scheduler import Batch, Item, RequestItem, Scheduler, ServerItem
from streamd.inference.fake import FakeBackend, FakeLane, forecast_of
from streamd.inference.opening import OpenedBackend, SkippedBackend, join_reasons, open_all
from streamd.runtime.lanes.deployment import Deployment
from streamd.runtime.lanes.pipeline import Pipeline
from streamd.runtime.lanes.sinks import BoardSink
from streamd.runtime.lanes.supervisor import LaneSupervisor
from streamd.runtime.lanes.warmup import warm_lane
from streamd.runtime.lanes.worker import LaneResult, LaneWorker
from streamd.runtime.state.state import State, WindowLimits
from tests.support.contracts import make_contract
from tests.support.pipeline_rig import Caller, spec_of
from tests.support.state_files import opened, send, whole
from tests.support.stepped_lanes import Fleet, wait_for_ends

CONTRACT = make_contract()
SERVERS = tuple("abcdefgh")
NEWCOMERS = ("x", "y")
ROOM = WindowLimits(capacity=len(SERVERS) + len(NEWCOMERS), need=2, late_steps=8, grace_seconds=10.0)
LIMITS = LaneLimits(hang_seconds=60.0, rebuild_seconds=1.0, max_rebuild_seconds=8.0, max_rebuilds=2)
LANES = {"first": 4, "second": 2}
DEVICES = {"first": 2, "second": 1}


class WatchedPipeline(Pipeline):
    """Tells which lanes left it, and in the middle of what."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.heard = asyncio.Event()
        self.answering: LaneWorker | None = None
        self.left_busy: list[LaneWorker] = []
        self.losses: Counter[object] = Counter()
        """How many lanes were lost with each window."""
        self.free = False
        """Lanes are not held any more: neither those that are put to work nor those that left while they ran."""

    def open_lanes(self, workers: Sequence[LaneWorker], costs: CostTable, deployment: Deployment | None = None) -> None:
        for worker in workers:
            fake(worker).hangs = not self.free
        super().open_lanes(workers, costs, deployment)

    def take_left_busy(self) -> list[LaneWorker]:
        """Return the lanes that left since the last call and are held in what they run."""
        left, self.left_busy = self.left_busy, []
        return [] if self.free else left

    def handle_result(self, worker: LaneWorker, result: LaneResult) -> None:
        try:
            super().handle_result(worker, result)
        finally:
            self.heard.set()

    def _remove_lost(self, worker: LaneWorker, error: LaneLostError) -> list[Item]:
        before = {each: each.running for each in self.lanes.all_workers}
        failed = super()._remove_lost(worker, error)
        for gone, batch in before.items():
            if gone in self.lanes.all_workers:
                continue
            for key in map(key_of, batch.items if batch else []):
                self.losses[key] += 1
                assert self.losses[key] <= 2, "what took two lanes with it takes no third"
            if batch and gone is not self.answering:
                self.left_busy.append(gone)
        return failed


class MortalBackend(FakeBackend):
    """Its devices may die after a lane was made and before it ran."""

    dies_young = False

    def make_lane(self, index: int) -> FakeLane:
        lane = super().make_lane(index)
        if self.dies_young:
            for device in self.devices:
                self.lose_device(device)
        return lane


class SteppedSupervisor(LaneSupervisor):
    """Mends when it is told to, one thing after another."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.waiting: list[Coroutine[Any, Any, None]] = []

    def _start_task(self, coroutine: Coroutine[Any, Any, None]) -> None:
        self.waiting.append(coroutine)

    @property
    def falls_back(self) -> bool:
        return any(getattr(each, "__name__", "") == "_fall_back" for each in self.waiting)


def key_of(item: Item) -> object:
    if isinstance(item, RequestItem):
        return id(item.request), item.index
    return item.slot, item.generation, item.step


async def flat_costs(workers: Sequence[LaneWorker], max_batch: int, budget_seconds: float) -> CostTable:
    """Run every lane once, as measuring does, and say what no clock says: batching is free."""
    await asyncio.gather(*(warm_lane(worker) for worker in workers))
    lane = workers[0].lane
    return CostTable(dict.fromkeys(lane.buckets, 1.0), pads=lane.pads, max_batch=max_batch)


def fake(worker: LaneWorker) -> FakeLane:
    assert isinstance(worker.lane, FakeLane)
    return worker.lane


class World(Fleet, RuleBasedStateMachine):
    """Servers, callers and two backends; the naive bookkeeping is what was sent, by server and step."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.make_loop()
        self.stack.callback(self.close_loop)
        # Hundreds of lanes are lost on purpose: that is not worth a line each.
        self.stack.callback(structlog.reset_defaults)
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50), cache_logger_on_first_use=False)
        self.stack.enter_context(patch("streamd.runtime.lanes.supervisor.measure_costs", flat_costs))
        folder = self.stack.enter_context(tempfile.TemporaryDirectory())
        self.state: State = self.stack.enter_context(opened(Path(folder), CONTRACT, ROOM))
        self.now = 1_000.0
        self.backends = {
            name: MortalBackend(CONTRACT, (1, 4, 8) if name == "first" else (1, 3), devices=count)
            for name, count in DEVICES.items()
        }
        for name, backend in self.backends.items():
            backend.name = name
        self.missing: set[str] = set()
        self.step = 100
        self.values: dict[tuple[str, int], float] = {}
        """What was sent last of each server and step."""
        self.delivered: set[tuple[int, int, int]] = set()
        self.callers: list[Caller] = []
        self.stuck: list[LaneWorker] = []
        """Lanes that were taken out while they ran, and have not come back."""
        self.run(self.start())

    def run(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Turn the loop until this is done, and then until it has nothing to do."""
        self.turn_for(coroutine)
        self.turn_for(self.turn())
        self.see_off()

    def see_off(self) -> None:
        """Wait for the threads of lanes that are out and run nothing; once no lane is held, for all that are out."""
        self.stuck += self.pipeline.take_left_busy()
        wait_for_ends(self.pipeline.lanes.closing, self.stuck)

    async def mend(self) -> None:
        """Let the keeper do what it has begun, one thing after another."""
        while self.supervisor.waiting:
            await self.supervisor.waiting.pop(0)
            self.see_off()

    def close_loop(self) -> None:
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()

    async def turn(self) -> None:
        while self.pipeline._dispatch_scheduled:
            await asyncio.sleep(0)

    async def start(self) -> None:
        self.scheduler = Scheduler(
            self.state.snapshot,
            self.state.board.get_step,
            need=self.state.windows.need,
            max_queue_delay_seconds=10.0,
            max_waiting_requests=8,
        )
        self.deployment = Deployment(spec_of("model_20260101_000000", self.open_backend, limits=LIMITS))
        self.pipeline = WatchedPipeline(
            self.state,
            self.scheduler,
            BoardSink(self.state, self, []),
            self.deployment,
            observer=self,
            clock=lambda: self.now,
        )
        self.supervisor = SteppedSupervisor(self.pipeline, self.deployment, self, clock=lambda: self.now)
        await self.supervisor.open()

    def open_backend(self, exhausted: frozenset[str]) -> OpenedBackend:
        tried: list[SkippedBackend] = []
        for name, backend in self.backends.items():
            if name in exhausted:
                continue
            try:
                if name in self.missing:
                    raise BackendUnavailableError("not installed")
                lanes = open_all(partial(backend.make_lane, index) for index in range(LANES[name]))
            except BackendUnavailableError as error:
                tried.append(SkippedBackend(name, str(error)))
            else:
                return OpenedBackend(backend, [*lanes], tuple(tried))
        raise BackendUnavailableError(f"nothing left: {join_reasons(tried)}")

    def backend_changed(self, deployment: Deployment) -> None:
        assert deployment is self.deployment

    # ------------------------------------------------------------ work
    def publish(self, slots: Sequence[int], now: float) -> None:
        assert now == self.now
        for slot in slots:
            server, forecast = self.state.directory.names[slot], self.state.board.get_forecast(slot)
            assert server is not None
            assert forecast is not None
            key = (slot, self.state.directory.generations[slot], forecast.step)
            assert key not in self.delivered, "one forecast a row"
            self.delivered.add(key)
            window = self.window(self.values[server, forecast.step])
            expected = forecast_of(CONTRACT, window).transpose(1, 0, 2)
            np.testing.assert_array_equal(forecast.values, expected, "a forecast of another window")

    @rule(
        chosen=st.sets(st.sampled_from(SERVERS), min_size=1) | st.just(set(SERVERS)), later=st.sampled_from([0.0, 1.0])
    )
    def rows_come(self, chosen: set[str], later: float) -> None:
        self.now += later
        self.step += 1
        self.run(self.rows(sorted(chosen)))

    async def rows(self, servers: Sequence[str]) -> None:
        for server in servers:
            if server not in self.state.directory.slots:
                send(self.state, server, self.step - 1, whole(0.0))
            value = float(1_000 * (SERVERS + NEWCOMERS).index(server) + self.step)
            self.values[server, self.step] = value
            rows = send(self.state, server, self.step, whole(value))
            if rows:
                self.pipeline.mark_due(self.state.directory.slots[server], rows)

    @precondition(lambda self: len(self.state.directory) > 0)
    @rule(data=st.data())
    def a_server_is_forgotten(self, data: st.DataObject) -> None:
        server: str = data.draw(st.sampled_from(sorted(self.state.directory.slots)))
        slot = self.state.directory.slots[server]
        self.state.directory.release(slot)
        self.pipeline.forget(slot)
        absent = [name for name in NEWCOMERS if name not in self.state.directory.slots]
        if absent and data.draw(st.sampled_from([True, False])):  # another takes its place at once
            self.step += 1
            self.run(self.rows(absent[:1]))

    @rule(windows=st.integers(1, 3))
    def a_caller_asks(self, windows: int) -> None:
        if self.pipeline.ready:  # as the service asks first
            number = 1_000 * (len(self.callers) + ROOM.capacity)
            caller = Caller(*(float(number + index) for index in range(windows)))
            if self.pipeline.add_request(caller, windows):
                self.callers.append(caller)
            self.run(self.turn())

    # ------------------------------------------------------------ lanes
    def busy(self) -> list[LaneWorker]:
        return [worker for worker in self.pipeline.workers if worker.running]

    def let_go(self, worker: LaneWorker, error: InferenceError | None = None) -> None:
        """Let a lane come back with what it ran."""

        async def answer() -> None:
            self.pipeline.heard.clear()
            self.pipeline.answering = worker
            fake(worker).gate.set()
            await self.pipeline.heard.wait()
            self.pipeline.answering = None

        if error is not None:
            self.script_of(worker).errors.append(error)
        self.run(answer())

    def script_of(self, worker: LaneWorker) -> Any:
        return next(backend for backend in self.backends.values() if fake(worker) in backend.lanes).script

    @precondition(lambda self: self.busy())
    @rule(data=st.data(), later=st.sampled_from([0.0, 1.0]))
    def a_lane_is_done(self, data: st.DataObject, later: float) -> None:
        self.now += later
        self.let_go(data.draw(st.sampled_from(self.busy())))

    @precondition(lambda self: self.busy())
    @rule(data=st.data(), make=st.sampled_from([BatchFailedError, LaneLostError]))
    def a_lane_fails(self, data: st.DataObject, make: Callable[[str], InferenceError]) -> None:
        worker = data.draw(st.sampled_from(self.busy()))
        fails = fake(worker).dead or make is LaneLostError
        if fake(worker).dead:
            self.let_go(worker)  # its device has the first word
        else:
            self.let_go(worker, make("by script"))
        assert (worker in self.pipeline.workers) == (not fails)

    @precondition(lambda self: self.stuck)
    @rule(data=st.data())
    def a_lane_that_was_given_up_comes_back(self, data: st.DataObject) -> None:
        worker = self.stuck.pop(data.draw(st.integers(0, len(self.stuck) - 1)))
        board = [self.state.board.get_serial(slot) for slot in range(self.state.directory.capacity)]
        counts = repr(self.scheduler.counts)
        self.let_go(worker)
        assert worker.join(60.0)
        assert fake(worker).closings == 1
        assert [self.state.board.get_serial(slot) for slot in range(self.state.directory.capacity)] == board
        assert repr(self.scheduler.counts) == counts, "what it says is not heard"

    # ------------------------------------------------------------ devices
    @rule(data=st.data())
    def a_device_dies(self, data: st.DataObject) -> None:
        backend = self.backends[data.draw(st.sampled_from(sorted(self.backends)))]
        backend.lose_device(data.draw(st.sampled_from(backend.devices)))

    @rule(data=st.data())
    def a_device_comes_back(self, data: st.DataObject) -> None:
        backend = self.backends[data.draw(st.sampled_from(sorted(self.backends)))]
        backend.restore_device(data.draw(st.sampled_from(backend.devices)))

    @rule(missing=st.sets(st.sampled_from(sorted(LANES))))
    def a_backend_is_missing(self, missing: set[str]) -> None:
        self.missing = missing

    @rule(
        seconds=st.sampled_from([0.0, 0.5, 1.0, 2.0, 8.0, 61.0, 400.0]),
        trouble=st.sampled_from([None, None, None, "no lane is made", "lanes fail while warming", "devices die"]),
    )
    def the_keeper_looks(self, seconds: float, trouble: str | None) -> None:
        self.now += seconds
        hung = {each for each in self.busy() if each.running and self.now - each.running.started > 60.0}
        dead = {each for each in self.pipeline.workers if not each.running and fake(each).dead}
        self.supervisor.check_lanes(self.now)
        self.see_off()
        left = set(self.pipeline.workers)
        assert not left & (hung | dead), "lanes that hang, and idle ones whose device is gone, are out at once"
        devices = {each.lane.device for each in dead}
        assert not {each.lane.device for each in left} & devices, "and with them all lanes of the device"
        for backend in self.backends.values():
            script = backend.script
            if trouble == "no lane is made":
                script.make_errors.extend([BackendUnavailableError("by script")] * 8)
            script.lost = trouble == "lanes fail while warming"
            backend.dies_young = trouble == "devices die"
        before, falls_back = list(self.pipeline.workers), self.supervisor.falls_back
        held = {each.lane.device for each in self.stuck if each.lane.device in self.pipeline.lanes.closing.lost_devices}
        self.run(self.mend())
        for backend in self.backends.values():
            backend.script.make_errors.clear()
            backend.script.lost = False
            backend.dies_young = False
        if not falls_back:
            rebuilt = {each.lane.device for each in self.pipeline.workers if each not in before}
            assert not rebuilt & held, "a device that is gone gets no lane while a former one holds it"

    @rule()
    def the_backend_is_worn_out(self) -> None:
        backend = self.backends[self.backend_name]
        for device in backend.devices:
            backend.lose_device(device)
        while busy := self.busy():  # a lane that is lost gives its batch to one that was idle
            self.let_go(busy[0])
        for _ in range(LIMITS.max_rebuilds + 2):
            self.now += LIMITS.max_rebuild_seconds
            self.the_keeper_looks_after_all()
        assert backend.name != self.backend_name or not self.pipeline.ready

    def the_keeper_looks_after_all(self) -> None:
        self.supervisor.check_lanes(self.now)
        self.see_off()
        self.run(self.mend())

    @property
    def backend_name(self) -> str:
        assert self.deployment.backend is not None
        return self.deployment.backend.name

    # ------------------------------------------------------------ at all times
    def batches(self) -> list[Batch]:
        return [*self.scheduler._retries, *(worker.running for worker in self.pipeline.workers if worker.running)]

    @invariant()
    def nothing_goes_wrong_unheard(self) -> None:
        assert self.unheard == []

    @invariant()
    def every_due_row_is_accounted_for(self) -> None:
        counts = self.scheduler.counts
        under_way = [item for batch in self.batches() for item in batch.items if isinstance(item, ServerItem)]
        done = counts.delivered + self.scheduler.superseded + counts.failed + counts.forgotten
        assert counts.due == done + len(self.scheduler.due) + len(under_way)
        assert counts.delivered == len(self.delivered)

    @invariant()
    def every_caller_s_window_is_answered_once_or_waits(self) -> None:
        requests = [item for batch in self.batches() for item in batch.items if isinstance(item, RequestItem)]
        waiting = {(id(item.request), item.index) for item in [*requests, *self.scheduler.queued_requests()]}
        for caller in self.callers:
            done = caller.answers.keys() | caller.failures.keys()
            assert {index for index in range(len(caller.values)) if (id(caller), index) in waiting} == (
                set(range(len(caller.values))) - done
            )
            for index, answer in caller.answers.items():
                expected = forecast_of(CONTRACT, np.full((1, 3), caller.values[index], np.float32))
                np.testing.assert_array_equal(answer, expected.transpose(1, 0, 2), "a forecast of another window")

    @invariant()
    def nobody_waits_for_lanes_that_there_are_not(self) -> None:
        waiting = [item for batch in self.scheduler._retries for item in batch.items if isinstance(item, RequestItem)]
        assert self.pipeline.ready or not [*waiting, *self.scheduler.queued_requests()]

    @invariant()
    def a_batch_moves_once_at_most(self) -> None:
        assert all(batch.moves <= 1 for batch in self.batches())

    @invariant()
    def readiness_is_that_of_the_lanes_that_are_left(self) -> None:
        assert self.supervisor._roster is not None
        assert self.pipeline.ready == bool(self.pipeline.workers)
        assert len(self.pipeline.workers) == self.supervisor._roster.healthy_count
        assert len(self.pipeline.workers) <= LANES[self.backend_name]
        assert len({worker.lane.name for worker in self.pipeline.workers}) == len(self.pipeline.workers)
        assert self.pipeline.in_flight == sum(len(worker.running.items) for worker in self.busy() if worker.running)

    @invariant()
    def no_lane_leaks_and_none_is_closed_twice(self) -> None:
        lanes = [lane for backend in self.backends.values() for lane in backend.lanes]
        assert all(lane.closings <= 1 for lane in lanes)
        live = {id(worker.lane) for worker in [*self.pipeline.workers, *self.stuck]}
        assert {id(lane) for lane in lanes if not lane.closed} == live

    # ------------------------------------------------------------ the end
    def teardown(self) -> None:
        """However it went: once devices are sound again it is ready, and everything comes to its end."""
        try:
            if sys.exc_info()[0] is None:  # what failed already need not end well, and may never
                self.come_to_an_end()
        finally:
            self.clear_up()

    def clear_up(self) -> None:
        """Leave nothing behind, whatever it came to."""
        for coroutine in self.supervisor.waiting:
            coroutine.close()
        for backend in self.backends.values():
            backend.release_all()
        self.pipeline.stop()
        self.stack.close()

    def come_to_an_end(self) -> None:
        self.pipeline.free = True
        self.missing.clear()
        for backend in self.backends.values():
            backend.release_all()
            for device in backend.devices:
                backend.restore_device(device)
        for worker in self.stuck:
            assert worker.join(60.0)
        self.stuck.clear()
        for _ in range(4):
            self.run(self.pipeline.wait_idle())
            self.now += 1_000.0
            self.the_keeper_looks_after_all()
        assert self.pipeline.ready
        self.run(self.pipeline.wait_idle())
        assert self.scheduler.waiting == 0
        self.nothing_goes_wrong_unheard()
        self.every_due_row_is_accounted_for()
        self.every_caller_s_window_is_answered_once_or_waits()
        self.supervisor.close()
        self.pipeline.stop()
        for worker in self.pipeline.workers:
            assert worker.join(60.0)
        lanes = [lane for backend in self.backends.values() for lane in backend.lanes]
        assert [lane.closings for lane in lanes] == [1] * len(lanes)


TestWorld = World.TestCase
TestWorld.settings = settings(max_examples=settings().max_examples // 2, stateful_step_count=50)


# ---------------------------------------------------------------- what once made the machine itself flaky
@pytest.fixture
def world() -> Iterator[World]:
    machine = World()
    yield machine
    machine.teardown()


@pytest.fixture
def slow_closes(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let every lane take as long to close as somebody takes to wait for it."""
    waited_for: defaultdict[str, Event] = defaultdict(Event)
    close, join = FakeLane.close, LaneWorker.join

    def close_late(lane: FakeLane) -> None:
        waited_for[f"lane {lane.name}"].wait()
        close(lane)

    def join_first(worker: LaneWorker, timeout_seconds: float) -> bool:
        waited_for[worker._thread.name].set()
        return join(worker, timeout_seconds)

    monkeypatch.setattr(FakeLane, "close", close_late)
    monkeypatch.setattr(LaneWorker, "join", join_first)
    yield
    for event in waited_for.values():
        event.set()


@pytest.mark.usefixtures("slow_closes")
def test_lanes_that_are_lost_while_the_machine_ends_are_waited_for() -> None:
    world = World()
    world.rows_come({"a"}, 0.0)
    world.rows_come({"b"}, 0.0)
    world.rows_come({"c"}, 0.0)
    world.backends["first"].lose_device("fake:0")
    world.teardown()


def test_a_backend_is_worn_out_whichever_lanes_its_batches_move_to(world: World) -> None:
    world.rows_come({"a"}, 0.0)
    world.rows_come({"b"}, 0.0)
    world.rows_come({"c"}, 0.0)
    world.let_go(world.busy()[1])
    assert [worker.lane.device for worker in world.busy()] == ["fake:0"] * 2, "the other device's are idle"
    world.the_backend_is_worn_out()


def test_a_callback_that_fails_ends_what_waits_for_it() -> None:
    world = World()
    world.rows_come({"a"}, 0.0)
    with pytest.raises(AssertionError):
        world.turn_for(_wait_in_vain())
    assert [str(each["exception"]) for each in world.unheard] == ["by the test"]
    world.clear_up()


async def _wait_in_vain() -> None:
    asyncio.get_running_loop().call_soon(_fail)
    await asyncio.Event().wait()


def _fail() -> None:
    raise ValueError("by the test")
