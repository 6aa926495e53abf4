"""The wire form of an alert: the object that `/v1/alerts`, its streams and the webhook have in common.

Pure functions; encodes nothing.
"""

import hashlib
import json
from typing import Any

from streamd.runtime.alerts.alert import Alert, AlertState

CROSSING_BOUNDS = ("earliest", "likely", "latest")
"""The names of the three crossing times, as the wire and the metrics have them."""


def describe_alert(alert: Alert, now: float) -> dict[str, Any]:
    """Return an alert as an object of the wire; `now` is the time (epoch seconds) that `seconds_until` counts from."""
    crosses_at = list_crossings(alert)
    return {
        "rule": alert.rule,
        "server": alert.server,
        "state": alert.state.value,
        "severity": alert.severity,
        "labels": dict(alert.labels),
        "annotations": dict(alert.annotations),
        "target": alert.target,
        "unit": alert.unit,
        "quantile": alert.quantile,
        "above" if alert.is_above else "below": alert.threshold,
        "within_seconds": alert.within_seconds,
        "starts_at": alert.starts_at,
        "ends_at": alert.ends_at,
        "reason": alert.reason,
        "origin": alert.origin,
        "model": alert.model,
        "crosses_at": crosses_at,
        "seconds_until": {bound: count_seconds_until(at, now) for bound, at in crosses_at.items()},
        "updated_at": alert.updated_at,
        "silenced_until": find_silence_end(alert, now),
    }


def find_silence_end(alert: Alert, now: float) -> float | None:
    """Return the end of an active alert's silence; `None` if it has come, or no silence chooses the alert."""
    until = None if alert.state is AlertState.RESOLVED else alert.silenced_until
    return until if until is not None and until > now else None


def list_crossings(alert: Alert) -> dict[str, float | None]:
    """Return the crossing times of an alert (epoch seconds) by their bound; `None` for a curve that does not cross."""
    times = alert.crosses_at
    return dict(zip(CROSSING_BOUNDS, (times.earliest, times.likely, times.latest), strict=True))


def count_seconds_until(crosses_at: float | None, now: float) -> float | None:
    """Return the seconds until a crossing, never below 0; `None` without a crossing."""
    return None if crosses_at is None else max(crosses_at - now, 0.0)


def make_notification_id(alert: Alert) -> str:
    """Return the id of a notification about the present state of an alert: the same for each repetition of it."""
    identity = [alert.rule, alert.server, alert.starts_at, alert.state.value]
    return hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:32]
