"""Tests `streamd/runtime/versions/manager.py`: versions change in any order while lanes run, fail and are rebuilt.

As in `test_supervisor_stateful`: the loop turns only inside of a rule, lanes answer only when a rule releases them, and
time is a number. Every forecast shows which version made it, so one under another's name is found.
"""

import asyncio
import sys
import tempfile
from collections.abc import Callable, Coroutine, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import structlog
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from streamd.core.errors import BackendUnavailableError, BatchFailedError, InferenceError, LaneLostError
from streamd.core.scheduling.lane_health import LaneLimits
from streamd.core.scheduling.scheduler import Batch, RequestItem, Scheduler, ServerItem
from streamd.runtime.lanes.deployment import Deployment, DeploymentState
from streamd.runtime.lanes.pipeline import Pipeline
from streamd.runtime.lanes.sinks import BoardSink
from streamd.runtime.lanes.supervisor import BackendChanged, LaneSupervisor
from streamd.runtime.lanes.worker import LaneWorker
from streamd.runtime.state.state import State, WindowLimits
from streamd.runtime.versions.manager import DeploymentManager
from tests.support.contracts import make_contract
from tests.support.fake_versions import VERSION_NAMES, VersionBackend, Versions, compute_version_forecast
from tests.support.pipeline_rig import Caller, make_fake_spec
from tests.support.state_files import opened, send, whole
from tests.support.stepped_lanes import Fleet, SteppedSupervisor, WatchedPipeline, get_fake_lane, measure_flat_costs

CONTRACT = make_contract()
SERVERS = tuple("abcdef")
WINDOW_LIMITS = WindowLimits(capacity=len(SERVERS), need=2, late_steps=8, grace_seconds=10.0)
LIMITS = LaneLimits(hang_seconds=60.0, rebuild_seconds=1.0, max_rebuild_seconds=8.0, max_rebuilds=2)


class QuietSupervisor(SteppedSupervisor):
    """A supervisor that checks its lanes only when the test says so."""

    def watch(self) -> None:
        pass

    def _cancel_tasks(self) -> None:
        for coroutine in self.waiting:
            coroutine.close()
        self.waiting.clear()
        super()._cancel_tasks()


class Changes(Fleet, RuleBasedStateMachine):
    """Servers, callers, and three versions of which at most two are loaded, beside those that retire."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.make_loop()
        self.stack.callback(self.close_loop)
        self.stack.callback(structlog.reset_defaults)
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50), cache_logger_on_first_use=False)
        self.stack.enter_context(patch("streamd.runtime.lanes.supervisor.measure_costs", measure_flat_costs))
        folder = self.stack.enter_context(tempfile.TemporaryDirectory())
        self.state: State = self.stack.enter_context(opened(Path(folder), CONTRACT, WINDOW_LIMITS))
        self.now = 1_000.0
        self.step = 100
        self.versions = Versions(CONTRACT, LIMITS, lanes=3)
        self.loads: list[Deployment] = []
        self.supervisors: dict[Deployment, QuietSupervisor] = {}
        self.naive: list[Deployment] = []
        """The naive model: the deployment that serves, and after it the one that is kept warm."""
        self.values: dict[tuple[str, int], float] = {}
        self.delivered: set[tuple[int, int, int]] = set()
        self.callers: list[Caller] = []
        self.stuck = []
        self.run(self.start())

    def run(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Turn the loop until this is done, and then until it has nothing to do."""
        self.turn_for(coroutine)
        self.join_removed_lanes()
        self.turn_for(self.turn())

    async def turn(self) -> None:
        for _ in range(10):
            await asyncio.sleep(0)
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
        self.pipeline = WatchedPipeline(
            self.state,
            self.scheduler,
            BoardSink(self.state, self, []),
            Deployment(make_fake_spec("none_20260101_000000")),
            observer=self,
            clock=lambda: self.now,
        )
        self.manager = DeploymentManager(
            self.pipeline,
            keep_warm_seconds=1e6,
            make_supervisor=self.make_supervisor,
            clock=lambda: self.now,
        )
        await self.load(VERSION_NAMES[0])

    def make_supervisor(
        self, pipeline: Pipeline, deployment: Deployment, listener: BackendChanged, *, clock: Callable[[], float]
    ) -> LaneSupervisor:
        supervisor = QuietSupervisor(pipeline, deployment, listener, clock=clock)
        self.supervisors[deployment] = supervisor
        return supervisor

    async def load(self, name: str, prepare: Callable[[VersionBackend], None] = lambda backend: None) -> None:
        loaded = await self.manager.load(self.versions.make_spec(name, prepare))
        self.loads.append(loaded)
        self.manager.switch(loaded)
        self.naive = [loaded, *self.naive[:1]]

    def publish(self, slots: Sequence[int], now: float) -> None:
        for slot in slots:
            server, forecast = self.state.directory.names[slot], self.state.board.get_forecast(slot)
            assert server is not None
            assert forecast is not None
            key = (slot, self.state.directory.generations[slot], forecast.step)
            assert key not in self.delivered, "one forecast a row"
            self.delivered.add(key)
            expected = compute_version_forecast(
                CONTRACT, self.window(self.values[server, forecast.step]), forecast.model
            )
            np.testing.assert_array_equal(forecast.values, expected, "a forecast of another window or version")

    # ------------------------------------------------------------ work
    @rule(
        chosen=st.sets(st.sampled_from(SERVERS), min_size=1) | st.just(set(SERVERS)), later=st.sampled_from([0.0, 1.0])
    )
    def rows_arrive(self, chosen: set[str], later: float) -> None:
        self.now += later
        self.step += 1
        for server in sorted(chosen):
            if server not in self.state.directory.slots:
                send(self.state, server, self.step - 1, whole(0.0))
            value = float(100 * SERVERS.index(server) + self.step)
            self.values[server, self.step] = value
            rows = send(self.state, server, self.step, whole(value))
            if rows:
                self.pipeline.mark_due(self.state.directory.slots[server], rows)
        self.run(self.turn())

    @precondition(lambda self: len(self.state.directory) > 0)
    @rule(data=st.data())
    def a_server_is_forgotten(self, data: st.DataObject) -> None:
        server: str = data.draw(st.sampled_from(sorted(self.state.directory.slots)))
        slot = self.state.directory.slots[server]
        self.state.directory.release(slot)
        self.pipeline.forget(slot)

    @rule(windows=st.integers(1, 3))
    def a_caller_asks(self, windows: int) -> None:
        if self.pipeline.is_ready:
            caller = Caller(*(float(1_000 + 8 * len(self.callers) + index) for index in range(windows)))
            if self.pipeline.add_request(caller, windows):
                self.callers.append(caller)
            self.run(self.turn())

    # ------------------------------------------------------------ versions
    @rule(name=st.sampled_from(VERSION_NAMES))
    def a_version_is_loaded_and_serves(self, name: str) -> None:
        former = self.manager.current
        self.run(self.load(name))
        assert self.manager.current is self.loads[-1]
        assert self.pipeline.serving.name == name
        assert self.manager.previous is former

    @rule(
        name=st.sampled_from(VERSION_NAMES),
        trouble=st.sampled_from(["no lane", "not all lanes", "no lane warms", "dies before it runs"]),
    )
    def a_load_fails(self, name: str, trouble: str) -> None:
        before = (self.manager.current, self.manager.previous, self.pipeline.serving, self.pipeline.lanes.all_workers)
        released = len(self.versions.released)

        def prepare(backend: VersionBackend) -> None:
            unavailable = BackendUnavailableError("scripted")
            made: dict[str, list[Exception | None]] = {
                "no lane": [unavailable],
                "not all lanes": [None, None, unavailable],
            }
            backend.script.make_errors.extend(made.get(trouble, []))
            backend.script.lost = trouble == "no lane warms"
            backend.dies_before_run = trouble == "dies before it runs"

        async def fail() -> None:
            try:
                await self.load(name, prepare)
            except BackendUnavailableError:
                return
            raise AssertionError("the load did not fail")

        self.run(fail())
        after = (self.manager.current, self.manager.previous, self.pipeline.serving, self.pipeline.lanes.all_workers)
        assert after == before, "a load that fails changes nothing"
        assert len(self.versions.released) == released + 1

    @precondition(lambda self: self.manager.previous is not None)
    @rule()
    def the_previous_version_serves_again(self) -> None:
        former, back, made = self.manager.current, self.manager.previous, len(self.versions.backends)
        assert back is not None

        async def switch() -> None:
            self.manager.switch(back)
            self.naive.reverse()

        self.run(switch())
        assert (self.manager.current, self.manager.previous) == (back, former)
        assert len(self.versions.backends) == made

    @precondition(lambda self: self.manager.previous is not None)
    @rule()
    def the_previous_version_expires(self) -> None:
        async def expire() -> None:
            self.manager._expire()
            del self.naive[1:]

        self.run(expire())
        assert self.manager.previous is None

    @precondition(lambda self: len(self.loads) > 1)
    @rule(name=st.sampled_from(VERSION_NAMES))
    def a_version_is_loaded_and_discarded(self, name: str) -> None:
        async def load_only() -> None:
            self.manager.discard(await self.manager.load(self.versions.make_spec(name)))
            await asyncio.sleep(0)

        self.run(load_only())

    # ------------------------------------------------------------ lanes
    def busy(self) -> list[LaneWorker]:
        return [worker for worker in self.pipeline.lanes.all_workers if worker.running]

    def finish_lane(self, worker: LaneWorker, error: InferenceError | None = None) -> None:
        """Let a lane return the result of its batch, or an error."""
        if error is not None:
            backends = (each for each in self.versions.backends if get_fake_lane(worker) in each.lanes)
            next(backends).script.errors.append(error)
        self.run(self.answer(worker))

    @precondition(lambda self: self.busy())
    @rule(data=st.data(), later=st.sampled_from([0.0, 1.0]))
    def a_lane_is_done(self, data: st.DataObject, later: float) -> None:
        self.now += later
        self.finish_lane(data.draw(st.sampled_from(self.busy())))

    @precondition(lambda self: self.busy())
    @rule(data=st.data(), make=st.sampled_from([BatchFailedError, LaneLostError]))
    def a_lane_fails(self, data: st.DataObject, make: Callable[[str], InferenceError]) -> None:
        worker = data.draw(st.sampled_from(self.busy()))
        self.finish_lane(worker, make("scripted"))

    @precondition(lambda self: self.stuck)
    @rule(data=st.data())
    def a_removed_lane_answers_late(self, data: st.DataObject) -> None:
        worker = self.stuck.pop(data.draw(st.integers(0, len(self.stuck) - 1)))
        delivered = len(self.delivered)
        self.finish_lane(worker)
        assert worker.join(60.0)
        assert len(self.delivered) == delivered, "its answer is ignored"

    @rule(seconds=st.sampled_from([0.0, 1.0, 8.0, 61.0, 400.0]))
    def the_lanes_are_checked(self, seconds: float) -> None:
        self.now += seconds
        for loaded in self.find_loaded():
            self.supervisors[loaded].check_lanes(self.now)
        self.run(self.rebuild())
        assert not [each for each in self.busy() if each.running and self.now - each.running.started > 60.0]

    def find_loaded(self) -> list[Deployment]:
        return [loaded for loaded in self.loads if loaded in self.manager.loaded]

    async def rebuild(self) -> None:
        for loaded in self.find_loaded():
            supervisor = self.supervisors[loaded]
            while supervisor.waiting:
                await supervisor.waiting.pop(0)
                self.join_removed_lanes()

    # ------------------------------------------------------------ at all times
    def batches(self) -> list[Batch]:
        return [*self.scheduler.retries, *(worker.running for worker in self.busy() if worker.running)]

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
    def each_window_of_a_caller_is_answered_once_by_the_named_version(self) -> None:
        requests = [item for batch in self.batches() for item in batch.items if isinstance(item, RequestItem)]
        waiting = {(id(item.request), item.index) for item in [*requests, *self.scheduler.queued_requests()]}
        for caller in self.callers:
            done = caller.answers.keys() | caller.failures.keys()
            everything = set(range(len(caller.values)))
            assert {index for index in everything if (id(caller), index) in waiting} == everything - done
            for index, answer in caller.answers.items():
                window = np.full((1, 3), caller.values[index], np.float32)
                np.testing.assert_array_equal(answer, compute_version_forecast(CONTRACT, window, caller.models[index]))

    @invariant()
    def a_retiring_deployment_gets_no_batch(self) -> None:
        for deployment in self.loads:
            assert deployment is self.pipeline.serving or not deployment.is_retiring or not deployment.idle
            assert set(deployment.idle) == {each for each in deployment.workers if each.running is None}
        assert not self.pipeline.serving.is_retiring
        if self.scheduler.waiting:
            assert not self.pipeline.serving.idle, "waiting windows run while a lane is idle"

    @invariant()
    def windows_in_flight_are_counted(self) -> None:
        assert self.pipeline.in_flight == sum(len(each.running.items) for each in self.busy() if each.running)

    @invariant()
    def each_lane_is_closed_once(self) -> None:
        lanes = [lane for backend in self.versions.backends for lane in backend.lanes]
        assert all(lane.closings <= 1 for lane in lanes)
        live = {id(worker.lane) for worker in [*self.pipeline.lanes.all_workers, *self.stuck]}
        assert {id(lane) for lane in lanes if not lane.closed} == live

    @invariant()
    def at_most_two_versions_are_loaded_beside_those_that_retire(self) -> None:
        staying = {loaded for loaded in (self.manager.current, self.manager.previous) if loaded is not None}
        retiring = {loaded for loaded in self.find_loaded() if loaded.is_retiring}
        assert set(self.find_loaded()) == staying | retiring
        assert all(loaded.workers for loaded in retiring), "a retired deployment without lanes is closed"

    @invariant()
    def each_deployment_is_in_the_state_of_the_naive_model(self) -> None:
        warm = [DeploymentState.WARM] * len(self.naive[1:])
        assert [each.state for each in self.naive] == [DeploymentState.SERVING, *warm]
        for each in self.supervisors:
            if each not in self.naive:
                ended = DeploymentState.RETIRING if each in self.manager.loaded else DeploymentState.CLOSED
                assert each.state is ended

    # ------------------------------------------------------------ the end
    def teardown(self) -> None:
        """Check that every row and every call ends, and that each loaded version is released once."""
        try:
            if sys.exc_info()[0] is None:
                self.finish_all()
        finally:
            for supervisor in self.supervisors.values():
                for coroutine in supervisor.waiting:
                    coroutine.close()
            for backend in self.versions.backends:
                backend.release_all()
            self.pipeline.stop()
            self.stack.close()

    def finish_all(self) -> None:
        self.pipeline.is_released = True
        for backend in self.versions.backends:
            backend.release_all()
        for worker in self.stuck:
            assert worker.join(60.0)
        self.stuck.clear()
        for _ in range(4):
            self.run(self.pipeline.wait_idle())
            self.the_lanes_are_checked(1_000.0)
        assert self.pipeline.is_ready
        self.run(self.pipeline.wait_idle())
        assert self.scheduler.waiting == 0
        self.every_due_row_is_accounted_for()
        self.each_window_of_a_caller_is_answered_once_by_the_named_version()
        if self.manager.previous is not None:
            self.the_previous_version_expires()
        self.run(self.manager.wait_retired())
        assert len(self.versions.live) == len(self.pipeline.workers)
        assert len(self.versions.released) == len(self.versions.backends) - 1
        self.manager.close()
        self.pipeline.stop()
        for worker in self.pipeline.workers:
            assert worker.join(60.0)
        assert self.versions.live == []
        assert len(self.versions.released) == len(self.versions.backends)
        assert self.callback_errors == []


TestChanges = Changes.TestCase
TestChanges.settings = settings(max_examples=settings().max_examples // 4, stateful_step_count=50)
