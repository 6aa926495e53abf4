"""An evaluator of alert rules over a state folder, with forecasts that a test posts and clocks that it sets."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from streamd.core.alerts.rules import AlertRule, bind_alert_rules
from streamd.core.alerts.settings import AlertSettings
from streamd.runtime.alerts.alert import Alert
from streamd.runtime.alerts.evaluator import AlertEvaluator, AlertLimits
from streamd.runtime.alerts.store import StoredChange
from streamd.runtime.state.state import State
from tests.support.state_files import send

FIRST_STEP = 100
MODEL = b"patch_20260101_000000"

Table = Mapping[str, Any]
CPU_RULE: Table = {"target": "cpu", "above": 90.0, "for": 2}


def make_alert_rules(state: State, tables: Mapping[str, Table]) -> tuple[AlertRule, ...]:
    """Return rules for the forecasts of a state."""
    return bind_alert_rules(AlertSettings(rules=tables), state.contract)


def post_forecast(state: State, slot: int, step: int, top: float, context: int = 8) -> None:
    """Post a forecast whose middle curve rises to `top` at the last step, and whose outer ones are 10 away."""
    targets, horizon, _ = state.contract.forecast_shape
    curve = top - 5.0 * np.arange(horizon - 1, -1, -1, dtype=np.float32)
    values = np.repeat((curve[:, None] + np.array([-10, 0, 10], np.float32))[None], targets, axis=0)
    state.board.post(slot, step, context, MODEL, values.astype(np.float32))


def summarize(changes: Sequence[StoredChange]) -> list[tuple[str, str, str]]:
    """Return the kind, the rule and the server of each change."""
    return [(each.change.kind, each.change.alert.rule, each.change.alert.server) for each in changes]


class AlertRig:
    """An evaluator and the forecasts for it; `now` is the wall clock, `clock` the monotonic one."""

    def __init__(self, state: State, limits: AlertLimits | None = None, **rules: Table) -> None:
        self.state = state
        self.rules = make_alert_rules(state, rules or {"r": CPU_RULE})
        self.evaluator = AlertEvaluator(state, self.rules, limits or AlertLimits())
        self.steps: dict[str, int] = {}
        self.clock = 0.0
        self.late_seconds = 10.0
        """How far the clock is behind the origin of the newest forecast."""

    @property
    def now(self) -> float:
        """The wall clock: shortly after the newest row."""
        newest = max(self.steps.values(), default=FIRST_STEP)
        return self.state.contract.to_origin(newest) + self.late_seconds

    def get_slot(self, server: str) -> int:
        """Return the slot of a server, which reports from now on if it did not before."""
        if server not in self.state.directory.slots:
            send(self.state, server, FIRST_STEP, {"cpu": 1.0, "mem": 1.0, "net": 1.0})
        return self.state.directory.slots[server]

    def forecast(self, server: str, top: float, *, context: int = 8, values: Mapping[str, float] | None = None) -> None:
        """Send the next row of a server, and post its forecast."""
        slot = self.get_slot(server)
        step = self.steps[server] = self.steps.get(server, FIRST_STEP) + 1
        send(self.state, server, step, dict(values or {"cpu": 1.0, "mem": 1.0, "net": 1.0}))
        post_forecast(self.state, slot, step, top, context)

    def evaluate(self) -> list[StoredChange]:
        """Evaluate the forecasts of all slots."""
        slots = np.arange(self.state.directory.capacity)
        return [each for chunk in self.evaluator.evaluate(slots, self.now, self.clock) for each in chunk]

    def run(self, server: str, *tops: float, **options: Any) -> list[list[tuple[str, str, str]]]:
        """Post one forecast after the other, and return what each changed."""
        found = []
        for top in tops:
            self.forecast(server, top, **options)
            found.append(summarize(self.evaluate()))
        return found

    def fire(self, server: str = "db-1") -> Alert:
        """Let the rule `r` fire for a server; returns its alert."""
        while not any(alert.server == server and alert.starts_at for alert in self.evaluator.active.values()):
            self.forecast(server, 95.0)
            self.evaluate()
        return self.evaluator.active["r", self.get_slot(server)]
