"""Reports of a service: the content of `/v1/status`, and the metrics of `/metrics`."""

import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from streamd.regular_files import read_regular
from streamd.runtime.alerts.delivery import collect_delivery_metrics, describe_receivers
from streamd.runtime.remote_write.writer import collect_remote_write_metrics
from streamd.runtime.service import Service


def describe_status(service: Service, may_name: Callable[[str], bool]) -> dict[str, Any]:
    """Return the content of `/v1/status`; a server is named only if `may_name` says so."""
    contract, windows = service.contract, service.state.windows
    return {
        "engine": service.model,
        **service.engine.shown,
        "ready": service.is_ready,
        "draining": service.is_draining,
        "workers_away": service.others.list_away_workers(),
        "uptime_seconds": round(time.monotonic() - service.started, 3),
        "contract": {
            "features": list(contract.features),
            "targets": list(contract.targets),
            "units": dict(contract.units),
            "quantiles": list(contract.quantiles),
            "context_length": contract.context_length,
            "horizon": contract.horizon,
            "step_seconds": contract.step_seconds,
            "memory_length": service.served_contract.memory_length,
            "need": windows.need,
            "late_steps": windows.late_steps,
        },
        "lanes": [worker.describe() for worker in service.pipeline.workers],
        "lanes_lost": list(service.pipeline.serving.lost),
        "candidate": None if service.candidate is None else service.candidate.describe(),
        "servers": len(service.state.directory),
        "capacity": service.state.directory.capacity,
        "ahead": service.clock_watch.describe(may_name),
        "due": len(service.scheduler.due),
        "waiting": service.scheduler.waiting,
        "in_flight": service.pipeline.in_flight,
        "batches": service.metrics.describe_batches(),
        "stall": service.progress.stall or None,
        "predict": {
            "calls": service.scheduler.calls,
            "waiting": service.scheduler.waiting_requests,
            "dropped": service.scheduler.dropped_windows,
        },
        "rows": service.row_counts(),
        "samples": {
            "accepted": service.ingest.accepted,
            "rejected": dict(service.ingest.rejected),
            "refused_frames": dict(service.ingest.refused),
            "ignored_features": service.ingest.ignored_features,
        },
        "agents": service.collector.describe(),
        "subscribers": {"now": len(service.hub), "waiting": service.hub.waiting, "dropped": service.hub.dropped},
        "accuracy": service.accuracy.describe(),
        "accuracy_history": service.history.describe(),
        "alerts": _describe_alerts(service),
        "state_folder": service.storage.describe(),
        "memory": {"resident_bytes": int(_read_resident_memory_bytes())},
        "device_restarts": service.device_restarts,
        "recovered": {
            **service.state.recovered,
            "damaged_log_bytes": service.collector.point_log.damaged_bytes,
            "unreadable_forecasts": service.state.board.unreadable,
            "set_aside": service.state.set_aside,
        },
    }


def _describe_alerts(service: Service) -> dict[str, Any] | None:
    if service.alerts is None:
        return None
    return {**service.alerts.describe(), "receivers": describe_receivers(service.alert_delivery.senders)}


def register_metrics(service: Service) -> None:
    """Add the service's counts to its metrics; the lanes' times are there already."""
    _add_work_counts(service)
    _add_server_counts(service)
    _add_agent_counts(service)
    _add_history_counts(service)
    _add_queue_lengths(service)
    _add_condition(service)


def _add_work_counts(service: Service) -> None:
    metrics = service.metrics
    metrics.add_labelled_counter(
        "samples",
        "Samples by result",
        "result",
        lambda: {"accepted": service.ingest.accepted, **service.ingest.rejected},
    )
    metrics.add_labelled_counter(
        "refused_frames",
        "Bodies and frames that were rejected as a whole",
        "code",
        lambda: service.ingest.refused,
    )
    metrics.add_labelled_counter("rows", "Closed rows by their end", "state", service.row_counts)
    metrics.add_labelled_counter(
        "batches",
        "Micro-batches by the reason for their size",
        "reason",
        lambda: {str(reason): counts.batches for reason, counts in metrics.batches},
    )
    metrics.add_counter(
        "ignored_features", "Values of features that the model does not know", lambda: service.ingest.ignored_features
    )
    metrics.add_counter(
        "servers_forgotten",
        "Servers evicted because the capacity was reached",
        lambda: service.admission.forgotten_servers,
    )
    metrics.add_counter(
        "servers_refused",
        "Times that a new server got no window because all servers were seen lately",
        lambda: service.admission.refused,
    )
    metrics.add_counter("servers_deleted", "Servers forgotten on request", lambda: service.deleted_servers)
    metrics.add_counter("forecasts_dropped", "Forecasts that slow subscribers missed", lambda: service.hub.dropped)
    metrics.add_gauge("fleet_readers", "Readers of the overview of all servers", lambda: len(service.fleet))
    metrics.add_counter(
        "fleet_overview_seconds",
        "Processor time of the thread that makes the overview of all servers",
        lambda: service.fleet.busy_seconds,
    )
    metrics.add_counter(
        "fleet_overview_failures", "Times that the overview of all servers failed", lambda: service.fleet.failures
    )
    metrics.add_families(service.accuracy.collect_metrics)
    metrics.add_families(lambda: collect_remote_write_metrics(service.remote_write))
    if service.alerts is not None:
        metrics.add_families(service.alerts.collect_metrics)
    metrics.add_families(lambda: collect_delivery_metrics(service.alert_delivery.senders))
    metrics.add_labelled_counter(
        "trace_spans", "Spans of traces by their end, while tracing is on", "result", service.traces.count_spans
    )


def _add_server_counts(service: Service) -> None:
    metrics, state = service.metrics, service.state
    metrics.add_gauge("servers", "Servers that have a window", lambda: len(state.directory))
    metrics.add_gauge("max_servers", "Servers that may have a window at once", lambda: state.directory.capacity)
    metrics.add_gauge(
        "servers_ahead",
        "Servers whose newest row is ahead of the clock",
        lambda: len(state.ahead.contradicted_since),
    )
    metrics.add_counter(
        "servers_rewound",
        "Servers whose rows ahead of the clock were dropped",
        lambda: service.clock_watch.rewound_servers,
    )


def _add_agent_counts(service: Service) -> None:
    metrics, collector = service.metrics, service.collector
    metrics.add_labelled_counter("agent_points", "Points of other agents by result", "result", collector.count_points)
    metrics.add_labelled_counter(
        "agent_bodies",
        "Bodies of other agents by protocol",
        "protocol",
        lambda: {name: counts.bodies for name, counts in collector.counts.items()},
    )
    metrics.add_labelled_counter(
        "agent_refused_bodies",
        "Bodies of other agents that were rejected as a whole, by error code",
        "code",
        collector.count_refused_bodies,
    )
    metrics.add_labelled_counter(
        "rule_values", "Values that a mapping rule gave to rows", "rule", lambda: dict(collector.iterate_rule_counts())
    )
    metrics.add_counter(
        "agent_rows", "Rows written from the points of other agents, amendments included", lambda: collector.rows
    )
    metrics.add_gauge("series", "Series that are mapped", lambda: collector.table.series)
    metrics.add_gauge("points", "Points of rows that may still change", lambda: collector.points_kept)


def _add_history_counts(service: Service) -> None:
    metrics, history = service.metrics, service.history
    metrics.add_gauge("history_servers", "Servers that have an accuracy history", lambda: history.servers)
    metrics.add_gauge(
        "history_left_out", "Servers without a history because others took all places", lambda: history.left_out
    )
    metrics.add_gauge("history_forecasts", "Past forecasts in the accuracy history", lambda: history.forecasts)
    metrics.add_counter(
        "history_dropped", "Forecasts that were selected for the history and not stored", history.count_dropped
    )
    metrics.add_counter(
        "history_write_errors", "Times that the history could not be written", lambda: history.write_errors
    )


def _add_queue_lengths(service: Service) -> None:
    metrics = service.metrics
    metrics.add_gauge("due", "Servers that wait for a lane", lambda: len(service.scheduler.due))
    metrics.add_gauge(
        "waiting", "Windows that wait for a lane, servers' and callers'", lambda: service.scheduler.waiting
    )
    metrics.add_gauge("in_flight", "Windows that lanes are running", lambda: service.pipeline.in_flight)
    metrics.add_gauge(
        "predict_calls", "Calls of /v1/predict that are not answered yet", lambda: service.scheduler.calls
    )
    metrics.add_gauge(
        "predict_waiting", "Windows of /v1/predict that wait for a lane", lambda: service.scheduler.waiting_requests
    )
    metrics.add_counter(
        "predict_dropped",
        "Windows of /v1/predict that were removed before they ran, because their call was over",
        lambda: service.scheduler.dropped_windows,
    )
    metrics.add_gauge("lanes", "Lanes that are able to run", lambda: len(service.pipeline.workers))
    metrics.add_gauge(
        "lanes_lost", "Lanes of the version that serves that were lost", lambda: len(service.pipeline.serving.lost)
    )
    metrics.add_gauge(
        "fallbacks",
        "Backends that were passed over, each with a reason in /v1/status",
        lambda: len(service.engine.shown.get("fallbacks", ())),
    )
    metrics.add_gauge("subscribers", "Subscribers", lambda: len(service.hub))


def _add_condition(service: Service) -> None:
    metrics, state = service.metrics, service.state
    metrics.add_gauge(
        "state_unreadable",
        "Servers and forecasts that were freed at start, because their stored numbers are implausible",
        lambda: state.directory.unreadable + state.board.unreadable,
    )
    metrics.add_gauge(
        "state_set_aside", "Files of the state that could not be read at start", lambda: len(state.set_aside)
    )
    metrics.add_gauge(
        "state_lost_rows",
        "Rows that were missing at start because nothing proved them",
        lambda: state.recovered.get("lost_rows", 0),
    )
    metrics.add_gauge(
        "storage_degraded",
        "1 while the state folder cannot be written",
        lambda: float(service.storage.problem is not None),
    )
    metrics.add_gauge(
        "state_unsynced_seconds",
        "Age of the oldest change that may not be on the disk",
        lambda: service.storage.unsynced_seconds,
    )
    metrics.add_gauge(
        "device_restarts",
        "Restarts in the last hour because of a lost device",
        lambda: service.device_restarts,
    )
    metrics.add_gauge("ready", "1 when able to answer", lambda: float(service.is_ready))
    metrics.add_gauge(
        "work_stuck", "1 while windows wait or run and no batch ends", lambda: float(bool(service.progress.stall))
    )
    metrics.add_gauge("versions_passed_over", "Versions that should serve and cannot", lambda: len(service.passed_over))
    metrics.add_gauge("resident_memory_bytes", "Memory of the process", _read_resident_memory_bytes)
    metrics.add_gauge("uptime_seconds", "Since start", lambda: time.monotonic() - service.started)


def _read_resident_memory_bytes() -> float:
    pages = read_regular(Path("/proc/self/statm")).split()[1]
    return float(int(pages) * resource.getpagesize())
