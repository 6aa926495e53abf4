"""The ways of posted forecasts beside the subscriptions of readers: history, metrics, remote write and alerts."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from streamd.core.accuracy.history_selection import HistoryLimits
from streamd.core.alerts.settings import AlertSettings
from streamd.core.forecast_export.choice import ExportSettings, ForecastExport
from streamd.runtime.accuracy.history import AccuracyHistory
from streamd.runtime.admission import ServerForgotten
from streamd.runtime.alerts.monitor import AlertMonitor
from streamd.runtime.alerts.shared_alerts import SharedAlerts
from streamd.runtime.forecast_exports import ForecastExports
from streamd.runtime.lanes.sinks import ForecastPosted
from streamd.runtime.remote_write.writer import RemoteWriter, RemoteWriteSettings
from streamd.runtime.state.state import State


@dataclass(frozen=True, kw_only=True)
class ForecastOutputs:
    """The parts that keep, send and evaluate forecasts; `None` is what the settings do not want."""

    history: AccuracyHistory
    exports: ForecastExports | None
    remote_write: RemoteWriter | None
    alerts: AlertMonitor | None

    @property
    def listeners(self) -> tuple[ForecastPosted, ...]:
        """Those that are given each batch that is posted."""
        return tuple(each for each in (self.history, self.remote_write, self.alerts) if each is not None)

    @property
    def owners(self) -> tuple[ServerForgotten, ...]:
        """Those that own data of servers by slot."""
        every = (self.history, self.exports, self.remote_write, self.alerts)
        return tuple(each for each in every if each is not None)


def make_forecast_outputs(
    state: State,
    *,
    history: HistoryLimits,
    exports: ExportSettings,
    remote_write: RemoteWriteSettings | None,
    alerts: AlertSettings | None,
    shared_alerts: SharedAlerts | None = None,
    wall: Callable[[], float] = time.time,
    clock: Callable[[], float] = time.monotonic,
) -> ForecastOutputs:
    """Make what the settings want; raises `ConfigError` if they do not fit the contract.

    Without globs of servers, no forecast leaves as a metric or by remote write. `wall` returns epoch seconds, `clock`
    monotonic seconds.
    """
    exported = None
    if exports.servers:
        exported = ForecastExports(state, ForecastExport(exports, state.contract), wall)
    writer = None
    if exported is not None and remote_write is not None:
        writer = RemoteWriter(exported, remote_write, clock=clock)
    return ForecastOutputs(
        history=AccuracyHistory(state, history),
        exports=exported,
        remote_write=writer,
        alerts=None if alerts is None else AlertMonitor(state, alerts, shared=shared_alerts, wall=wall, clock=clock),
    )
