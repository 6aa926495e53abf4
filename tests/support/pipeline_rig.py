"""A pipeline over fake lanes on the running loop, and a way to wait for what it does without sleeping."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np

from streamd.core.arrays import Float32, Slots
from streamd.core.errors import BackendUnavailableError, InvalidInputError
from streamd.core.scheduling.batch_reasons import BatchReason
from streamd.core.scheduling.costs import CostTable
from streamd.core.scheduling.lane_health import LaneLimits
from streamd.core.scheduling.scheduler import Scheduler
from streamd.inference.fake import FakeBackend, FakeScript, make_fake_forecast
from streamd.inference.opening import OpenBackend, OpenedBackend
from streamd.runtime.lanes.deployment import Deployment, DeploymentSpec
from streamd.runtime.lanes.pipeline import Pipeline
from streamd.runtime.lanes.sinks import BoardSink, ForecastPosted
from streamd.runtime.lanes.worker import LaneWorker
from streamd.runtime.state.state import State
from streamd.runtime.versions.candidate import CandidateRouter
from tests.support.contracts import make_contract
from tests.support.state_files import opened, send, whole, window_of

SERVER_IDS = {"web-01": 7}


def make_fake_spec(
    name: str,
    open_backend: OpenBackend | None = None,
    *,
    server_ids: dict[str, int] | None = None,
    release: Callable[[], None] = lambda: None,
    limits: LaneLimits | None = None,
) -> DeploymentSpec:
    """Return the spec of a deployment of fake lanes; without `open_backend` the test opens its lanes."""

    def open_nothing(exhausted: frozenset[str]) -> OpenedBackend:
        raise BackendUnavailableError("the test opens the lanes")

    return DeploymentSpec(
        name=name,
        open_backend=open_backend or open_nothing,
        server_ids=server_ids or {},
        release=release,
        max_batch=8,
        warmup_seconds=0.001,
        lane_limits=limits or LaneLimits(),
    )


class Rig:
    """A running pipeline over fake lanes, with records of its runs and its results."""

    def __init__(self, state: State, lanes: int, devices: int = 1) -> None:
        self.state = state
        self.backend = FakeBackend(state.contract, (1, 8), devices=devices)
        self.batches: list[int] = []
        """The number of windows of each batch that ended, in order."""
        self.reasons: list[BatchReason] = []
        self.published: list[tuple[str, int]] = []
        """(server, step) of each published forecast, in order."""
        self.expects_rows = False
        self.queue_delays: list[float] = []
        self._lanes = lanes
        self._loop = asyncio.get_running_loop()
        self._news = asyncio.Event()
        self.script.on_run = self._on_run
        self.inputs: list[dict[str, Any]] = []
        """Copies of the inputs of each run, in the order in which they began."""
        self.scheduler = Scheduler(
            state.snapshot_many,
            state.board.get_steps,
            capacity=state.directory.capacity,
            need=state.windows.need,
            max_queue_delay_seconds=3_600.0,
            max_waiting_requests=16,
        )
        self.scores: list[ForecastPosted] = []
        """The receivers of every posted forecast."""
        self.router = CandidateRouter()
        self.board_sink = BoardSink(state, self, self.scores)
        self.pipeline = Pipeline(
            state,
            self.scheduler,
            self.board_sink,
            Deployment(make_fake_spec("model_20260101_000000", server_ids=SERVER_IDS)),
            observer=self,
            router=self.router,
            rows_expected=self,
        )
        self.scores.append(self.router)
        self._workers: list[LaneWorker] = []

    @property
    def script(self) -> FakeScript:
        return self.backend.script

    def open_lanes(self) -> None:
        lanes = [self.backend.make_lane(index) for index in range(self._lanes)]
        self._workers = [LaneWorker(lane, self._loop, self.pipeline.handle_result) for lane in lanes]
        # Batching is free: all that waits runs as one batch.
        self.pipeline.open_lanes(self._workers, CostTable({1: 1.0, 8: 1.0}, pads=False))

    async def close(self) -> None:
        self.backend.release_all()
        self.pipeline.stop()
        for worker in self._workers:
            worker.stop()
        for worker in self._workers:
            assert await asyncio.to_thread(worker.join, 60.0)

    # ------------------------------------------------------------ actions of tests
    def add_due_row(self, server: str, step: int, value: float | None = None) -> int:
        """Send a whole row of a server, after the rows that it needs before to become due; returns its slot."""
        slot, rows = self._send_row(server, step, value)
        self.pipeline.mark_due(slot, rows)
        return slot

    def add_due_rows(self, servers: Sequence[str], step: int) -> None:
        """Send a whole row of each server, and mark all of them as due at once."""
        sent = [self._send_row(server, step, None) for server in servers]
        assert all(rows == 1 for _, rows in sent)
        self.pipeline.mark_due_many(np.array([slot for slot, _ in sent]))

    def _send_row(self, server: str, step: int, value: float | None) -> tuple[int, int]:
        """Return the server's slot, and how many rows became due."""
        slot = self.state.directory.slots.get(server)
        if slot is None:
            send(self.state, server, step - 1, whole(0.0))
        rows = send(self.state, server, step, whole(float(step) if value is None else value))
        return self.state.directory.slots[server], rows

    def forget(self, server: str) -> None:
        """Forget a server as ingest does."""
        slot = self.state.directory.slots[server]
        self.state.directory.release(slot)
        for each in (self.router, self.pipeline, self.board_sink):
            each.forget(slot)

    def release_lane(self, lane: int) -> None:
        """Let a held lane finish its run."""
        self.script.gates[f"fake-{lane}"].set()

    async def wait_for(self, happened: Callable[[], bool]) -> None:
        """Wait until something has happened; checks again after each event of the pipeline."""
        while not happened():
            self._news.clear()
            await self._news.wait()

    async def wait_for_runs(self, runs: int) -> None:
        """Wait until `runs` runs have begun since the start."""
        await self.wait_for(lambda: len(self.inputs) >= runs)

    async def wait_idle(self) -> None:
        await self.pipeline.wait_idle()

    def compute_forecast(self, server: str) -> Float32:
        """Return the fake's forecast of a server's present window, `(targets, horizon, quantiles)`."""
        forecast: Float32 = make_fake_forecast(self.state.contract, window_of(self.state, server)).transpose(1, 0, 2)
        return forecast

    def is_accounted(self) -> bool:
        """Whether each due row is counted under one end."""
        counts = self.scheduler.counts
        return counts.due == counts.delivered + self.scheduler.superseded + counts.failed + counts.forgotten

    # ------------------------------------------------------------ reports of the pipeline
    def batch_done(
        self, windows: int, queue_delay_seconds: float, inference_seconds: float, reason: BatchReason
    ) -> None:
        self.batches.append(windows)
        self.reasons.append(reason)
        self.queue_delays.append(queue_delay_seconds)
        self._news.set()

    def publish(self, slots: Slots, now: float) -> None:
        assert now <= time.monotonic()
        for slot in slots.tolist():
            self.published.append((self.state.directory.names[slot] or "", self.state.board.get_step(slot)))

    def _on_run(self, lane: str, inputs: dict[str, Any]) -> None:
        self._loop.call_soon_threadsafe(self._note_run, inputs)

    def _note_run(self, inputs: dict[str, Any]) -> None:
        self.inputs.append(inputs)
        self._news.set()


@asynccontextmanager
async def running(folder: Path, *, lanes: int = 1, devices: int = 1, opened_later: bool = False) -> AsyncIterator[Rig]:
    """Run a pipeline over a state in `folder`."""
    with opened(folder, make_contract()) as state:
        rig = Rig(state, lanes, devices)
        if not opened_later:
            rig.open_lanes()
        try:
            yield rig
        finally:
            await rig.close()


class Caller:
    """A request whose windows are all of one value."""

    is_checked = True

    def __init__(self, *values: float) -> None:
        self.values = values
        self.answers: dict[int, Float32] = {}
        self.models: dict[int, str] = {}
        self.failures: dict[int, Exception] = {}

    def fill(self, first: int, count: int, inputs: Any, row: int) -> None:
        rows = slice(row, row + count)
        inputs.encoder_cont[rows] = np.array(self.values[first : first + count])[:, None, None]
        inputs.encoder_cat[rows] = 0
        inputs.decoder_cont[rows] = 0
        inputs.decoder_cat[rows] = 0
        inputs.forget_memory(rows.start, rows.stop)

    def answer(self, first: int, forecasts: Float32, model: str) -> None:
        for index, forecast in enumerate(forecasts, first):
            assert index not in self.answers | self.failures, "one answer to each window"
            self.answers[index] = forecast.copy()
            self.models[index] = model

    def fail(self, index: int, error: Exception) -> None:
        assert index not in self.answers | self.failures, "one answer to each window"
        self.failures[index] = error

    def refuse(self, error: InvalidInputError) -> None:
        raise AssertionError(f"its windows are checked before: {error}")

    def last_values(self) -> dict[int, float]:
        """Return the last value of each answered window, which the fake lane's forecast begins with."""
        return {index: float(np.round(answer[0, 0, 1], 2)) for index, answer in self.answers.items()}
