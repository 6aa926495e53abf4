"""Wires the parts of the daemon together: state, ingest, pipeline and fan-out become a `Service`."""

import time
from collections.abc import Callable, Mapping, Sequence

from streamd.core.aggregation.points import count_retained_steps
from streamd.core.alerts.settings import AlertSettings
from streamd.core.arrays import Slots
from streamd.core.errors import BackendUnavailableError
from streamd.core.mapping.mapping import RuleMapping
from streamd.core.mapping.rules import RuleSet
from streamd.core.mapping.samples import STATUS_FEATURE, make_sample_rules
from streamd.core.scheduling.scheduler import Scheduler
from streamd.inference.opening import OpenedBackend
from streamd.runtime.accuracy.live import LiveAccuracy
from streamd.runtime.admission import Admission, ServerForgotten
from streamd.runtime.aggregation.collector import Collector, CollectorLimits
from streamd.runtime.aggregation.mean_samples import MeanSamples
from streamd.runtime.aggregation.point_log import PointLog
from streamd.runtime.clock_watch import ClockWatch
from streamd.runtime.due_batch import RowsDue
from streamd.runtime.fleet.overview import FleetOverview
from streamd.runtime.hub import Hub
from streamd.runtime.inference_statistics import InferenceStatistics
from streamd.runtime.ingest import Ingest, IngestLoad
from streamd.runtime.lanes.deployment import Deployment, DeploymentSpec
from streamd.runtime.lanes.pipeline import Pipeline
from streamd.runtime.lanes.pipeline_interfaces import DueRouter
from streamd.runtime.lanes.progress import ProgressWatch
from streamd.runtime.lanes.sinks import BoardSink, ForecastPosted
from streamd.runtime.metrics import Metrics
from streamd.runtime.outputs import ForecastOutputs, make_forecast_outputs
from streamd.runtime.process_links import ALONE, ProcessLinks
from streamd.runtime.service import Service, ServiceLimits
from streamd.runtime.service_report import register_metrics
from streamd.runtime.state.state import State
from streamd.runtime.traces import NO_TRACES, Traces
from streamd.runtime.versions.candidate import CandidateRouter


class SlotOwners:
    """The state, and all other owners of data that belongs to a server by its slot."""

    def __init__(self, state: State, rows_due: RowsDue, owners: tuple[ServerForgotten, ...]) -> None:
        self._state = state
        self._rows_due = rows_due
        self._owners = list(owners)

    def add_owner(self, owner: ServerForgotten) -> None:
        """Add an owner that itself gives servers a slot, and so needs this object first."""
        self._owners.append(owner)

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


class TracedRouter:
    """A router that reports due servers to the traces first; used only while tracing is on."""

    def __init__(self, traces: Traces, router: DueRouter, names: Sequence[str | None]) -> None:
        self._traces = traces
        self._router = router
        self._names = names

    def route_due(self, slot: int, rows: int) -> bool:
        """Route a due server as the other router does."""
        self._traces.row_due(slot, self._names[slot] or "")
        return self._router.route_due(slot, rows)

    def route_due_many(self, slots: Slots) -> Slots:
        """Route due servers as the other router does."""
        for slot in slots.tolist():
            self._traces.row_due(slot, self._names[slot] or "")
        return self._router.route_due_many(slots)


def build_service(
    state: State,
    model: str,
    server_ids: dict[str, int],
    limits: ServiceLimits,
    *,
    rule_sets: Sequence[RuleSet] = (),
    wall: Callable[[], float] = time.time,
    clock: Callable[[], float] = time.monotonic,
    traces: Traces = NO_TRACES,
    links: ProcessLinks = ALONE,
    alerts: AlertSettings | None = None,
) -> Service:
    """Build a service; call it inside a running event loop. `wall` returns epoch seconds, `clock` monotonic seconds.

    samples → ingest → windows → due → (router) → scheduler → pipeline → lanes → sink → board → hub → subscribers
    points → collector → ┘                                                 └→ accuracy, router (of a shadow),
                                                                              outputs (history, remote write, alerts)
    Without `alerts`, no rules are evaluated. Raises `ConfigError` if a rule does not fit the contract.
    """
    metrics = Metrics()
    hub = Hub(state.directory.capacity, state.directory.names, state.directory.slots, links.interest)
    accuracy = LiveAccuracy(state, limits.accuracy)
    accuracy.follow(model)
    outputs = _make_outputs(state, limits, alerts, links, wall, clock)
    router = CandidateRouter()
    posted: tuple[ForecastPosted, ...] = (accuracy, router, *outputs.listeners)
    board_sink = BoardSink(state, links.publisher or hub, posted=posted, received=links.received)
    sink = board_sink if links.wrap_sink is None else links.wrap_sink(board_sink)
    load = IngestLoad()
    statistics = InferenceStatistics(wall=wall)
    pipeline = Pipeline(
        state,
        _make_scheduler(state, limits),
        sink,
        make_empty_deployment(model, server_ids),
        observer=metrics,
        answers_observer=statistics,
        router=_make_due_router(state, links, router, traces),
        rows_expected=load,
        holds_grace=links.holds_grace,
        traces=traces,
    )
    owners = SlotOwners(
        state,
        pipeline,
        (router, pipeline, board_sink, hub, accuracy, state.ahead, traces, *outputs.owners, *links.owners),
    )
    clock_watch = ClockWatch(
        state,
        accuracy,
        max_ahead_seconds=limits.max_ahead_seconds,
        recovery_seconds=limits.ahead_recovery_seconds,
        rewinder=links.rewinder or owners,
        wall=wall,
        clock=clock,
    )
    admission = Admission(state, owners, limits.evict_after_seconds, links.slot_giver)
    ingest = Ingest(
        state,
        max_ahead_seconds=limits.max_ahead_seconds,
        load=load,
        admission=admission,
        rows_due=pipeline,
        server_contradicted=clock_watch,
        wall=wall,
    )
    collector = Collector(
        state,
        _make_mapping(state, rule_sets, takes_samples=limits.rows_are_means),
        _make_point_log(state),
        _make_collector_limits(state, limits),
        load=load,
        admission=admission,
        rows_due=pipeline,
        server_contradicted=clock_watch,
        wall=wall,
        clock=clock,
        row_writer=links.row_writer,
    )
    owners.add_owner(collector)
    if limits.rows_are_means:
        ingest.points = MeanSamples(collector, ingest, wall)
    service = Service(
        state,
        limits,
        metrics=metrics,
        hub=hub,
        accuracy=accuracy,
        outputs=outputs,
        fleet=FleetOverview(state, outputs.alerts, wall=wall, clock=clock),
        router=router,
        board_sink=board_sink,
        sink=sink,
        pipeline=pipeline,
        admission=admission,
        ingest=ingest,
        collector=collector,
        owners=owners,
        others=links.others,
        fences=links.fences,
        resumes_before=links.resumes_before,
        limit_reader_id=links.limit_reader_id,
        clock_watch=clock_watch,
        progress=ProgressWatch(state, pipeline),
        inference_statistics=statistics,
    )
    register_metrics(service)
    return service


def _make_outputs(
    state: State,
    limits: ServiceLimits,
    alerts: AlertSettings | None,
    links: ProcessLinks,
    wall: Callable[[], float],
    clock: Callable[[], float],
) -> ForecastOutputs:
    return make_forecast_outputs(
        state,
        history=limits.history,
        exports=limits.exports,
        remote_write=limits.remote_write,
        alerts=alerts,
        shared_alerts=links.shared_alerts,
        wall=wall,
        clock=clock,
    )


def _make_due_router(state: State, links: ProcessLinks, candidates: DueRouter, traces: Traces) -> DueRouter:
    router = links.due_router or candidates
    if links.wrap_due_router is not None:
        router = links.wrap_due_router(router)
    return router if traces is NO_TRACES else TracedRouter(traces, router, state.directory.names)


def _make_scheduler(state: State, limits: ServiceLimits) -> Scheduler:
    return Scheduler(
        state.snapshot_many,
        state.board.get_steps,
        capacity=state.directory.capacity,
        need=state.windows.need,
        max_queue_delay_seconds=limits.max_queue_delay_seconds,
        max_waiting_requests=limits.max_waiting_requests,
    )


def _make_mapping(state: State, rule_sets: Sequence[RuleSet], *, takes_samples: bool) -> RuleMapping:
    features = state.contract.features
    samples = (make_sample_rules(features),) if takes_samples else ()
    return RuleMapping((*samples, *rule_sets), (*features, STATUS_FEATURE))


def _make_point_log(state: State) -> PointLog:
    step = state.contract.step_seconds
    # A row can change while its step is among those, and one more holds where its counters begin.
    return PointLog(
        state.folder / "points", segment_seconds=step, retention_seconds=(count_retained_steps(step) + 2) * step
    )


def _make_collector_limits(state: State, limits: ServiceLimits) -> CollectorLimits:
    return CollectorLimits(
        max_series=limits.max_series,
        max_points=limits.max_points,
        grace_seconds=state.windows.grace_seconds,
        max_ahead_seconds=limits.max_ahead_seconds,
    )


def make_empty_deployment(name: str, server_ids: Mapping[str, int] | None = None) -> Deployment:
    """Make a deployment without lanes, which has the name of a version that is to be loaded, or serves elsewhere."""
    return Deployment(DeploymentSpec(name=name, server_ids=dict(server_ids or {}), open_backend=_open_nothing))


def _open_nothing(exhausted: frozenset[str]) -> OpenedBackend:
    raise BackendUnavailableError("no version is loaded yet")
