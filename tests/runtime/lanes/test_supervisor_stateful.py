"""Tests `streamd/runtime/lanes/supervisor.py` and the pipeline: fake devices fail, hang, die and return, in any order.

The machine is that of `tests/support/lane_machine.py`.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from threading import Event

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule

from streamd.core.arrays import Float32
from streamd.core.errors import BackendUnavailableError, BatchFailedError, InferenceError, LaneLostError
from streamd.inference.fake import FakeBackend, FakeLane, make_fake_forecast
from streamd.inference.opening import OpenedBackend, SkippedBackend, join_reasons, open_all
from streamd.runtime.lanes.deployment import Deployment
from streamd.runtime.lanes.worker import LaneWorker
from tests.support.lane_machine import CONTRACT, LIMITS, LaneMachine
from tests.support.pipeline_rig import make_fake_spec
from tests.support.stepped_lanes import SteppedSupervisor, get_fake_lane

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


class World(LaneMachine):
    """Servers, callers and two backends."""

    def __init__(self) -> None:
        super().__init__()
        self.backends = {
            name: MortalBackend(CONTRACT, (1, 4, 8) if name == "first" else (1, 3), devices=count)
            for name, count in DEVICES.items()
        }
        for name, backend in self.backends.items():
            backend.name = name
        self.missing: set[str] = set()
        self.run(self.start())

    async def start(self) -> None:
        self.deployment = Deployment(make_fake_spec("model_20260101_000000", self.open_backend, limits=LIMITS))
        self.pipeline = self.make_pipeline(self.deployment)
        self.supervisor = SteppedSupervisor(self.pipeline, self.deployment, self, clock=lambda: self.now)
        self.supervisors[self.deployment] = self.supervisor
        await self.supervisor.open()

    @property
    def all_backends(self) -> Sequence[FakeBackend]:
        return list(self.backends.values())

    def compute_forecast(self, window: Float32, model: str) -> Float32:
        forecast: Float32 = make_fake_forecast(CONTRACT, window).transpose(1, 0, 2)
        return forecast

    def repair(self) -> None:
        self.missing.clear()
        for backend in self.backends.values():
            for device in backend.devices:
                backend.restore_device(device)

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

    def device_lost(self, deployment: Deployment, error: LaneLostError) -> None:
        """Do nothing: the pipeline removes its lanes."""

    def backend_changed(self, deployment: Deployment) -> None:
        assert deployment is self.deployment

    # ------------------------------------------------------------ lanes
    @precondition(lambda self: self.busy())
    @rule(data=st.data(), make=st.sampled_from([BatchFailedError, LaneLostError]))
    def a_lane_fails(self, data: st.DataObject, make: Callable[[str], InferenceError]) -> None:
        worker = data.draw(st.sampled_from(self.busy()))
        fails = get_fake_lane(worker).is_lost or make is LaneLostError
        if get_fake_lane(worker).is_lost:
            self.finish_lane(worker)  # the error of its device comes first
        else:
            self.finish_lane(worker, make("scripted"))
        assert (worker in self.pipeline.workers) == (not fails)

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
        dead = {each for each in self.pipeline.workers if not each.running and get_fake_lane(each).is_lost}
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

    @property
    def backend_name(self) -> str:
        assert self.deployment.backend is not None
        return self.deployment.backend.name

    # ------------------------------------------------------------ at all times
    @invariant()
    def no_call_waits_without_lanes(self) -> None:
        waiting = [item for batch in self.scheduler.retries for item in batch.requests]
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

    # ------------------------------------------------------------ the end
    def finish_lanes(self) -> None:
        self.supervisor.close()
        super().finish_lanes()


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
