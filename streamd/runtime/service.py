"""The daemon without its sockets: state, ingest, pipeline and fan-out, wired together by `build_service`.

The `http` package calls it. The `server` package builds it, and loads the versions that give it lanes.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import structlog

from streamd.core.accuracy.pending import AccuracyLimits
from streamd.core.arrays import Float32
from streamd.core.contract import ModelContract
from streamd.core.errors import BackendUnavailableError, DrainingError, TooBusyError, UnavailableError
from streamd.core.scheduling.scheduler import Scheduler
from streamd.inference.opening import OpenedBackend
from streamd.runtime.accuracy.live import LiveAccuracy
from streamd.runtime.clock_watch import ClockWatch
from streamd.runtime.hub import Hub
from streamd.runtime.ingest import Ingest, IngestLoad, RowsDue, ServerForgotten
from streamd.runtime.lanes.deployment import Deployment, DeploymentSpec
from streamd.runtime.lanes.pipeline import Pipeline
from streamd.runtime.lanes.sinks import BoardSink
from streamd.runtime.metrics import Metrics
from streamd.runtime.predict import Prediction, PredictRequest
from streamd.runtime.state.state import State
from streamd.runtime.versions.candidate import Candidate, CandidateRouter

log = structlog.get_logger(__name__)

JOIN_SECONDS = 2.0
"""The time that `close` waits for all lanes' threads together."""

SWEEP_SECONDS = 1.0
"""The interval at which past forecasts are scored, and stored rows are compared with the clock."""


@dataclass(frozen=True, kw_only=True)
class ServiceLimits:
    """The limits of queues and of waiting times; see `config.toml`."""

    max_queue_delay_seconds: float = 0.005
    max_ahead_seconds: float = 300.0
    max_waiting_requests: int = 8_192
    predict_timeout_seconds: float = 30.0
    ahead_recovery_seconds: float = 60.0
    accuracy: AccuracyLimits = field(default_factory=AccuracyLimits)


@dataclass
class EngineStatus:
    """The entries of `/v1/status` that describe the versions; version control writes them."""

    shown: dict[str, Any] = field(default_factory=dict)


class Service:
    """One model's daemon without its sockets; `build_service` makes it."""

    def __init__(
        self,
        state: State,
        limits: ServiceLimits,
        *,
        metrics: Metrics,
        hub: Hub,
        accuracy: LiveAccuracy,
        router: CandidateRouter,
        board_sink: BoardSink,
        pipeline: Pipeline,
        ingest: Ingest,
        owners: "SlotOwners",
        clock_watch: ClockWatch,
    ) -> None:
        self.state = state
        self.contract: ModelContract = state.contract
        self.limits = limits
        self.started = time.monotonic()
        self.engine = EngineStatus()
        self.is_draining = False
        self.metrics = metrics
        self.hub = hub
        self.accuracy = accuracy
        self.router = router
        self.board_sink = board_sink
        self.pipeline = pipeline
        self.scheduler = pipeline.scheduler
        self.pauses = pipeline.pauses
        self.ingest = ingest
        self.owners = owners
        self.clock_watch = clock_watch
        self.deleted_servers = 0
        """The number of servers since start that were forgotten on request."""
        self.candidate: Candidate | None = None
        """The candidate, if there is one."""
        self._candidate_rows: Counter[str] = Counter()  # of canaries that have ended
        self._sweep_timer: asyncio.TimerHandle | None = None
        self._register_metrics()

    def begin(self) -> None:
        """Start timers, and queue the rows that the former process closed but did not forecast."""
        for slot in self.state.find_unforecast():
            self.pipeline.mark_due(slot, 1)
        self.pauses.watch()
        self.pipeline.watch_grace()
        self._sweep()

    @property
    def is_ready(self) -> bool:
        """Whether it can answer now: a lane is warm, and the daemon is not stopping."""
        return self.pipeline.is_ready and not self.is_draining

    @property
    def model(self) -> str:
        """The name of the version that serves."""
        return self.pipeline.serving.name

    @property
    def passed_over(self) -> list[dict[str, str]]:
        """The versions that should serve and cannot: the `name`, the `rule` that chose it and the `reason` of each."""
        return list(self.engine.shown.get("passed_over", ()))

    async def predict(self, inputs: Mapping[str, npt.NDArray[Any]]) -> Prediction:
        """Forecast a caller's windows.

        Raises `InvalidInputError` if the inputs violate the contract, `UnavailableError` if there is no lane,
        `TooBusyError` if the queue is full or the time is over, and `InferenceError` if a window failed.
        """
        if self.is_draining:
            raise DrainingError("the daemon is stopping")
        if not self.pipeline.is_ready:
            raise UnavailableError("no lane is ready yet")
        request = PredictRequest(self.contract, inputs)
        try:
            async with self.pauses.timeout(self.limits.predict_timeout_seconds):
                predictions, model = await self._run_request(request)
        except TimeoutError as exc:
            seconds = self.limits.predict_timeout_seconds
            raise TooBusyError(f"no forecast within {seconds:g} s") from exc
        finally:
            # However the call ended (an answer, an error, a timeout, a caller that left), its windows need not run.
            self.pipeline.drop_request(request)
        return Prediction(predictions.reshape(request.windows, *self.contract.output_shape), request.batched, model)

    async def _run_request(self, request: PredictRequest) -> tuple[Float32, str]:
        """Return the predictions of a request, and the one version that made them all."""
        while True:
            if not self.pipeline.add_request(request, request.windows):
                raise TooBusyError(f"{self.limits.max_waiting_requests} windows of callers may wait, and as many do")
            predictions = await request.future
            if len(request.models) == 1:
                return predictions, request.models.pop()
            request.reset()  # the version changed in between: an answer must not mix two versions

    def note_sent(self, slots: Iterable[int]) -> None:
        """Note that the newest forecasts of these slots were sent to a subscriber."""
        self.metrics.observe_sent(map(self.board_sink.received.get, slots))

    def forget(self, slot: int) -> None:
        """Forget a server and all its data; a forecast of it that runs is not delivered."""
        server = self.state.directory.names[slot]
        self.state.forget(slot)
        self.owners.forget(slot)
        self.deleted_servers += 1
        log.info("server_deleted", server=server)

    async def drain(self) -> None:
        """Reject new work and finish what waits and runs. The caller limits the time."""
        self.is_draining = self.ingest.is_draining = True
        while self.ingest.load.bodies:
            await asyncio.sleep(0)
        while not (self.pipeline.is_idle and (self.candidate is None or self.candidate.is_idle)):
            if self.candidate is not None:
                await self.candidate.wait_idle()
            await self.pipeline.wait_idle()

    @property
    def undelivered(self) -> int:
        """The number of windows that wait or run, and of forecasts that no reader took; after a drain, of lost work."""
        candidate = 0 if self.candidate is None else self.candidate.unfinished
        return self.pipeline.unfinished + candidate + self.hub.waiting + self.hub.left_unread

    def candidate_ended(self, candidate: Candidate) -> None:
        """Note that a candidate has ended; its rows still count."""
        self._candidate_rows.update(candidate.delivered_rows())
        self.candidate = None

    def close(self) -> None:
        """Stop all lanes, also warming ones, wait `JOIN_SECONDS` for their threads, and close the state."""
        self.pauses.close()
        if self._sweep_timer is not None:
            self._sweep_timer.cancel()
        pipelines = [self.pipeline] if self.candidate is None else [self.pipeline, self.candidate.pipeline]
        workers = set(self.pipeline.lanes.closing.running)
        for pipeline in pipelines:
            pipeline.stop()
            workers.update(pipeline.lanes.all_workers)
        for worker in workers:
            worker.stop()
        until = time.monotonic() + JOIN_SECONDS
        for worker in workers:
            worker.join(max(until - time.monotonic(), 0.0))
        self.state.close()

    # ------------------------------------------------------------ reports
    def describe_status(self) -> dict[str, Any]:
        """Return the content of `/v1/status`."""
        contract, windows = self.contract, self.state.windows
        return {
            "engine": self.model,
            **self.engine.shown,
            "ready": self.is_ready,
            "draining": self.is_draining,
            "uptime_seconds": round(time.monotonic() - self.started, 3),
            "contract": {
                "features": list(contract.features),
                "targets": list(contract.targets),
                "units": dict(contract.units),
                "quantiles": list(contract.quantiles),
                "context_length": contract.context_length,
                "horizon": contract.horizon,
                "step_seconds": contract.step_seconds,
                "need": windows.need,
                "late_steps": windows.late_steps,
            },
            "lanes": [worker.describe() for worker in self.pipeline.workers],
            "lanes_lost": list(self.pipeline.serving.lost),
            "candidate": None if self.candidate is None else self.candidate.describe(),
            "servers": len(self.state.directory),
            "capacity": self.state.directory.capacity,
            "ahead": self.clock_watch.describe(),
            "due": len(self.scheduler.due),
            "waiting": self.scheduler.waiting,
            "in_flight": self.pipeline.in_flight,
            "predict": {
                "calls": self.scheduler.calls,
                "waiting": self.scheduler.waiting_requests,
                "dropped": self.scheduler.dropped_windows,
            },
            "rows": self.row_counts(),
            "samples": {
                "accepted": self.ingest.accepted,
                "rejected": dict(self.ingest.rejected),
                "refused_frames": dict(self.ingest.refused),
                "ignored_features": self.ingest.ignored_features,
            },
            "subscribers": {"now": len(self.hub), "waiting": self.hub.waiting, "dropped": self.hub.dropped},
            "accuracy": self.accuracy.describe(),
            "recovered": {
                **self.state.recovered,
                "unreadable_forecasts": self.state.board.unreadable,
                "set_aside": self.state.set_aside,
            },
        }

    def row_counts(self) -> dict[str, int]:
        """Return the closed rows since start by their end; `due` is the sum of the others and of what waits or runs."""
        counts = Counter(self.scheduler.row_counts()) + self._candidate_rows
        if self.candidate is not None:
            counts.update(self.candidate.delivered_rows())
        return {
            "closed": self.state.windows.closed_rows,
            "warming": self.state.windows.warming_rows,
            **{name: counts[name] for name in self.scheduler.row_counts()},
        }

    def copy_window(self, slot: int) -> npt.NDArray[np.float32]:
        """Return a copy of a server's window, `(context_length, features) float32`, oldest row first."""
        shape = self.contract.input_shapes["encoder_cont"]
        values = np.empty(shape, np.float32)
        self.state.windows.gather_window(slot, values, np.empty(shape[0], np.int32))
        return values

    # ------------------------------------------------------------ upkeep
    def _sweep(self) -> None:
        self.accuracy.sweep()
        self.clock_watch.sweep()
        self._sweep_timer = asyncio.get_running_loop().call_later(SWEEP_SECONDS, self._sweep)

    def _register_metrics(self) -> None:
        metrics, state = self.metrics, self.state
        metrics.add_labelled_counter(
            "samples",
            "Samples by result",
            "result",
            lambda: {"accepted": self.ingest.accepted, **self.ingest.rejected},
        )
        metrics.add_labelled_counter(
            "refused_frames",
            "Bodies and frames that were rejected as a whole",
            "code",
            lambda: self.ingest.refused,
        )
        metrics.add_labelled_counter("rows", "Closed rows by their end", "state", self.row_counts)
        metrics.add_counter(
            "ignored_features", "Values of features that the model does not know", lambda: self.ingest.ignored_features
        )
        metrics.add_counter(
            "servers_forgotten",
            "Servers evicted because the capacity was reached",
            lambda: self.ingest.forgotten_servers,
        )
        metrics.add_counter("servers_deleted", "Servers forgotten on request", lambda: self.deleted_servers)
        metrics.add_counter("forecasts_dropped", "Forecasts that slow subscribers missed", lambda: self.hub.dropped)
        metrics.add_families(self.accuracy.collect_metrics)
        metrics.add_gauge("servers", "Servers that have a window", lambda: len(state.directory))
        metrics.add_gauge(
            "servers_ahead",
            "Servers whose newest row is ahead of the clock",
            lambda: len(state.ahead.contradicted_since),
        )
        metrics.add_counter(
            "servers_rewound",
            "Servers whose rows ahead of the clock were dropped",
            lambda: self.clock_watch.rewound_servers,
        )
        metrics.add_gauge("due", "Servers that wait for a lane", lambda: len(self.scheduler.due))
        metrics.add_gauge(
            "waiting", "Windows that wait for a lane, servers' and callers'", lambda: self.scheduler.waiting
        )
        metrics.add_gauge("in_flight", "Windows that lanes are running", lambda: self.pipeline.in_flight)
        metrics.add_gauge(
            "predict_calls", "Calls of /v1/predict that are not answered yet", lambda: self.scheduler.calls
        )
        metrics.add_gauge(
            "predict_waiting", "Windows of /v1/predict that wait for a lane", lambda: self.scheduler.waiting_requests
        )
        metrics.add_counter(
            "predict_dropped",
            "Windows of /v1/predict that were removed before they ran, because their call was over",
            lambda: self.scheduler.dropped_windows,
        )
        metrics.add_gauge("lanes", "Lanes that are able to run", lambda: len(self.pipeline.workers))
        metrics.add_gauge("subscribers", "Subscribers", lambda: len(self.hub))
        metrics.add_gauge(
            "state_unreadable",
            "Servers and forecasts that were freed at start, because their stored numbers are implausible",
            lambda: state.directory.unreadable + state.board.unreadable,
        )
        metrics.add_gauge(
            "state_set_aside", "Files of the state that could not be read at start", lambda: len(state.set_aside)
        )
        metrics.add_gauge("ready", "1 when able to answer", lambda: float(self.is_ready))
        metrics.add_gauge(
            "versions_passed_over", "Versions that should serve and cannot", lambda: len(self.passed_over)
        )
        metrics.add_gauge("uptime_seconds", "Since start", lambda: time.monotonic() - self.started)


class SlotOwners:
    """The state, and all other owners of data that belongs to a server by its slot."""

    def __init__(self, state: State, rows_due: RowsDue, owners: tuple[ServerForgotten, ...]) -> None:
        self._state = state
        self._rows_due = rows_due
        self._owners = owners

    def forget(self, slot: int) -> None:
        """Drop the data of a slot that gets another server, at every owner."""
        for owner in self._owners:
            owner.forget(slot)

    def rewind(self, slot: int, last_step: int) -> int:
        """Drop a server's rows after a step, and all that was computed from them; returns the number of rows."""
        dropped = self._state.rewind(slot, last_step)
        self.forget(slot)
        if self._state.is_unforecast(slot):
            self._rows_due.mark_due(slot, 1)
        return dropped


def build_service(
    state: State,
    model: str,
    server_ids: dict[str, int],
    limits: ServiceLimits,
    *,
    wall: Callable[[], float] = time.time,
    clock: Callable[[], float] = time.monotonic,
) -> Service:
    """Build a service; call it inside a running event loop. `wall` returns epoch seconds, `clock` monotonic seconds.

    samples → ingest → windows → due → (router) → scheduler → pipeline → lanes → sink → board → hub → subscribers
                                                                           └→ accuracy, router (of a shadow)
    """
    metrics = Metrics()
    hub = Hub(state.directory.capacity, state.directory.names)
    accuracy = LiveAccuracy(state, limits.accuracy)
    accuracy.follow(model)
    router = CandidateRouter()
    board_sink = BoardSink(state, hub, posted=(accuracy, router))
    load = IngestLoad()
    pipeline = Pipeline(
        state,
        _make_scheduler(state, limits),
        board_sink,
        Deployment(DeploymentSpec(name=model, server_ids=server_ids, open_backend=_open_nothing)),
        observer=metrics,
        router=router,
        rows_expected=load,
    )
    owners = SlotOwners(state, pipeline, (router, pipeline, board_sink, hub, accuracy, state.ahead))
    clock_watch = ClockWatch(
        state,
        accuracy,
        max_ahead_seconds=limits.max_ahead_seconds,
        recovery_seconds=limits.ahead_recovery_seconds,
        rewinder=owners,
        wall=wall,
        clock=clock,
    )
    ingest = Ingest(
        state,
        max_ahead_seconds=limits.max_ahead_seconds,
        load=load,
        rows_due=pipeline,
        server_forgotten=owners,
        server_contradicted=clock_watch,
        wall=wall,
    )
    return Service(
        state,
        limits,
        metrics=metrics,
        hub=hub,
        accuracy=accuracy,
        router=router,
        board_sink=board_sink,
        pipeline=pipeline,
        ingest=ingest,
        owners=owners,
        clock_watch=clock_watch,
    )


def _make_scheduler(state: State, limits: ServiceLimits) -> Scheduler:
    return Scheduler(
        state.snapshot,
        state.board.get_step,
        need=state.windows.need,
        max_queue_delay_seconds=limits.max_queue_delay_seconds,
        max_waiting_requests=limits.max_waiting_requests,
    )


def _open_nothing(exhausted: frozenset[str]) -> OpenedBackend:
    raise BackendUnavailableError("no version is loaded yet")
