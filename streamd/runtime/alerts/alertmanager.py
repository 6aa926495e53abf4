"""Alerts as Prometheus' Alertmanager takes them at `/api/v2/alerts`: labels, annotations, and times.

Pure functions. The labels of an alert never change while it is active, since Alertmanager knows it by them; so the
crossing times are annotations.
"""

from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

from streamd.runtime.alerts.alert import Alert, AlertState
from streamd.runtime.alerts.wire_form import list_crossings
from streamd.runtime.alerts.wording import write_description, write_summary

ALERTS_PATH = "/api/v2/alerts"
"""The path below the URL of an Alertmanager to which alerts are posted."""


def make_alertmanager_alert(alert: Alert, now: float, *, expiry_seconds: float, source_url: str = "") -> dict[str, Any]:
    """Return an alert as Alertmanager takes it, at the time `now` (epoch seconds).

    An active alert ends `expiry_seconds` from now, so that it is resolved if nothing repeats it. `source_url` is the
    base of its link to this daemon; without it there is no link.
    """
    # Neither lies ahead, whatever the clock did: an end ahead would keep a resolved alert active.
    starts_at = min(now if alert.starts_at is None else alert.starts_at, now)
    ends_at = now + expiry_seconds
    if alert.state is AlertState.RESOLVED:
        ends_at = max(min(now if alert.ends_at is None else alert.ends_at, now), starts_at)
    shown = {
        "labels": make_labels(alert),
        "annotations": _make_annotations(alert, now),
        "startsAt": format_rfc3339(starts_at),
        "endsAt": format_rfc3339(ends_at),
    }
    if source_url:
        query = urlencode({"rule": alert.rule, "server": alert.server})
        shown["generatorURL"] = f"{source_url.rstrip('/')}/v1/alerts?{query}"
    return shown


def make_labels(alert: Alert) -> dict[str, str]:
    """Return the labels by which Alertmanager knows an alert; they depend only on its rule and its server.

    The settings give a rule no other names than Alertmanager takes, and none of the four that are added here.
    """
    own = {"alertname": alert.rule, "server": alert.server, "target": alert.target, "severity": alert.severity}
    return {**alert.labels, **own}


def format_rfc3339(epoch_seconds: float) -> str:
    """Return a time as RFC 3339 in UTC, to the millisecond."""
    return datetime.fromtimestamp(epoch_seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _make_annotations(alert: Alert, now: float) -> dict[str, str]:
    crossings = {
        f"crosses_{bound}": format_rfc3339(at) for bound, at in list_crossings(alert).items() if at is not None
    }
    texts = {"summary": write_summary(alert, now), "description": write_description(alert, now)}
    # A rule may have its own summary, or description.
    return {**texts, **crossings, **alert.annotations}
