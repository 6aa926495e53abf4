"""Evaluates the rules for new forecasts, and makes the alerts. Runs in the thread of the alerts, one call at a time.

`screening.py` reads the forecasts and windows; the policies are in `core/alerts`.
"""

import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import structlog

from streamd.core.alerts.evaluation import Flags, evaluate_rule
from streamd.core.alerts.rules import AlertRule
from streamd.core.alerts.states import AlertPhase, AlertStates, Transition
from streamd.core.arrays import Slots, Times
from streamd.runtime.alerts.alert import Alert, AlertChange, AlertState, ChangeKind, ResolveReason
from streamd.runtime.alerts.alert_making import RuleRows, end_alert, join_rule_rows, make_alert
from streamd.runtime.alerts.screening import ForecastChunk, ForecastScreen, RecentValues
from streamd.runtime.alerts.silencing import AlertSilencer, SlotKey
from streamd.runtime.alerts.store import StoredAlert, StoredChange
from streamd.runtime.state.state import State

log = structlog.get_logger(__name__)

MAX_ACTIVE = 100_000
"""Alerts that may be pending or firing at the same time; a forecast that would begin one more begins none."""

MAX_COLLECTED_BYTES = 8 * 2**20
"""What was found in several chunks is judged when it has so many bytes."""

MAX_CHECK_GAP_SECONDS = 60.0
"""If `end_silent` was not called for longer, the process did not run in that time, and no server could be heard."""


@dataclass(frozen=True, kw_only=True)
class AlertLimits:
    """The limits beside the rules; see `AlertSettings`."""

    max_forecast_age_seconds: float = 1_800.0
    silent_after_seconds: float = 3_600.0
    max_active: int = MAX_ACTIVE


@dataclass
class EvaluationCounts:
    """Counts since start."""

    forecasts: int = 0
    """Forecasts that the rules were evaluated for."""
    refused: int = 0
    """Alerts that did not begin because too many are active."""


_KINDS: dict[int, ChangeKind] = {
    Transition.NONE: "refreshed",
    Transition.PENDING: "pending",
    Transition.FIRED: "fired",
    Transition.DROPPED: "dropped",
    Transition.RESOLVED: "resolved",
}


class AlertEvaluator:
    """The rules of one state folder's servers, and their active alerts.

    `forget` may be called in any thread. All else belongs to the thread of the alerts; `now` is in epoch seconds,
    `clock` in monotonic seconds.
    """

    def __init__(self, state: State, rules: Sequence[AlertRule], limits: AlertLimits) -> None:
        capacity = state.directory.capacity
        self.active: dict[SlotKey, Alert] = {}
        """The pending and firing alerts, by the name of their rule and the slot of their server."""
        self.silencer = AlertSilencer()
        """The silences that hold."""
        self.counts = EvaluationCounts()
        self._state = state
        self._limits = limits
        self._step_seconds = state.contract.step_seconds
        self._heard: Times = np.full(capacity, -np.inf)
        self._silence_checked = math.inf
        self._forgotten: deque[tuple[int, str | None]] = deque()
        self._is_full = False
        self._recent_values = RecentValues(state)
        self._adopt_rules(rules)

    def _adopt_rules(self, rules: Sequence[AlertRule]) -> None:
        self.rules = tuple(rules)
        self._states = AlertStates([rule.consecutive for rule in rules], self._state.directory.capacity)
        self._screen = ForecastScreen(self._state, rules)

    # ------------------------------------------------------------ rules and servers
    def replace_rules(self, rules: Sequence[AlertRule], now: float) -> list[StoredChange]:
        """Apply other rules; ends the alerts of those that are removed or defined otherwise."""
        places = {(rule.name, rule.fingerprint): place for place, rule in enumerate(self.rules)}
        former = [places.get((rule.name, rule.fingerprint)) for rule in rules]
        changes = [
            self._end(place, slot, "rule_changed", now)
            for place in sorted(set(places.values()) - set(former))
            for slot in self._find_active(place)
        ]
        states = self._states
        self._adopt_rules(rules)
        self._states.take_over(states, former)
        return changes

    def forget(self, slot: int, server: str | None) -> None:
        """Note that the data of a slot were dropped: it has `server` now, which may be the one that it had before."""
        self._forgotten.append((slot, server))

    def apply_forgotten(self, now: float) -> list[StoredChange]:
        """End the alerts of servers that were forgotten.

        If the server is the same, its rows went back: its pending alerts are dropped, and firing ones stay.
        """
        changes = []
        while self._forgotten:
            slot, server = self._forgotten.popleft()
            for place, rule in enumerate(self.rules):
                alert = self.active.get((rule.name, slot))
                if alert is not None and (alert.server != server or alert.state is AlertState.PENDING):
                    changes.append(self._end(place, slot, "forgotten", now))
            self._states.restart(slot)
        return changes

    def end_silent(self, now: float, clock: float) -> list[StoredChange]:
        """End the alerts of servers that have had no new forecast for too long."""
        if (gap := clock - self._silence_checked) > MAX_CHECK_GAP_SECONDS:
            self._heard += gap
        self._silence_checked = clock
        is_silent = clock - self._heard > self._limits.silent_after_seconds
        return [
            self._end(place, slot, "silent", now)
            for place in range(len(self.rules))
            for slot in self._find_active(place)
            if is_silent[slot]
        ]

    def _find_active(self, place: int) -> list[int]:
        """Return the slots of a rule's active alerts, rising."""
        slots: list[int] = np.flatnonzero(self._states.phases[place]).tolist()
        return [slot for slot in slots if (self.rules[place].name, slot) in self.active]

    def restore(self, stored: Sequence[StoredAlert], now: float, clock: float) -> list[StoredChange]:
        """Take over the alerts of the former process; ends those whose rule or server is not there any more."""
        places = {(rule.name, rule.fingerprint): place for place, rule in enumerate(self.rules)}
        changes = []
        for each in stored:
            alert = each.alert
            place = places.get((alert.rule, each.fingerprint))
            slot = self._state.directory.slots.get(alert.server)
            if place is None or slot is None:
                reason: ResolveReason = "rule_changed" if place is None else "forgotten"
                changes.append(StoredChange(end_alert(alert, reason, now), each.fingerprint, 0))
                continue
            phase = AlertPhase.PENDING if alert.state is AlertState.PENDING else AlertPhase.FIRING
            self._states.restore(place, slot, phase, each.streak, alert.origin // self._step_seconds - 1)
            change = self.silencer.restore(alert)
            self.active[alert.rule, slot] = change.alert
            self._heard[slot] = clock
            changes.append(StoredChange(change, each.fingerprint, each.streak))
        return changes

    def release(self, servers: Callable[[str], bool]) -> None:
        """Know nothing more of the alerts of some servers, which are evaluated elsewhere; they do not end."""
        places = {rule.name: place for place, rule in enumerate(self.rules)}
        for (name, slot), alert in list(self.active.items()):
            if servers(alert.server):
                del self.active[name, slot]
                self._states.end(places[name], slot)

    def replace_alerts(self, changes: Mapping[SlotKey, AlertChange]) -> list[StoredChange]:
        """Replace active alerts that a silence has changed."""
        places = {rule.name: place for place, rule in enumerate(self.rules)}
        stored = []
        for (name, slot), change in changes.items():
            place = places[name]
            self.active[name, slot] = change.alert
            stored.append(StoredChange(change, self.rules[place].fingerprint, int(self._states.streaks[place, slot])))
        return stored

    def find_forecasts(self) -> Slots:
        """Return the slots that have a forecast, rising."""
        capacity = self._state.directory.capacity
        return np.flatnonzero(self._state.board.get_serials(np.arange(capacity)))

    def _end(self, place: int, slot: int, reason: ResolveReason, now: float) -> StoredChange:
        rule = self.rules[place]
        self._states.end(place, slot)
        return StoredChange(end_alert(self.active.pop((rule.name, slot)), reason, now), rule.fingerprint, 0)

    # ------------------------------------------------------------ forecasts
    def evaluate(self, slots: Slots, now: float, clock: float) -> Iterator[list[StoredChange]]:
        """Evaluate the rules for the newest forecasts of slots, rising; yields changes as they are found.

        Chunks are only screened. What may not be clear is judged together, since a rule takes about as long for one
        forecast as for a hundred.
        """
        if not self.rules:
            return
        collected: list[list[RuleRows]] = [[] for _ in self.rules]
        left = MAX_COLLECTED_BYTES
        for chunk in self._screen.copy_chunks(slots):
            # After the copy: if it has forecasts of a new server of a slot, the former one is known to be forgotten.
            yield self.apply_forgotten(now)
            for place, rows in self._screen_chunk(chunk, clock).items():
                collected[place].append(rows)
                left -= rows.values.nbytes
            if left <= 0:
                yield self._judge_collected(collected, now)
                left = MAX_COLLECTED_BYTES
        yield self._judge_collected(collected, now)

    def _screen_chunk(self, chunk: ForecastChunk, clock: float) -> dict[int, RuleRows]:
        """Note new forecasts, and return what must be judged of them by the place of the rule."""
        slots = chunk.forecasts.slots
        is_new = self._screen.find_current(chunk)
        same = np.flatnonzero(is_new)
        is_new[same] = self._states.begin(slots[same], chunk.forecasts.steps[same])
        self._heard[slots[is_new]] = clock
        self.counts.forecasts += int(np.count_nonzero(is_new))
        return self._screen.select(chunk, is_new, self._states.phases[:, slots].T != AlertPhase.INACTIVE)

    def _judge_collected(self, collected: list[list[RuleRows]], now: float) -> list[StoredChange]:
        """Evaluate each rule for what was collected for it, and begin to collect again."""
        changes = []
        for place, parts in enumerate(collected):
            if parts:
                changes += self._judge(place, join_rule_rows(parts), now)
                parts.clear()
        return changes

    def _judge(self, place: int, rows: RuleRows, now: float) -> list[StoredChange]:
        """Evaluate one rule for forecasts of distinct slots."""
        rule = self.rules[place]
        found = evaluate_rule(rule, rows.values)
        changes = self._end_unknown(place, rows.slots[found.unknown], now)
        may_rise = rows.contexts >= rule.min_rows
        may_rise &= rows.origins >= now - self._limits.max_forecast_age_seconds
        self._refuse_rise(place, rows.slots, found.breaching, may_rise)
        transitions = self._states.advance(
            place, rows.slots, breaching=found.breaching, clear=found.clear, may_rise=may_rise
        )
        is_active = self._states.phases[place, rows.slots] != AlertPhase.INACTIVE
        crossings = found.crossings * self._step_seconds
        for row in np.flatnonzero((transitions != Transition.NONE) | is_active).tolist():
            kind = _KINDS[int(transitions[row])]
            change = self._change_alert(place, rows, row, kind, crossings[row].tolist(), now)
            if change is not None:
                changes.append(change)
        return changes

    def _end_unknown(self, place: int, slots: Slots, now: float) -> list[StoredChange]:
        """End the active alerts of slots whose target is unknown: nothing says any more that its value will cross."""
        name = self.rules[place].name
        return [self._end(place, slot, "unknown", now) for slot in slots.tolist() if (name, slot) in self.active]

    def _refuse_rise(self, place: int, slots: Slots, breaching: Flags, may_rise: Flags) -> None:
        """Set `may_rise` to false where the window does not support an alert, and for more alerts than may be active.

        Windows are read only where an alert would begin or fire now, which is rare.
        """
        phases = self._states.phases[place, slots]
        for row in np.flatnonzero(breaching & may_rise & (phases != AlertPhase.FIRING)).tolist():
            may_rise[row] = self._recent_values.has_value(int(slots[row]), self.rules[place].feature_index)
        begins = np.flatnonzero(breaching & may_rise & (phases == AlertPhase.INACTIVE))
        refused = begins[max(self._limits.max_active - len(self.active), 0) :]
        if len(refused):
            may_rise[refused] = False
            self.counts.refused += len(refused)
            if not self._is_full:
                log.error(
                    "alerts_refused",
                    max_active=self._limits.max_active,
                    reason="too many alerts are active; no other one begins until some of them end",
                )
        if len(begins):
            self._is_full = bool(len(refused))

    # ------------------------------------------------------------ alerts
    def _change_alert(
        self, place: int, rows: RuleRows, row: int, kind: ChangeKind, crossings: Sequence[float], now: float
    ) -> StoredChange | None:
        """Make the next alert of a rule and a row; `None` if the server was forgotten in the meantime."""
        rule, slot = self.rules[place], int(rows.slots[row])
        former = self.active.get((rule.name, slot))
        server = self._find_server(slot, int(rows.generations[row])) if former is None else former.server
        if server is None:
            self._states.end(place, slot)
            return None
        is_fired = kind == "fired"
        alert = make_alert(rule, server, rows, row, crossings, now, former=former, is_fired=is_fired)
        alert = self.silencer.mark(alert, former, is_fired=is_fired)
        if kind in ("dropped", "resolved"):
            del self.active[rule.name, slot]
            return StoredChange(end_alert(alert, "cleared", now), rule.fingerprint, 0)
        self.active[rule.name, slot] = alert
        return StoredChange(AlertChange(alert, kind), rule.fingerprint, int(self._states.streaks[place, slot]))

    def _find_server(self, slot: int, generation: int) -> str | None:
        """Return the server of a slot; `None` if it is not the one of that generation any more."""
        directory = self._state.directory
        server = directory.names[slot]  # first: a name that comes later has a later generation
        return server if directory.generations[slot] == generation else None
