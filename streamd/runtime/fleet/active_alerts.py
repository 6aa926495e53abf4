"""The active alerts by server, and how bad they are, for the rules that a reader looks at. Belongs to one moment."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from streamd.core.alerts.rules import AlertRule
from streamd.core.fleet.conditions import Codes
from streamd.core.fleet.crossing_table import FiringRules
from streamd.core.fleet.ranking import SEVERITY_CODES
from streamd.runtime.alerts.alert import Alert, AlertKey, AlertState
from streamd.runtime.alerts.wire_form import find_silence_end


class AlertView(Protocol):
    """The rules and the active alerts, as the monitor has them on the event loop."""

    @property
    def rules(self) -> Sequence[AlertRule]:
        """The rules."""
        ...

    @property
    def active(self) -> Mapping[AlertKey, Alert]:
        """The pending and firing alerts, which change on the loop."""
        ...


class AlertsBySlot(NamedTuple):
    """Some active alerts."""

    by_slot: dict[int, list[Alert]]
    """The alerts of each server that has one."""
    severities: Codes
    """The code of the worst alert that fires and is not silenced, `(capacity,)`; 0 without one."""
    firing: FiringRules
    """The alerts that fire and are not silenced."""


def group_alerts(
    alerts: Sequence[Alert],
    rules: Mapping[str, int],
    find_slot: Callable[[str], int | None],
    capacity: int,
    now: float,
) -> AlertsBySlot:
    """Return alerts by the slots of their servers, worst first; those of unknown servers are left out.

    `rules` has the places of rules by name.
    """
    by_slot: dict[int, list[Alert]] = {}
    firing: list[tuple[int, int, int]] = []
    severities = np.zeros(capacity, np.int8)
    for alert in alerts:
        slot = find_slot(alert.server)
        if slot is None:
            continue
        by_slot.setdefault(slot, []).append(alert)
        severity, rule = compute_severity(alert, now), rules.get(alert.rule)
        severities[slot] = max(severities[slot], severity)
        if severity and rule is not None:
            firing.append((rule, slot, severity))
    for of_server in by_slot.values():
        if len(of_server) > 1:
            of_server.sort(key=lambda alert: (-compute_severity(alert, now), alert.state, alert.rule))
    columns = np.array(firing, np.int64).reshape(-1, 3)
    return AlertsBySlot(by_slot, severities, FiringRules(columns[:, 0], columns[:, 1], columns[:, 2].astype(np.int8)))


def compute_severity(alert: Alert, now: float) -> int:
    """Return the code of an alert's severity; 0 if it does not fire, or is silenced."""
    is_loud = alert.state is AlertState.FIRING and find_silence_end(alert, now) is None
    return SEVERITY_CODES[alert.severity] if is_loud else 0
