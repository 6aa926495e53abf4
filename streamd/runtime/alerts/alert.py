"""An alert as the rest of the daemon sees it, and the changes of it that listeners get. Plain values."""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, Protocol

from streamd.core.alerts.settings import Severity

AlertKey = tuple[str, str]
"""The names of the rule and of the server; at most one alert of a key is active."""

ChangeKind = Literal["pending", "fired", "refreshed", "resolved", "dropped", "silenced", "released"]
"""What happened: `refreshed` stands for a newer forecast, or for an alert of the former process; `dropped` for the end
of a pending alert, which never fired; `silenced` for another `silenced_until` and nothing else; `released` for the end
of the silence in which a firing alert began."""

ResolveReason = Literal["", "cleared", "unknown", "silent", "forgotten", "rule_changed"]
"""Why an alert ended; empty while it is active."""


class AlertState(StrEnum):
    """The state of an alert, as it is on the wire."""

    PENDING = "pending"
    FIRING = "firing"
    RESOLVED = "resolved"


@dataclass(frozen=True)
class CrossingTimes:
    """The times at which the curves of three quantiles cross (epoch seconds); `None`: not in the horizon."""

    earliest: float | None
    likely: float | None
    latest: float | None


@dataclass(frozen=True, kw_only=True)
class Alert:
    """One alert: a rule, a server, and what the forecast that was judged last says. A change makes a new one."""

    rule: str
    server: str
    state: AlertState
    severity: Severity
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    target: str
    unit: str
    quantile: float
    is_above: bool
    threshold: float
    within_seconds: float
    starts_at: float | None
    """When it fired (epoch seconds); `None` while it is pending, and if it was dropped."""
    ends_at: float | None
    """When it was resolved (epoch seconds)."""
    reason: ResolveReason
    origin: int
    """The origin of the forecast that was judged last (epoch seconds)."""
    model: str
    """The version that made it."""
    crosses_at: CrossingTimes
    updated_at: float
    """When this was found (epoch seconds)."""
    silenced_until: float | None = None
    """The end of the silence that ends last (epoch seconds); `None` if no silence chooses it."""
    is_withheld: bool = False
    """Whether it fired while it was silenced, and that silence lasts: no receiver knows of it."""

    @property
    def key(self) -> AlertKey:
        """The names of the rule and of the server."""
        return self.rule, self.server


@dataclass(frozen=True)
class AlertChange:
    """An alert as it is now, and what happened to it."""

    alert: Alert
    kind: ChangeKind


class AlertListener(Protocol):
    """A receiver of changes (delivery, subscriptions)."""

    def alerts_changed(self, changes: Sequence[AlertChange]) -> None:
        """Handle changes of alerts, each of another alert, in the order of their finding; called on the event loop."""
        ...


class AlertReceivers(AlertListener, Protocol):
    """A listener that notifies receivers outside (delivery): in a cluster, of the alerts of this node alone."""

    def adopt(self, active: Sequence[Alert], resolved: Sequence[Alert]) -> None:
        """Notify receivers of what they lack of alerts that another process kept, the newest `resolved` first."""
        ...

    def release(self, keys: AbstractSet[AlertKey]) -> None:
        """Notify receivers of these alerts no more, also not of changes that wait."""
        ...
