"""State machine over a pipeline, shared by tests: servers and callers send work, and lanes end only in a rule.

The loop turns only inside of a rule, lanes answer only when a rule releases them, and time is a number: nothing sleeps.
"""

import asyncio
import sys
import tempfile
from collections.abc import Coroutine, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import structlog
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from streamd.core.arrays import Float32, Slots
from streamd.core.errors import InferenceError
from streamd.core.scheduling.batch_reasons import BatchReason
from streamd.core.scheduling.batches import Batch
from streamd.core.scheduling.lane_health import LaneLimits
from streamd.core.scheduling.scheduler import Scheduler
from streamd.inference.fake import FakeBackend
from streamd.runtime.lanes.deployment import Deployment
from streamd.runtime.lanes.sinks import BoardSink
from streamd.runtime.lanes.worker import LaneWorker
from streamd.runtime.state.state import State, WindowLimits
from tests.support.contracts import make_contract
from tests.support.pipeline_rig import Caller
from tests.support.state_files import opened, send, whole
from tests.support.stepped_lanes import (
    SteppedSupervisor,
    WatchedPipeline,
    get_fake_lane,
    join_closing_lanes,
    measure_flat_costs,
)

CONTRACT = make_contract()
SERVERS = tuple("abcdefgh")
NEW_SERVERS = ("x", "y")
WINDOW_LIMITS = WindowLimits(capacity=len(SERVERS) + len(NEW_SERVERS), need=2, late_steps=8, grace_seconds=10.0)
LIMITS = LaneLimits(hang_seconds=60.0, rebuild_seconds=1.0, max_rebuild_seconds=8.0, max_rebuilds=2)

# Every row and every caller's window has a value of its own, and all are below the offset of a version's forecasts.
SERVER_VALUES = 200
CALLER_VALUES = SERVER_VALUES * (WINDOW_LIMITS.capacity + 1)


class LaneMachine(RuleBasedStateMachine):
    """Servers whose rows hold one value each, so that a window is recognized by it, callers, and lanes."""

    scheduler: Scheduler
    pipeline: WatchedPipeline
    supervisors: dict[Deployment, SteppedSupervisor]
    callback_errors: list[dict[str, Any]]
    """Errors in the loop's callbacks, which the loop would only log."""
    _turning: "asyncio.Task[None] | None" = None

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
        self.step = 100
        self.supervisors = {}
        self.values: dict[tuple[str, int], float] = {}
        """The naive model: the value that was sent last, by server and step."""
        self.delivered: set[tuple[int, int, int]] = set()
        self.callers: list[Caller] = []
        self.stuck: list[LaneWorker] = []
        """Lanes that were removed while they ran a batch, and still run it."""

    # ------------------------------------------------------------ what each machine says
    @property
    def all_backends(self) -> Sequence[FakeBackend]:
        """Every backend that made lanes."""
        raise NotImplementedError

    def compute_forecast(self, window: Float32, model: str) -> Float32:
        """Return the right forecast of a window, `(targets, horizon, quantiles)`."""
        raise NotImplementedError

    def find_supervisors(self) -> list[SteppedSupervisor]:
        """Return the supervisors of all loaded deployments."""
        return list(self.supervisors.values())

    def repair(self) -> None:
        """Undo what was broken on purpose, before the end."""

    # ------------------------------------------------------------ the loop
    def make_pipeline(self, deployment: Deployment) -> WatchedPipeline:
        """Make the scheduler and a pipeline over it; call it inside of the loop."""
        self.scheduler = Scheduler(
            self.state.snapshot_many,
            self.state.board.get_steps,
            capacity=self.state.directory.capacity,
            need=self.state.windows.need,
            max_queue_delay_seconds=10.0,
            max_waiting_requests=8,
        )
        sink = BoardSink(self.state, self, [])
        return WatchedPipeline(self.state, self.scheduler, sink, deployment, observer=self, clock=lambda: self.now)

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

    def run(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Turn the loop until this is done, and then until it has nothing to do."""
        self.turn_for(coroutine)
        self.join_removed_lanes()
        self.turn_for(self.turn())
        self.join_removed_lanes()

    async def turn(self) -> None:
        for _ in range(10):  # a callback that is due may schedule another
            await asyncio.sleep(0)
        while self.pipeline._dispatch_scheduled:
            await asyncio.sleep(0)

    async def rebuild(self) -> None:
        """Run the supervisors' waiting tasks, one after another."""
        for supervisor in self.find_supervisors():
            while supervisor.waiting:
                await supervisor.waiting.pop(0)
                self.join_removed_lanes()

    def check_and_rebuild(self) -> None:
        for supervisor in self.find_supervisors():
            supervisor.check_lanes(self.now)
        self.join_removed_lanes()
        self.run(self.rebuild())
        hung = [each for each in self.busy() if each.running and self.now - each.running.started > LIMITS.hang_seconds]
        assert not hung

    def join_removed_lanes(self) -> None:
        """Wait for the threads of removed lanes that run nothing; once no lane is held, of all removed lanes."""
        self.stuck += self.pipeline.take_removed_busy()
        join_closing_lanes(self.pipeline.lanes.closing, self.stuck)

    # ------------------------------------------------------------ work
    def batch_done(
        self, windows: int, queue_delay_seconds: float, inference_seconds: float, reason: BatchReason
    ) -> None:
        """Check what a pipeline reports to its observer."""
        assert queue_delay_seconds >= 0

    def window(self, value: float) -> Float32:
        """The window of a server all of whose rows were `whole(value)`."""
        row = np.array(list(whole(value).values()), np.float32)
        return np.broadcast_to(row, (CONTRACT.context_length, len(row)))

    def publish(self, slots: Slots, now: float) -> None:
        """Check every forecast that a pipeline delivers."""
        assert now == self.now
        for slot in slots.tolist():
            server, forecast = self.state.directory.names[slot], self.state.board.get_forecast(slot)
            assert server is not None
            assert forecast is not None
            key = (slot, self.state.directory.get_generation(slot), forecast.step)
            assert key not in self.delivered, "one forecast a row"
            self.delivered.add(key)
            expected = self.compute_forecast(self.window(self.values[server, forecast.step]), forecast.model)
            np.testing.assert_array_equal(forecast.values, expected, "a forecast of another window or version")

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
            value = float(SERVER_VALUES * (SERVERS + NEW_SERVERS).index(server) + self.step)
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
            number = CALLER_VALUES + 8 * len(self.callers)
            caller = Caller(*(float(number + index) for index in range(windows)))
            if self.pipeline.add_request(caller, windows):
                self.callers.append(caller)
            self.run(self.turn())

    # ------------------------------------------------------------ lanes
    def busy(self) -> list[LaneWorker]:
        return [worker for worker in self.pipeline.lanes.all_workers if worker.running]

    def find_backend(self, worker: LaneWorker) -> FakeBackend:
        return next(backend for backend in self.all_backends if get_fake_lane(worker) in backend.lanes)

    def finish_lane(self, worker: LaneWorker, error: InferenceError | None = None) -> None:
        """Let a lane return the result of its batch, or an error."""
        if error is not None:
            self.find_backend(worker).script.errors.append(error)
        self.run(self.answer(worker))

    async def answer(self, worker: LaneWorker) -> None:
        """Release a lane that is held, and wait until the pipeline has handled its result."""
        self.pipeline.result_handled.clear()
        self.pipeline.answering = worker
        get_fake_lane(worker).gate.set()
        await self.pipeline.result_handled.wait()
        self.pipeline.answering = None

    @precondition(lambda self: self.busy())
    @rule(data=st.data(), later=st.sampled_from([0.0, 1.0]))
    def a_lane_is_done(self, data: st.DataObject, later: float) -> None:
        self.now += later
        self.finish_lane(data.draw(st.sampled_from(self.busy())))

    @precondition(lambda self: self.stuck)
    @rule(data=st.data())
    def a_removed_lane_answers_late(self, data: st.DataObject) -> None:
        worker = self.stuck.pop(data.draw(st.integers(0, len(self.stuck) - 1)))
        board = [self.state.board.get_serial(slot) for slot in range(self.state.directory.capacity)]
        counts, delivered = repr(self.scheduler.counts), len(self.delivered)
        self.finish_lane(worker)
        assert worker.join(60.0)
        assert get_fake_lane(worker).closings == 1
        assert [self.state.board.get_serial(slot) for slot in range(self.state.directory.capacity)] == board
        assert repr(self.scheduler.counts) == counts, "its answer is ignored"
        assert len(self.delivered) == delivered

    # ------------------------------------------------------------ at all times
    def batches(self) -> list[Batch]:
        return [*self.scheduler.retries, *(worker.running for worker in self.busy() if worker.running)]

    @invariant()
    def no_callback_fails(self) -> None:
        assert self.callback_errors == []

    @invariant()
    def every_due_row_is_accounted_for(self) -> None:
        counts = self.scheduler.counts
        running = sum(len(batch.servers) for batch in self.batches())
        done = counts.delivered + self.scheduler.superseded + counts.failed + counts.forgotten
        assert counts.due == done + len(self.scheduler.due) + running
        assert counts.delivered == len(self.delivered)

    @invariant()
    def each_window_of_a_caller_is_answered_once_or_waits(self) -> None:
        requests = [item for batch in self.batches() for item in batch.requests]
        waiting = {(id(item.request), item.index) for item in [*requests, *self.scheduler.queued_requests()]}
        for caller in self.callers:
            done = caller.answers.keys() | caller.failures.keys()
            everything = set(range(len(caller.values)))
            assert {index for index in everything if (id(caller), index) in waiting} == everything - done
            for index, answer in caller.answers.items():
                window = np.full((1, 3), caller.values[index], np.float32)
                expected = self.compute_forecast(window, caller.models[index])
                np.testing.assert_array_equal(answer, expected, "a forecast of another window or version")

    @invariant()
    def windows_in_flight_are_counted(self) -> None:
        assert self.pipeline.in_flight == sum(len(each.running) for each in self.busy() if each.running)

    @invariant()
    def each_lane_is_closed_once(self) -> None:
        lanes = [lane for backend in self.all_backends for lane in backend.lanes]
        assert all(lane.closings <= 1 for lane in lanes)
        live = {id(worker.lane) for worker in [*self.pipeline.lanes.all_workers, *self.stuck]}
        assert {id(lane) for lane in lanes if not lane.is_closed} == live

    # ------------------------------------------------------------ the end
    def teardown(self) -> None:
        """Check that after repairs it is ready, every row and every call ends, and all lanes are closed."""
        try:
            if sys.exc_info()[0] is None:  # after a failure the rest may never end
                self.finish_work()
                self.finish_lanes()
        finally:
            self.clean_up()

    def clean_up(self) -> None:
        """Release everything, also after a failure."""
        for supervisor in self.supervisors.values():
            for coroutine in supervisor.waiting:
                coroutine.close()
        for backend in self.all_backends:
            backend.release_all()
        self.pipeline.stop()
        self.stack.close()

    def finish_work(self) -> None:
        """Release and repair all lanes until no work is left."""
        self.pipeline.is_released = True
        for backend in self.all_backends:
            backend.release_all()
        self.repair()
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

    def finish_lanes(self) -> None:
        """Stop the pipeline, and wait for its lanes."""
        self.pipeline.stop()
        for worker in self.pipeline.workers:
            assert worker.join(60.0)
        lanes = [lane for backend in self.all_backends for lane in backend.lanes]
        assert [lane.closings for lane in lanes] == [1] * len(lanes)
