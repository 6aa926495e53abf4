"""The queue of one Alertmanager: each change is due at once, and all that is active again and again.

Holds keys, and the alerts that were resolved lately; the newest state of an active alert is read when it is sent, so a
receiver that is away costs no memory. Sends nothing; `now` is monotonic.
"""

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet

from streamd.runtime.alerts.alert import Alert, AlertKey, AlertState


class AlertmanagerQueue:
    """The alerts that one Alertmanager lacks.

    A resolved alert is repeated for `expiry_seconds` too: an Alertmanager that was away meanwhile learns it.
    """

    def __init__(
        self, active: Mapping[AlertKey, Alert], *, resend_seconds: float, expiry_seconds: float, now: float
    ) -> None:
        self._active = active
        self._resend_seconds = resend_seconds
        self._expiry_seconds = expiry_seconds
        self._resend_at = now  # all that is active is sent at the start
        self._due: dict[AlertKey, None] = {}
        self._repeating: list[AlertKey] = []  # what the present repetition has not reached
        self._resolved: dict[AlertKey, tuple[Alert, float]] = {}  # with the time until which it is repeated

    @property
    def due(self) -> int:
        """The number of alerts that have changed, or could not be sent, and wait to be sent."""
        return len(self._due)

    def note_firing(self, key: AlertKey) -> None:
        """Note that an alert has begun to fire."""
        self._resolved.pop(key, None)
        self._due[key] = None

    def note_resolved(self, alert: Alert, now: float, age_seconds: float = 0.0) -> None:
        """Note that an alert was resolved, `age_seconds` ago."""
        until = now + self._expiry_seconds - age_seconds
        if until > now:
            self._resolved[alert.key] = alert, until
            self._due[alert.key] = None

    def remove(self, keys: AbstractSet[AlertKey]) -> None:
        """Send nothing more of these alerts."""
        for key in keys:
            self._resolved.pop(key, None)
            self._due.pop(key, None)

    def count_seconds(self, now: float) -> float:
        """Return the seconds until something is due; 0 if something is."""
        return 0.0 if self._due or self._repeating else max(self._resend_at - now, 0.0)

    def take(self, count: int, now: float) -> list[Alert]:
        """Remove and return up to `count` alerts that are due, each in its newest state; first those that changed."""
        if now >= self._resend_at:
            self._begin_repetition(now)
        taken: dict[AlertKey, Alert] = {}
        while (self._due or self._repeating) and len(taken) < count:
            key = self._take_key()
            alert = self._find(key)
            if alert is not None:
                taken[key] = alert
        return list(taken.values())

    def put_back(self, alerts: Iterable[Alert]) -> None:
        """Mark alerts due again that were taken and could not be sent."""
        for alert in alerts:
            self._due.setdefault(alert.key, None)

    def _begin_repetition(self, now: float) -> None:
        self._resend_at = now + self._resend_seconds
        for key in [key for key, (_, until) in self._resolved.items() if until <= now]:
            del self._resolved[key]
        # Only the keys, so that this takes a millisecond for 20,000 alerts; `_find` leaves out what does not fire.
        self._repeating = [*self._resolved, *self._active]
        self._repeating.reverse()

    def _take_key(self) -> AlertKey:
        if not self._due:
            return self._repeating.pop()
        key = next(iter(self._due))
        del self._due[key]
        return key

    def _find(self, key: AlertKey) -> Alert | None:
        active = self._active.get(key)
        if active is not None and _is_firing(active):
            return active
        return self._resolved[key][0] if key in self._resolved else None


def _is_firing(alert: Alert) -> bool:
    return alert.state is AlertState.FIRING and not alert.is_withheld
