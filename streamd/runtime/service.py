"""The daemon without its sockets: state, ingest, pipeline and fan-out, as `build_service` wires them together.

The `http` package calls it. The `server` package builds it, and loads the versions that give it lanes.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import structlog

from streamd.core.accuracy.history_selection import HistoryLimits
from streamd.core.accuracy.pending import AccuracyLimits
from streamd.core.arrays import Numbers, Slots
from streamd.core.contract import ModelContract
from streamd.core.errors import StreamdError, UnavailableError
from streamd.core.forecast_export.choice import ExportSettings
from streamd.core.state.window_copies import CopiedWindow, copy_window
from streamd.runtime.accuracy.live import LiveAccuracy
from streamd.runtime.admission import EVICT_AFTER_SECONDS, Admission, ServerForgotten
from streamd.runtime.aggregation.collector import Collector
from streamd.runtime.alerts.delivery import AlertDelivery
from streamd.runtime.alerts.monitor import follow_alerts
from streamd.runtime.clock_watch import ClockWatch
from streamd.runtime.fleet.overview import FleetOverview
from streamd.runtime.garbage import GarbageFreezer
from streamd.runtime.hub import Hub
from streamd.runtime.inference_statistics import InferenceCall, InferenceStatistics
from streamd.runtime.ingest import Ingest
from streamd.runtime.lanes.pipeline import Pipeline
from streamd.runtime.lanes.progress import ProgressWatch
from streamd.runtime.lanes.sinks import BoardSink, ResultSink
from streamd.runtime.metrics import Metrics
from streamd.runtime.outputs import ForecastOutputs
from streamd.runtime.predict import Prediction
from streamd.runtime.predict_calls import PredictCalls
from streamd.runtime.process_links import OtherProcesses
from streamd.runtime.remote_write.writer import RemoteWriteSettings
from streamd.runtime.state.state import State
from streamd.runtime.state.storage_watch import StorageWatch
from streamd.runtime.traces import Traces
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
    rows_are_means: bool = False
    """Whether the rows of plain samples are means; those of foreign protocols always are."""
    evict_after_seconds: float = EVICT_AFTER_SECONDS
    max_series: int = 2_000_000
    max_points: int = 50_000_000
    accuracy: AccuracyLimits = field(default_factory=AccuracyLimits)
    history: HistoryLimits = field(default_factory=HistoryLimits)
    exports: ExportSettings = field(default_factory=ExportSettings)
    """The forecasts that leave as metrics; without globs of servers, none does."""
    remote_write: RemoteWriteSettings | None = None


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
        outputs: ForecastOutputs,
        fleet: FleetOverview,
        router: CandidateRouter,
        board_sink: BoardSink,
        sink: ResultSink,
        pipeline: Pipeline,
        admission: Admission,
        ingest: Ingest,
        collector: Collector,
        owners: ServerForgotten,
        others: OtherProcesses,
        fences: Numbers | None,
        resumes_before: int,
        limit_reader_id: Callable[[int], int] | None,
        clock_watch: ClockWatch,
        progress: ProgressWatch,
        inference_statistics: InferenceStatistics,
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
        self.history = outputs.history
        self.exports = outputs.exports
        """The forecasts that leave as metrics, if any do."""
        self.remote_write = outputs.remote_write
        self.alerts = outputs.alerts
        """The alerts; `None` in a process that evaluates no rules."""
        self.alert_subscriptions = follow_alerts(outputs.alerts)
        """The readers of alerts."""
        self.alert_delivery = AlertDelivery()
        """The senders of alerts, one for each receiver."""
        self.fleet = fleet
        """The overview of all servers, for those who look at it."""
        self.router = router
        self.board_sink = board_sink
        self.sink = sink
        """The sink of the version that serves: that of the board, or in a cluster the one before it."""
        self.fences = fences
        """By slot: the fence of the latest forecast in a cluster; `None` outside of one."""
        self.resumes_before = resumes_before
        """How far before its id a reader continues, in serials."""
        self.limit_reader_id = limit_reader_id
        """Returns the id that a reader gets in place of one; `None` outside of a cluster."""
        self.pipeline = pipeline
        self.scheduler = pipeline.scheduler
        self.pauses = pipeline.pauses
        self.traces: Traces = pipeline.traces
        self.admission = admission
        self.ingest = ingest
        self.collector = collector
        self.owners = owners
        self.others = others
        """The other processes of this daemon."""
        self.clock_watch = clock_watch
        self.progress = progress
        self.inference_statistics = inference_statistics
        self.predict_calls = PredictCalls(
            self.contract,
            pipeline,
            pipeline.pauses,
            max_waiting=limits.max_waiting_requests,
            timeout_seconds=limits.predict_timeout_seconds,
        )
        self.storage = StorageWatch(state.folder, self.flush, state.find_shortage)
        self.device_restarts = 0
        """Restarts of the daemon in the last hour because of a lost device."""
        self.deleted_servers = 0
        """The number of servers since start that were forgotten on request."""
        self.candidate: Candidate | None = None
        """The candidate, if there is one."""
        self._candidate_rows: Counter[str] = Counter()  # of canaries that have ended
        self.garbage = GarbageFreezer(lambda: collector.table.created, lambda: collector.table.series)
        self._sweep_timer: asyncio.TimerHandle | None = None
        self._was_ready: bool | None = None  # until the first lanes are warm, which the daemon logs

    def begin(self) -> None:
        """Restore open rows, start timers, and queue the rows that the former process closed but did not forecast."""
        self.restore()
        self.watch()

    def restore(self) -> None:
        """Restore open rows, and queue the rows that the former process closed but did not forecast."""
        self.history.open()
        self.collector.restore()
        self.pipeline.mark_due_many(np.array(self.state.find_unforecast(), np.int64))

    async def start_alerts(self) -> None:
        """Start the alerts, if there are any; returns when those of the former process are active again."""
        if self.alerts is not None:
            await self.alerts.start()
            if not self.alerts.is_kept_elsewhere:
                self.alert_subscriptions.begin()

    def watch(self, *, closes_rows: bool = True) -> None:
        """Start the timers; without `closes_rows`, other processes close the rows whose grace is over."""
        self.pauses.watch()
        if closes_rows:
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
    def served_contract(self) -> ModelContract:
        """The contract with the memory that the version which serves asks for, not with the one that is kept."""
        return replace(self.contract, memory_length=self.pipeline.serving.spec.memory_length)

    @property
    def passed_over(self) -> list[dict[str, str]]:
        """The versions that should serve and cannot: the `name`, the `rule` that chose it and the `reason` of each."""
        return list(self.engine.shown.get("passed_over", ()))

    async def predict(
        self, inputs: Mapping[str, npt.NDArray[Any]], followed: InferenceCall | None = None
    ) -> Prediction:
        """Forecast a caller's windows; the batches they are in are noted for a call that is `followed`.

        Raises `InvalidInputError` if the inputs violate the contract, `UnavailableError` if there is no lane,
        `TooBusyError` if the queue is full or the time is over, and `InferenceError` if a window failed.
        """
        answered: asyncio.Future[Prediction] = asyncio.get_running_loop().create_future()

        def end(result: Prediction | StreamdError) -> None:
            if answered.done():
                return  # the caller was cancelled in this turn of the loop
            if isinstance(result, StreamdError):
                answered.set_exception(result)
            else:
                answered.set_result(result)

        request = self.predict_calls.begin(inputs, end)
        try:
            if followed is None:
                return await answered
            with self.inference_statistics.follow(request, followed, request.since):
                return await answered
        finally:
            self.predict_calls.cancel(request)

    def note_sent(self, slots: Slots) -> None:
        """Note that the newest forecasts of these slots were sent to a subscriber."""
        self.metrics.observe_sent(self.board_sink.received[slots])
        self.traces.forecasts_sent(slots)

    def forget(self, slot: int) -> None:
        """Forget a server and all its data; a forecast of it that runs is not delivered."""
        server = self.state.directory.names[slot]
        self.state.forget(slot)
        self.owners.forget(slot)
        if server is not None:
            self.admission.forget_name(server)
        self.deleted_servers += 1
        log.info("server_deleted", server=server)

    async def drain(self) -> None:
        """Reject new work and finish what waits and runs. The caller limits the time."""
        self.is_draining = self.predict_calls.is_draining = self.ingest.is_draining = self.collector.is_draining = True
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
        self.garbage.close()
        self.predict_calls.close()
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
        if self.alerts is not None:
            self.alerts.close()  # before the state, which it reads
        self.fleet.close()  # likewise
        self.collector.close()
        self.history.close()
        self.state.close()

    def flush(self) -> None:
        """Write the state and the points of open rows through to the disk; blocks, and may be called in a thread."""
        self.state.flush()
        self.collector.point_log.flush()

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

    def copy_window(self, slot: int) -> tuple[npt.NDArray[np.float32], CopiedWindow]:
        """Return a copy of a server's window, `(context_length, features) float32`, oldest row first.

        Raises `UnavailableError` if another process of the daemon ended while it changed the window.
        """
        shape = self.contract.input_shapes["encoder_cont"]
        values = np.empty(shape, np.float32)
        copied = copy_window(self.state.windows, slot, values, np.empty(shape[0], np.int32))
        if copied is None:
            raise UnavailableError("the window is being repaired")
        return values, copied

    # ------------------------------------------------------------ upkeep
    def note_readiness(self) -> None:
        """Log, once, that the last lane is gone, and that there is one again."""
        is_ready = self.pipeline.is_ready
        if self._was_ready is not None and is_ready != self._was_ready and not self.is_draining:
            if is_ready:
                log.info("lanes_back", lanes=len(self.pipeline.workers), due=len(self.scheduler.due))
            else:
                log.error("no_lane", lost=list(self.pipeline.serving.lost)[-1:], due=len(self.scheduler.due))
        if is_ready or self._was_ready is not None:
            self._was_ready = is_ready

    def _sweep(self) -> None:
        self.note_readiness()
        if not self.pipeline.holds_grace():
            self.collector.close_overdue_rows()
        self.garbage.sweep()
        self.accuracy.sweep()
        self.history.sweep()
        self.clock_watch.sweep()
        self.progress.observe()
        self._sweep_timer = asyncio.get_running_loop().call_later(SWEEP_SECONDS, self._sweep)
