"""Crossing times of active alerts as metrics. They name servers, so `/metrics` has none of them.

Reads the monitor; the route that shows them writes the text.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple, Protocol

from streamd.runtime.alerts.alert import Alert, AlertKey
from streamd.runtime.alerts.wire_form import count_seconds_until, list_crossings

SECONDS_UNTIL_METRIC = "streamd_alert_seconds_until"
SECONDS_UNTIL_HELP = "Seconds until a forecast crosses the threshold of an active alert, by bound"


class ActiveAlerts(Protocol):
    """The owner of the active alerts, such as `AlertMonitor`."""

    @property
    def active(self) -> Mapping[AlertKey, Alert]:
        """The pending and the firing alerts."""
        ...


class SecondsUntil(NamedTuple):
    """One sample of the metric: its labels `rule`, `server` and `bound`, and its value."""

    rule: str
    server: str
    bound: str
    seconds: float


def iterate_seconds_until(monitor: ActiveAlerts, now: float, may_read: Callable[[str], bool]) -> Iterator[SecondsUntil]:
    """Yield the samples of all active alerts whose server may be read, at the time `now` (epoch seconds).

    Takes a copy of the active alerts when it begins, so the loop may have turns in between. A curve that does not cross
    has no sample.
    """
    for alert in list(monitor.active.values()):
        if not may_read(alert.server):
            continue
        for bound, crosses_at in list_crossings(alert).items():
            seconds = count_seconds_until(crosses_at, now)
            if seconds is not None:
                yield SecondsUntil(alert.rule, alert.server, bound, seconds)
