"""The limits that the settings give to the parts of the daemon."""

from streamd.core.accuracy.history_selection import HistoryLimits
from streamd.core.accuracy.pending import AccuracyLimits
from streamd.core.forecast_export.choice import ExportSettings
from streamd.http.requests import TransportLimits
from streamd.runtime.remote_write.writer import RemoteWriteSettings
from streamd.runtime.service import ServiceLimits
from streamd.runtime.state.state import WindowLimits
from streamd.server.config import Config
from streamd.server.descriptors import limit_connections


def make_transport_limits(config: Config) -> TransportLimits:
    """Return the limits on requests, sockets and event streams."""
    server = config.server
    return TransportLimits(
        max_body_bytes=server.max_body_bytes,
        max_frame_bytes=server.max_frame_bytes,
        max_pending_body_bytes=server.max_pending_body_bytes,
        max_sockets=server.max_sockets,
        max_connections=limit_connections(server.max_connections),
        head_timeout_seconds=server.head_timeout_seconds,
        idle_timeout_seconds=server.idle_timeout_seconds,
        body_timeout_seconds=server.body_timeout_seconds,
        send_timeout_seconds=server.send_timeout_seconds,
        heartbeat_seconds=server.heartbeat_seconds,
    )


def make_window_limits(config: Config) -> WindowLimits:
    """Return the limits of windows."""
    return WindowLimits(
        capacity=config.state.max_servers,
        need=config.windows.min_context_rows,
        late_steps=config.windows.late_tolerance_steps,
        grace_seconds=config.windows.row_grace_seconds,
        has_memory=config.windows.memory,
    )


def make_service_limits(config: Config) -> ServiceLimits:
    """Return the limits of queues and of waiting times."""
    return ServiceLimits(
        max_queue_delay_seconds=config.batching.max_queue_delay_ms / 1e3,
        max_ahead_seconds=config.windows.max_ahead_seconds,
        ahead_recovery_seconds=config.windows.ahead_recovery_seconds,
        max_waiting_requests=config.batching.max_waiting_requests,
        predict_timeout_seconds=config.batching.predict_timeout_seconds,
        rows_are_means=config.windows.aggregation == "mean",
        evict_after_seconds=config.state.evict_after_seconds,
        max_series=config.mapping.max_series,
        max_points=config.mapping.max_points,
        accuracy=_make_accuracy_limits(config),
        history=_make_history_limits(config),
        exports=_make_export_settings(config),
        remote_write=_make_remote_write_settings(config),
    )


def _make_accuracy_limits(config: Config) -> AccuracyLimits:
    accuracy, periods = config.accuracy, AccuracyLimits().periods
    return AccuracyLimits(
        scored_servers=accuracy.scored_servers,
        settle_steps=accuracy.score_after_steps,
        period_steps=-(-accuracy.accuracy_window_steps // periods),  # rounded up
    )


def _make_export_settings(config: Config) -> ExportSettings:
    metrics = config.forecast_metrics
    return ExportSettings(
        servers=metrics.forecast_servers,
        targets=metrics.forecast_targets,
        quantiles=metrics.forecast_quantiles,
        horizons=metrics.forecast_horizons,
        max_series=metrics.max_forecast_series,
        max_age_steps=metrics.forecast_max_age_steps,
    )


def _make_remote_write_settings(config: Config) -> RemoteWriteSettings | None:
    write = config.remote_write
    if not write.remote_write_url:
        return None
    return RemoteWriteSettings(
        url=write.remote_write_url,
        times=write.remote_write_time,
        interval_seconds=write.remote_write_interval_seconds,
    )


def _make_history_limits(config: Config) -> HistoryLimits:
    accuracy = config.accuracy
    return HistoryLimits(
        servers=accuracy.history_servers,
        max_servers=accuracy.max_history_servers,
        every_steps=accuracy.history_every_steps,
        retention_days=accuracy.history_days,
        settle_steps=accuracy.score_after_steps,
    )
