"""The queue of the webhook: each alert that fired or was resolved, until its receiver has confirmed it.

The newest state of an alert replaces one that still waits, so a receiver that is away costs memory for each alert
once. Sends nothing.
"""

from collections.abc import Callable, Iterable, Sequence
from collections.abc import Set as AbstractSet

from streamd.runtime.alerts.alert import Alert, AlertKey, AlertState

HasConfirmed = Callable[[Alert, AlertState], bool]
"""Whether the receiver has confirmed an alert in a state."""


class WebhookQueue:
    """The alerts that wait for the webhook, the longest waiting first."""

    def __init__(self) -> None:
        self._waiting: dict[AlertKey, Alert] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def note(self, alert: Alert) -> None:
        """Add an alert in a new state, in place of an older state of it."""
        self._waiting[alert.key] = alert

    def restore(self, firing: Iterable[Alert], resolved: Iterable[Alert], has_confirmed: HasConfirmed) -> None:
        """Add what a former process has not delivered; `resolved` has the newest alert first.

        A resolved alert counts only if the receiver knows that it fired: a new receiver does not get the history.
        """
        newest: dict[AlertKey, Alert] = {}
        for alert in resolved:
            newest.setdefault(alert.key, alert)
        for alert in firing:
            newest[alert.key] = alert
        for alert in newest.values():
            is_new = not has_confirmed(alert, alert.state)
            if is_new and (alert.state is AlertState.FIRING or has_confirmed(alert, AlertState.FIRING)):
                self._waiting[alert.key] = alert

    def peek(self, count: int) -> list[Alert]:
        """Return up to `count` alerts, which stay until they are confirmed."""
        return [alert for alert, _ in zip(self._waiting.values(), range(count), strict=False)]

    def confirm(self, alerts: Sequence[Alert]) -> None:
        """Remove alerts that were delivered, unless one has got another state meanwhile."""
        for alert in alerts:
            waiting = self._waiting.get(alert.key)
            if waiting is not None and (waiting.starts_at, waiting.state) == (alert.starts_at, alert.state):
                del self._waiting[alert.key]

    def remove(self, keys: AbstractSet[AlertKey]) -> None:
        """Remove alerts, whatever their state."""
        for key in keys & self._waiting.keys():
            del self._waiting[key]

    def postpone(self, alerts: Sequence[Alert]) -> None:
        """Move alerts behind all others."""
        for alert in alerts:
            waiting = self._waiting.pop(alert.key, None)
            if waiting is not None:
                self._waiting[alert.key] = waiting
