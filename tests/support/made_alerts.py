"""Alerts as a monitor gives them, and a monitor that holds what a test puts in."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

from streamd.core.alerts.rules import AlertRule
from streamd.core.alerts.silences import Silence
from streamd.runtime.alerts.alert import Alert, AlertChange, AlertKey, AlertState, ChangeKind, CrossingTimes
from streamd.runtime.alerts.monitor import AlertMonitor
from streamd.runtime.service import Service

NOW = 1_700_000_000.0
"""The time at which the alerts that are made here are looked at."""

_ALERT = Alert(
    rule="disk_fills",
    server="db-07",
    state=AlertState.FIRING,
    severity="warning",
    labels={"team": "storage"},
    annotations={"runbook_url": "https://runbooks/disk"},
    target="disk_usage",
    unit="percent",
    quantile=0.5,
    is_above=True,
    threshold=90.0,
    within_seconds=14_400.0,
    starts_at=NOW - 100,
    ends_at=None,
    reason="",
    origin=int(NOW) - 300,
    model="patch_1",
    crosses_at=CrossingTimes(NOW + 9_600, NOW + 11_400, NOW + 18_000),
    updated_at=NOW - 10,
)


def make_alert(rule: str = "disk_fills", server: str = "db-07", **changes: Any) -> Alert:
    """Return a firing alert with changes."""
    return replace(_ALERT, rule=rule, server=server, **changes)


def make_pending_alert(rule: str = "disk_fills", server: str = "db-07", **changes: Any) -> Alert:
    """Return a pending alert."""
    return make_alert(rule, server, **{"state": AlertState.PENDING, "starts_at": None, **changes})


def make_resolved_alert(rule: str = "disk_fills", server: str = "db-07", **changes: Any) -> Alert:
    """Return an alert that was resolved, 50 seconds before `NOW` if nothing else is given."""
    given = {"state": AlertState.RESOLVED, "ends_at": NOW - 50, "reason": "cleared", **changes}
    return make_alert(rule, server, **given)


def make_change(alert: Alert, kind: ChangeKind | None = None) -> AlertChange:
    """Return the change to the state of an alert."""
    kinds: Mapping[AlertState, ChangeKind] = {
        AlertState.PENDING: "pending",
        AlertState.FIRING: "fired",
        AlertState.RESOLVED: "resolved",
    }
    return AlertChange(alert, kinds[alert.state] if kind is None else kind)


class HeldAlerts:
    """The active and the resolved alerts that a test puts in, as a monitor has them."""

    def __init__(self, *alerts: Alert) -> None:
        self.active: dict[AlertKey, Alert] = {}
        self.resolved: list[Alert] = []
        self.rules: list[AlertRule] = []
        self.silences: list[Silence] = []
        for alert in alerts:
            self.put(alert)

    def describe(self) -> dict[str, Any]:
        return {}

    def close(self) -> None:
        """Do nothing: there is no thread."""

    async def add_silence(self, silence: Silence) -> None:
        self.silences.append(silence)

    async def end_silence(self, silence_id: str) -> Silence:
        (ended,) = (each for each in self.silences if each.id == silence_id)
        self.silences.remove(ended)
        return ended

    def put(self, alert: Alert, kind: ChangeKind | None = None) -> AlertChange:
        """Put in a new state of an alert; returns the change."""
        if alert.state is AlertState.RESOLVED:
            self.active.pop(alert.key, None)
            if alert.starts_at is not None:
                self.resolved.insert(0, alert)
        else:
            self.active[alert.key] = alert
        return make_change(alert, kind)


class ServedAlerts:
    """The alerts of a service, in place of a monitor of its own."""

    def __init__(self, service: Service, *alerts: Alert, held: HeldAlerts | None = None) -> None:
        self._service = service
        self.held = held or HeldAlerts(*alerts)
        service.alerts = cast("AlertMonitor", self.held)
        service.alert_subscriptions.follow(self.held.active)

    def put(self, *alerts: Alert) -> None:
        """Change alerts, for readers too."""
        self._service.alert_subscriptions.alerts_changed([self.held.put(alert) for alert in alerts])
