"""Tests `streamd/runtime/lanes/supervisor.py` and the pipeline: fake devices fail, hang, die and return, in any order.

The loop turns only inside of a rule, lanes answer only when a rule releases them, and time is a number: nothing sleeps.
"""

import asyncio
import sys
import tempfile
from collections import defaultdict
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
from streamd.core.scheduling.lane_health import LaneLimits
from streamd.core.scheduling.scheduler import Batch, RequestItem, Scheduler, ServerItem
from streamd.inference.fake import FakeBackend, FakeLane, forecast_of
from streamd.inference.opening import OpenedBackend, SkippedBackend, join_reasons, open_all
from streamd.runtime.lanes.deployment import Deployment
from streamd.runtime.lanes.sinks import BoardSink
from streamd.runtime.lanes.worker import LaneWorker
from streamd.runtime.state.state import State, WindowLimits
from tests.support.contracts import make_contract
from tests.support.pipeline_rig import Caller, make_fake_spec
from tests.support.state_files import opened, send, whole
from tests.support.stepped_lanes import Fleet, SteppedSupervisor, WatchedPipeline, get_fake_lane, measure_flat_costs

CONTRACT = make_contract()
SERVERS = tuple("abcdefgh")
NEW_SERVERS = ("x", "y")
WINDOW_LIMITS = WindowLimits(capacity=len(SERVERS) + len(NEW_SERVERS), need=2, late_steps=8, grace_seconds=10.0)
LIMITS = LaneLimits(hang_seconds=60.0, rebuild_seconds=1.0, max_rebuild_seconds=8.0, max_rebuilds=2)
LANES = {"first": 4, "second": 2}
DEVICES = {"first": 2, "second": 1}


class MortalBackend(FakeBackend):
    """A backend whose devices may die after a lane was made and before it ran."""

    dies_before_run = False

    def make_lane(self, index: int) -> FakeLane:
        lane = super().make_lane(index)
        if self.dies_before_run:
            for device in self.devices:
                self.lose_device(device)
        return lane


class World(Fleet, RuleBasedStateMachine):
    """Servers, callers and two backends; the naive model is the values that were sent, by server and step."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.make_loop()
        self.stack.callback(self.close_loop)
        # Hundreds of lanes are lost on purpose: no log line for each.
        self.stack.callback(structlog.reset_defaults)
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50), cache_logger_on_first_use=False)
        self.stack.enter_context(patch("streamd.runtime.lanes.supervisor.measure_costs", measure_flat_costs))
        folder = self.stack.enter_context(tempfile.TemporaryDirectory())
        self.state: State = self.stack.enter_context(opened(Path(folder), CONTRACT, WINDOW_LIMITS))
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
        """The value that was sent last, by server and step."""
        self.delivered: set[tuple[int, int, int]] = set()
        self.callers: list[Caller] = []
        self.stuck = []
        self.run(self.start())

    def run(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Turn the loop until this is done, and then until it has nothing to do."""
        self.turn_for(coroutine)
        self.turn_for(self.turn())
        self.join_removed_lanes()

    async def rebuild(self) -> None:
        """Run the supervisor's waiting tasks, one after another."""
        while self.supervisor.waiting:
            await self.supervisor.waiting.pop(0)
            self.join_removed_lanes()

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
        self.deployment = Deployment(make_fake_spec("model_20260101_000000", self.open_backend, limits=LIMITS))
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
    def rows_arrive(self, chosen: set[str], later: float) -> None:
        self.now += later
        self.step += 1
        self.run(self.send_rows(sorted(chosen)))

    async def send_rows(self, servers: Sequence[str]) -> None:
        for server in servers:
            if server not in self.state.directory.slots:
                send(self.state, server, self.step - 1, whole(0.0))
            value = float(1_000 * (SERVERS + NEW_SERVERS).index(server) + self.step)
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
        absent = [name for name in NEW_SERVERS if name not in self.state.directory.slots]
        if absent and data.draw(st.sampled_from([True, False])):  # another server gets its slot at once
            self.step += 1
            self.run(self.send_rows(absent[:1]))

    @rule(windows=st.integers(1, 3))
    def a_caller_asks(self, windows: int) -> None:
        if self.pipeline.is_ready:  # as the service does
            number = 1_000 * (len(self.callers) + WINDOW_LIMITS.capacity)
            caller = Caller(*(float(number + index) for index in range(windows)))
            if self.pipeline.add_request(caller, windows):
                self.callers.append(caller)
            self.run(self.turn())

    # ------------------------------------------------------------ lanes
    def busy(self) -> list[LaneWorker]:
        return [worker for worker in self.pipeline.workers if worker.running]

    def finish_lane(self, worker: LaneWorker, error: InferenceError | None = None) -> None:
        """Let a lane return the result of its batch, or an error."""
        if error is not None:
            self.find_script(worker).errors.append(error)
        self.run(self.answer(worker))

    def find_script(self, worker: LaneWorker) -> Any:
        return next(backend for backend in self.backends.values() if get_fake_lane(worker) in backend.lanes).script

    @precondition(lambda self: self.busy())
    @rule(data=st.data(), later=st.sampled_from([0.0, 1.0]))
    def a_lane_is_done(self, data: st.DataObject, later: float) -> None:
        self.now += later
        self.finish_lane(data.draw(st.sampled_from(self.busy())))

    @precondition(lambda self: self.busy())
    @rule(data=st.data(), make=st.sampled_from([BatchFailedError, LaneLostError]))
    def a_lane_fails(self, data: st.DataObject, make: Callable[[str], InferenceError]) -> None:
        worker = data.draw(st.sampled_from(self.busy()))
        fails = get_fake_lane(worker).dead or make is LaneLostError
        if get_fake_lane(worker).dead:
            self.finish_lane(worker)  # the error of its device comes first
        else:
            self.finish_lane(worker, make("scripted"))
        assert (worker in self.pipeline.workers) == (not fails)

    @precondition(lambda self: self.stuck)
    @rule(data=st.data())
    def a_removed_lane_answers_late(self, data: st.DataObject) -> None:
        worker = self.stuck.pop(data.draw(st.integers(0, len(self.stuck) - 1)))
        board = [self.state.board.get_serial(slot) for slot in range(self.state.directory.capacity)]
        counts = repr(self.scheduler.counts)
        self.finish_lane(worker)
        assert worker.join(60.0)
        assert get_fake_lane(worker).closings == 1
        assert [self.state.board.get_serial(slot) for slot in range(self.state.directory.capacity)] == board
        assert repr(self.scheduler.counts) == counts, "its answer is ignored"

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
    def the_lanes_are_checked(self, seconds: float, trouble: str | None) -> None:
        self.now += seconds
        hung = {each for each in self.busy() if each.running and self.now - each.running.started > 60.0}
        dead = {each for each in self.pipeline.workers if not each.running and get_fake_lane(each).dead}
        self.supervisor.check_lanes(self.now)
        self.join_removed_lanes()
        left = set(self.pipeline.workers)
        assert not left & (hung | dead), "lanes that hang, and idle ones of a lost device, are removed at once"
        devices = {each.lane.device for each in dead}
        assert not {each.lane.device for each in left} & devices, "and all lanes of the device with them"
        for backend in self.backends.values():
            script = backend.script
            if trouble == "no lane is made":
                script.make_errors.extend([BackendUnavailableError("scripted")] * 8)
            script.lost = trouble == "lanes fail while warming"
            backend.dies_before_run = trouble == "devices die"
        before, falls_back = list(self.pipeline.workers), self.supervisor.falls_back
        held = {each.lane.device for each in self.stuck if each.lane.device in self.pipeline.lanes.closing.lost_devices}
        self.run(self.rebuild())
        for backend in self.backends.values():
            backend.script.make_errors.clear()
            backend.script.lost = False
            backend.dies_before_run = False
        if not falls_back:
            rebuilt = {each.lane.device for each in self.pipeline.workers if each not in before}
            assert not rebuilt & held, "a lost device gets no lane while a former one holds it"

    @rule()
    def the_backend_is_exhausted(self) -> None:
        backend = self.backends[self.backend_name]
        for device in backend.devices:
            backend.lose_device(device)
        while busy := self.busy():  # the batch of a lost lane moves to an idle one
            self.finish_lane(busy[0])
        for _ in range(LIMITS.max_rebuilds + 2):
            self.now += LIMITS.max_rebuild_seconds
            self.check_and_rebuild()
        assert backend.name != self.backend_name or not self.pipeline.is_ready

    def check_and_rebuild(self) -> None:
        self.supervisor.check_lanes(self.now)
        self.join_removed_lanes()
        self.run(self.rebuild())

    @property
    def backend_name(self) -> str:
        assert self.deployment.backend is not None
        return self.deployment.backend.name

    # ------------------------------------------------------------ at all times
    def batches(self) -> list[Batch]:
        return [*self.scheduler.retries, *(worker.running for worker in self.pipeline.workers if worker.running)]

    @invariant()
    def no_callback_fails(self) -> None:
        assert self.callback_errors == []

    @invariant()
    def every_due_row_is_accounted_for(self) -> None:
        counts = self.scheduler.counts
        running = [item for batch in self.batches() for item in batch.items if isinstance(item, ServerItem)]
        done = counts.delivered + self.scheduler.superseded + counts.failed + counts.forgotten
        assert counts.due == done + len(self.scheduler.due) + len(running)
        assert counts.delivered == len(self.delivered)

    @invariant()
    def each_window_of_a_caller_is_answered_once_or_waits(self) -> None:
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
    def no_call_waits_without_lanes(self) -> None:
        waiting = [item for batch in self.scheduler.retries for item in batch.items if isinstance(item, RequestItem)]
        assert self.pipeline.is_ready or not [*waiting, *self.scheduler.queued_requests()]

    @invariant()
    def a_batch_moves_once_at_most(self) -> None:
        assert all(batch.moves <= 1 for batch in self.batches())

    @invariant()
    def readiness_follows_the_remaining_lanes(self) -> None:
        assert self.supervisor._roster is not None
        assert self.pipeline.is_ready == bool(self.pipeline.workers)
        assert len(self.pipeline.workers) == self.supervisor._roster.healthy_count
        assert len(self.pipeline.workers) <= LANES[self.backend_name]
        assert len({worker.lane.name for worker in self.pipeline.workers}) == len(self.pipeline.workers)
        assert self.pipeline.in_flight == sum(len(worker.running.items) for worker in self.busy() if worker.running)

    @invariant()
    def each_lane_is_closed_once(self) -> None:
        lanes = [lane for backend in self.backends.values() for lane in backend.lanes]
        assert all(lane.closings <= 1 for lane in lanes)
        live = {id(worker.lane) for worker in [*self.pipeline.workers, *self.stuck]}
        assert {id(lane) for lane in lanes if not lane.closed} == live

    # ------------------------------------------------------------ the end
    def teardown(self) -> None:
        """Check that after repairs it is ready, every row and every call ends, and all lanes are closed."""
        try:
            if sys.exc_info()[0] is None:  # after a failure the rest may never end
                self.finish_all()
        finally:
            self.clean_up()

    def clean_up(self) -> None:
        """Release everything, also after a failure."""
        for coroutine in self.supervisor.waiting:
            coroutine.close()
        for backend in self.backends.values():
            backend.release_all()
        self.pipeline.stop()
        self.stack.close()

    def finish_all(self) -> None:
        self.pipeline.is_released = True
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
            self.check_and_rebuild()
        assert self.pipeline.is_ready
        self.run(self.pipeline.wait_idle())
        assert self.scheduler.waiting == 0
        self.no_callback_fails()
        self.every_due_row_is_accounted_for()
        self.each_window_of_a_caller_is_answered_once_or_waits()
        self.supervisor.close()
        self.pipeline.stop()
        for worker in self.pipeline.workers:
            assert worker.join(60.0)
        lanes = [lane for backend in self.backends.values() for lane in backend.lanes]
        assert [lane.closings for lane in lanes] == [1] * len(lanes)


TestWorld = World.TestCase
TestWorld.settings = settings(max_examples=settings().max_examples // 2, stateful_step_count=50)


# ---------------------------------------------------------------- the machine itself
@pytest.fixture
def world() -> Iterator[World]:
    machine = World()
    yield machine
    machine.teardown()


@pytest.fixture
def slow_closes(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let every lane close only once its thread is joined."""
    joined: defaultdict[str, Event] = defaultdict(Event)
    close, join = FakeLane.close, LaneWorker.join

    def close_late(lane: FakeLane) -> None:
        joined[f"lane {lane.name}"].wait()
        close(lane)

    def join_first(worker: LaneWorker, timeout_seconds: float) -> bool:
        joined[worker._thread.name].set()
        return join(worker, timeout_seconds)

    monkeypatch.setattr(FakeLane, "close", close_late)
    monkeypatch.setattr(LaneWorker, "join", join_first)
    yield
    for event in joined.values():
        event.set()


@pytest.mark.usefixtures("slow_closes")
def test_lanes_that_are_lost_while_the_machine_ends_are_joined() -> None:
    world = World()
    world.rows_arrive({"a"}, 0.0)
    world.rows_arrive({"b"}, 0.0)
    world.rows_arrive({"c"}, 0.0)
    world.backends["first"].lose_device("fake:0")
    world.teardown()


def test_a_backend_is_exhausted_wherever_its_batches_move(world: World) -> None:
    world.rows_arrive({"a"}, 0.0)
    world.rows_arrive({"b"}, 0.0)
    world.rows_arrive({"c"}, 0.0)
    world.finish_lane(world.busy()[1])
    assert [worker.lane.device for worker in world.busy()] == ["fake:0"] * 2, "the lanes of the other device are idle"
    world.the_backend_is_exhausted()


def test_an_error_in_a_callback_ends_the_turn() -> None:
    world = World()
    world.rows_arrive({"a"}, 0.0)
    with pytest.raises(AssertionError):
        world.turn_for(_wait_in_vain())
    assert [str(each["exception"]) for each in world.callback_errors] == ["scripted"]
    world.clean_up()


async def _wait_in_vain() -> None:
    asyncio.get_running_loop().call_soon(_fail)
    await asyncio.Event().wait()


def _fail() -> None:
    raise ValueError("scripted")
