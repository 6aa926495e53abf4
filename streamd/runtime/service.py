"""The daemon without its doors: state, ingest, pipeline and fan-out, wired together.

The transport calls it; the composition root makes it and gives it lanes.
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
from streamd.core.contract import ModelContract
from streamd.core.errors import DrainingError, TooBusyError, UnavailableError
from streamd.core.scheduling.scheduler import Scheduler
from streamd.inference.lane import Float32
from streamd.runtime.accuracy.live import LiveAccuracy
from streamd.runtime.clock_watch import ClockWatch
from streamd.runtime.hub import Hub
from streamd.runtime.ingest import Ingest
from streamd.runtime.lanes.deployment import Model
from streamd.runtime.lanes.pipeline import Pipeline
from streamd.runtime.metrics import Metrics
from streamd.runtime.pauses import Pauses
from streamd.runtime.predict import Predicted, PredictRequest
from streamd.runtime.state.state import State
from streamd.runtime.versions.candidate import Candidate, row_counts

log = structlog.get_logger(__name__)

JOIN_SECONDS = 2.0
"""How long closing waits for all lanes' threads together."""

SWEEP_SECONDS = 1.0
"""How often past forecasts are looked at for rows that have come, and what is stored for what lies ahead."""


@dataclass(frozen=True)
class ServiceLimits:
    """The bounds of what may wait, and for how long."""

    max_queue_delay_seconds: float = 0.005
    max_ahead_seconds: float = 300.0
    max_waiting_requests: int = 8_192
    predict_timeout_seconds: float = 30.0
    ahead_recovery_seconds: float = 60.0
    accuracy: AccuracyLimits = field(default_factory=AccuracyLimits)


class Service:
    """One model's daemon. Make it inside a running event loop."""

    def __init__(
        self,
        state: State,
        model: str,
        server_ids: dict[str, int],
        limits: ServiceLimits,
        *,
        wall: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.state = state
        self.contract: ModelContract = state.contract
        self.limits = limits
        self.started = time.monotonic()
        self.engine: dict[str, Any] = {}
        """What `/v1/status` tells of the backend: filled by the composition root."""
        self.draining = False
        self.deleted_servers = 0
        """Servers that were forgotten because a caller wanted it, since start."""
        self.metrics = Metrics()
        self.hub = Hub(state.directory.capacity, state.directory.names)
        self.scheduler = Scheduler(
            self._snapshot,
            state.board.step,
            need=state.windows.need,
            max_queue_delay_seconds=limits.max_queue_delay_seconds,
            max_waiting_requests=limits.max_waiting_requests,
        )
        self.pauses = Pauses()
        self.pipeline = Pipeline(
            state,
            self.scheduler,
            Model(model.encode(), server_ids),
            publish=self.hub.publish,
            more_comes=lambda: self.ingest.busy > 0,
            observer=self.metrics,
            pauses=self.pauses,
        )
        self.accuracy = LiveAccuracy(state, limits.accuracy)
        self.accuracy.follow(model)
        self.pipeline.on_posted = self.accuracy.posted
        self.clock_watch = ClockWatch(
            state,
            self.accuracy,
            max_ahead_seconds=limits.max_ahead_seconds,
            recovery_seconds=limits.ahead_recovery_seconds,
            rewind=self._rewind,
            wall=wall,
            clock=clock,
        )
        self._sweep_timer: asyncio.TimerHandle | None = None
        self.candidate: Candidate | None = None
        """The version on trial, if there is one."""
        self._candidate_rows: Counter[str] = Counter()  # of canaries whose trial is over
        self.ingest = Ingest(
            state,
            max_ahead_seconds=limits.max_ahead_seconds,
            on_due=self.pipeline.mark_due,
            on_forget=self._forget,
            on_contradicted=self.clock_watch.contradict,
            wall=wall,
        )
        self._register_metrics()

    def begin(self) -> None:
        """Take up what a restart found: rows that closed but were not forecast run first."""
        for slot in self.state.unforecast():
            self.pipeline.mark_due(slot, 1)
        self.pauses.watch()
        self.pipeline.watch_grace()
        self._sweep()

    @property
    def ready(self) -> bool:
        """Able to answer now: a lane is warm, and the daemon is not stopping."""
        return self.pipeline.ready and not self.draining

    @property
    def model(self) -> str:
        """The name of the version that serves."""
        return self.pipeline.serving.model.text

    @property
    def passed_over(self) -> list[dict[str, str]]:
        """The versions that should serve and cannot: of each its `name`, the `rule` that chose it and the `reason`."""
        return list(self.engine.get("passed_over", ()))

    async def predict(self, inputs: Mapping[str, npt.NDArray[Any]]) -> Predicted:
        """Forecast a caller's windows.

        Raises `InvalidInputError` for what the contract does not allow, `UnavailableError` where no lane or no
        room is there, `InferenceError` where a window failed.
        """
        if self.draining:
            raise DrainingError("the daemon is stopping")
        if not self.pipeline.ready:
            raise UnavailableError("no lane is ready yet")
        request = PredictRequest(self.contract, inputs)
        try:
            async with self.pauses.timeout(self.limits.predict_timeout_seconds):
                predictions, model = await self._predictions(request)
        except TimeoutError as exc:
            seconds = self.limits.predict_timeout_seconds
            raise TooBusyError(f"no forecast within {seconds:g} s") from exc
        finally:
            # However the call ends (an answer, an error, its time, a caller who left), nothing runs for it any more.
            self.pipeline.drop_request(request)
        return Predicted(predictions.reshape(request.windows, *self.contract.output_shape), request.batched, model)

    async def _predictions(self, request: PredictRequest) -> tuple[Float32, str]:
        while True:
            if not self.pipeline.add_request(request, request.windows):
                raise TooBusyError(f"{self.limits.max_waiting_requests} windows of callers may wait, and as many do")
            predictions = await request.future
            if len(request.models) == 1:
                return predictions, request.models.pop()
            request.begin()  # the version changed in the middle: half of one and half of another is neither's answer

    def handed_over(self, slots: Iterable[int]) -> None:
        """Note that the latest forecasts of these slots went to a subscriber's socket."""
        self.metrics.handed_over(map(self.pipeline.received.get, slots))

    def forget(self, slot: int) -> None:
        """Forget a server for good, wherever something of it is held; what is under way for it is not delivered."""
        server = self.state.directory.names[slot]
        self.state.forget(slot)
        self._forget(slot)
        self.deleted_servers += 1
        log.info("server_deleted", server=server)

    async def drain(self) -> None:
        """Take nothing more and finish what is under way; whoever calls bounds the time."""
        self.draining = self.ingest.draining = True
        while self.ingest.busy:
            await asyncio.sleep(0)
        while not (self.pipeline.settled and (self.candidate is None or self.candidate.settled)):
            if self.candidate is not None:
                await self.candidate.settle()
            await self.pipeline.settle()

    @property
    def undelivered(self) -> int:
        """Windows that wait or run, and forecasts that no reader took: after a drain, what it left behind."""
        candidate = 0 if self.candidate is None else self.candidate.unfinished
        return self.pipeline.unfinished + candidate + self.hub.waiting + self.hub.left_unread

    def candidate_ended(self, candidate: Candidate) -> None:
        """Note that a trial is over; what became of its rows still counts."""
        self._candidate_rows.update(candidate.delivered_rows())
        self.candidate = None

    def close(self) -> None:
        """Stop the lanes, also those that still warm, wait a little for their threads, and write the state through."""
        self.pauses.close()
        if self._sweep_timer is not None:
            self._sweep_timer.cancel()
        trials = [] if self.candidate is None else [self.candidate.pipeline]
        workers = set(self.pipeline.closing_lanes.running)
        for pipeline in (self.pipeline, *trials):
            pipeline.stop()
            workers.update(pipeline.all_workers)
        for worker in workers:
            worker.stop()
        until = time.monotonic() + JOIN_SECONDS
        for worker in workers:
            worker.join(max(until - time.monotonic(), 0.0))
        self.state.close()

    # ------------------------------------------------------------ telling
    def status(self) -> dict[str, Any]:
        """What `/v1/status` shows."""
        contract, windows = self.contract, self.state.windows
        return {
            "engine": self.model,
            **self.engine,
            "ready": self.ready,
            "draining": self.draining,
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
            "lanes": [worker.status() for worker in self.pipeline.workers],
            "lanes_lost": list(self.pipeline.lost),
            "candidate": None if self.candidate is None else self.candidate.status(),
            "servers": len(self.state.directory),
            "capacity": self.state.directory.capacity,
            "ahead": self.clock_watch.status(),
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
            "accuracy": self.accuracy.status(),
            "recovered": {
                **self.state.recovered,
                "unreadable_forecasts": self.state.board.unreadable,
                "set_aside": self.state.set_aside,
            },
        }

    def row_counts(self) -> dict[str, int]:
        """Where the closed rows went since start: due = delivered + superseded + failed + forgotten + waiting."""
        counts = Counter(row_counts(self.scheduler)) + self._candidate_rows
        if self.candidate is not None:
            counts.update(self.candidate.delivered_rows())
        return {
            "closed": self.state.windows.closed_rows,
            "warming": self.state.windows.warming_rows,
            **{name: counts[name] for name in row_counts(self.scheduler)},
        }

    def window(self, slot: int) -> npt.NDArray[np.float32]:
        """Return a copy of a server's window, `(context_length, features) float32`, oldest row first."""
        shape = self.contract.input_shapes["encoder_cont"]
        values = np.empty(shape, np.float32)
        self.state.windows.gather(slot, values, np.empty(shape[0], np.int32))
        return values

    # ------------------------------------------------------------ wiring
    def _snapshot(self, slot: int) -> tuple[int, int, int]:
        windows = self.state.windows
        return self.state.directory.generations[slot], windows.newest(slot), windows.have[slot]

    def _forget(self, slot: int) -> None:
        self.pipeline.forget(slot)
        self.hub.forget(slot)
        self.accuracy.forget(slot)
        self.state.ahead.forget(slot)

    def _rewind(self, slot: int, last_step: int) -> int:
        dropped = self.state.rewind(slot, last_step)
        self._forget(slot)  # nothing that anyone holds of it is to be trusted
        if self.state.is_unforecast(slot):
            self.pipeline.mark_due(slot, 1)
        return dropped

    def _sweep(self) -> None:
        self.accuracy.sweep()
        self.clock_watch.sweep()
        self._sweep_timer = asyncio.get_running_loop().call_later(SWEEP_SECONDS, self._sweep)

    def _register_metrics(self) -> None:
        metrics, state = self.metrics, self.state
        metrics.labelled(
            "samples",
            "Samples by result",
            "result",
            lambda: {"accepted": self.ingest.accepted, **self.ingest.rejected},
        )
        metrics.labelled(
            "refused_frames",
            "Bodies and frames of which nothing could be taken",
            "code",
            lambda: self.ingest.refused,
        )
        metrics.labelled("rows", "Closed rows by what became of them", "state", self.row_counts)
        metrics.counter(
            "ignored_features", "Values of features that the model does not know", lambda: self.ingest.ignored_features
        )
        metrics.counter(
            "servers_forgotten", "Servers forgotten for want of room", lambda: self.ingest.forgotten_servers
        )
        metrics.counter("servers_deleted", "Servers forgotten because a caller wanted it", lambda: self.deleted_servers)
        metrics.counter("forecasts_dropped", "Forecasts that slow subscribers missed", lambda: self.hub.dropped)
        metrics.families(self.accuracy.families)
        metrics.gauge("servers", "Servers that have a window", lambda: len(state.directory))
        metrics.gauge(
            "servers_ahead", "Servers whose newest row lies ahead of the clock", lambda: len(state.ahead.since)
        )
        metrics.counter(
            "servers_rewound",
            "Servers whose rows ahead of the clock were dropped",
            lambda: self.clock_watch.rewound_servers,
        )
        metrics.gauge("due", "Servers that wait for their turn", lambda: len(self.scheduler.due))
        metrics.gauge("waiting", "Windows that wait for a lane, servers' and callers'", lambda: self.scheduler.waiting)
        metrics.gauge("in_flight", "Windows that lanes are running", lambda: self.pipeline.in_flight)
        metrics.gauge("predict_calls", "Calls of /v1/predict that are not answered yet", lambda: self.scheduler.calls)
        metrics.gauge(
            "predict_waiting", "Windows of /v1/predict that wait for a lane", lambda: self.scheduler.waiting_requests
        )
        metrics.counter(
            "predict_dropped",
            "Windows of /v1/predict that were removed before they ran: nobody waited for them any more",
            lambda: self.scheduler.dropped_windows,
        )
        metrics.gauge("lanes", "Lanes that are able to run", lambda: len(self.pipeline.workers))
        metrics.gauge("subscribers", "Subscribers", lambda: len(self.hub))
        metrics.gauge(
            "state_unreadable",
            "Servers and forecasts that were freed at the start: what was stored of them makes no sense",
            lambda: state.directory.unreadable + state.board.unreadable,
        )
        metrics.gauge("state_set_aside", "Files of the state that could not be read", lambda: len(state.set_aside))
        metrics.gauge("ready", "1 when able to answer", lambda: float(self.ready))
        metrics.gauge("versions_passed_over", "Versions that should serve and cannot", lambda: len(self.passed_over))
        metrics.gauge("uptime_seconds", "Since start", lambda: time.monotonic() - self.started)
