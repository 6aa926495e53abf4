"""Tests `streamd/runtime/alerts/evaluator.py`: which forecasts begin, refresh and end alerts, and which must not."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from streamd.core.state.window_columns import NO_STEP
from streamd.runtime.alerts.alert import AlertChange, AlertState, CrossingTimes
from streamd.runtime.alerts.evaluator import AlertLimits
from streamd.runtime.alerts.store import StoredAlert
from streamd.runtime.state.state import State
from tests.support.alert_rig import CPU_RULE, MODEL, AlertRig, make_alert_rules, post_forecast, summarize
from tests.support.state_files import opened, send

HIGH, BAND, LOW, UNKNOWN = 95.0, 89.0, 50.0, float("nan")
PENDING, FIRED, REFRESHED = ("pending", "r", "db-1"), ("fired", "r", "db-1"), ("refreshed", "r", "db-1")
DROPPED, RESOLVED = ("dropped", "r", "db-1"), ("resolved", "r", "db-1")


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    """Open a state of four slots."""
    with opened(tmp_path) as state:
        yield state


@pytest.fixture
def rig(state: State) -> AlertRig:
    """Make an evaluator of one rule: `cpu` above 90, two forecasts in a row."""
    return AlertRig(state)


# ---------------------------------------------------------------- forecasts
def test_an_alert_begins_is_refreshed_and_ends(rig: AlertRig) -> None:
    found = rig.run("db-1", LOW, HIGH, HIGH, HIGH, BAND, LOW, LOW)
    assert found == [[], [PENDING], [FIRED], [REFRESHED], [REFRESHED], [REFRESHED], [RESOLVED]]
    assert rig.evaluator.active == {}


def test_a_pending_alert_that_does_not_come_again_is_dropped(rig: AlertRig) -> None:
    assert rig.run("db-1", HIGH, LOW) == [[PENDING], [DROPPED]]


def test_an_alert_says_what_its_newest_forecast_says(rig: AlertRig) -> None:
    rig.run("db-1", HIGH, HIGH)
    alert = rig.evaluator.active["r", rig.get_slot("db-1")]
    origin = (rig.steps["db-1"] + 1) * 300
    assert (alert.state, alert.origin, alert.model) == (AlertState.FIRING, origin, MODEL.decode())
    assert (alert.starts_at, alert.ends_at, alert.updated_at) == (rig.now, None, rig.now)
    assert (alert.target, alert.threshold, alert.is_above, alert.quantile) == ("cpu", 90.0, True, 0.5)
    # The curves end at 105, 95 and 85, and rise by 5 a step.
    assert alert.crosses_at == CrossingTimes(float(origin), origin + 2 * 300.0, None)
    rig.run("db-1", 92.0)
    later = rig.evaluator.active["r", rig.get_slot("db-1")]
    assert later.starts_at == alert.starts_at
    assert later.crosses_at.likely == pytest.approx(later.origin + 2.6 * 300)


def test_an_alert_that_ended_has_the_time_and_the_reason(rig: AlertRig) -> None:
    rig.fire()
    rig.run("db-1", LOW)
    rig.forecast("db-1", LOW)
    (change,) = rig.evaluate()
    ended = change.change.alert
    assert (ended.state, ended.ends_at, ended.reason) == (AlertState.RESOLVED, rig.now, "cleared")
    assert ended.crosses_at == CrossingTimes(None, None, None)


def test_a_forecast_that_is_read_twice_counts_once(rig: AlertRig) -> None:
    rig.forecast("db-1", HIGH)
    assert summarize(rig.evaluate()) == [PENDING]
    assert summarize(rig.evaluate()) == []


def test_servers_and_rules_are_judged_apart(state: State) -> None:
    low_rule = {"target": "mem", "below": 40.0, "for": 1, "servers": ["web-*"]}
    rig = AlertRig(state, high={**CPU_RULE, "for": 1, "servers": ["db-*"]}, low=low_rule)
    rig.forecast("db-1", HIGH)
    rig.forecast("web-1", 30.0)
    rig.forecast("db-2", 30.0)
    assert summarize(rig.evaluate()) == [("fired", "high", "db-1"), ("fired", "low", "web-1")]


def test_rules_with_chunks_of_one_slot_find_the_same(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamd.runtime.alerts.screening.MAX_CHUNK_SLOTS", 1)
    rig = AlertRig(state, r={**CPU_RULE, "for": 1})
    for server in ("db-1", "db-2", "db-3"):
        rig.forecast(server, HIGH)
    assert [server for _, _, server in summarize(rig.evaluate())] == ["db-1", "db-2", "db-3"]


# ---------------------------------------------------------------- forecasts that begin no alert
def test_a_short_window_begins_no_alert(rig: AlertRig) -> None:
    assert rig.run("db-1", HIGH, HIGH, context=3) == [[], []]
    assert rig.run("db-1", HIGH, HIGH, context=4) == [[PENDING], [FIRED]]


def test_a_short_window_does_not_let_a_pending_alert_fire(rig: AlertRig) -> None:
    rig.run("db-1", HIGH)
    assert rig.run("db-1", HIGH, context=3) == [[DROPPED]]


def test_an_old_forecast_begins_no_alert(rig: AlertRig) -> None:
    rig.late_seconds = 1_801.0
    assert rig.run("db-1", HIGH, HIGH) == [[], []]
    rig.late_seconds = 1_800.0
    assert rig.run("db-1", HIGH, HIGH) == [[PENDING], [FIRED]]


def test_old_forecasts_begin_alerts_without_a_limit(state: State) -> None:
    rig = AlertRig(state, AlertLimits(max_forecast_age_seconds=float("inf")))
    rig.late_seconds = 1e9
    assert rig.run("db-1", HIGH, HIGH) == [[PENDING], [FIRED]]


def test_the_forecast_of_a_feature_that_was_never_sent_begins_no_alert(rig: AlertRig) -> None:
    slot, _ = rig.state.admit("db-1", 0.0)
    for step in range(101, 109):
        send(rig.state, "db-1", step, {"mem": 1.0, "net": 1.0})
    rig.steps["db-1"] = 108
    post_forecast(rig.state, slot, 108, HIGH)
    assert rig.evaluate() == []


def test_the_forecast_of_a_feature_that_is_no_longer_sent_begins_no_alert(rig: AlertRig) -> None:
    rig.run("db-1", LOW)
    # The first of these rows is still open, since it lacks a feature, when its forecast is read.
    assert rig.run("db-1", LOW, HIGH, HIGH, values={"mem": 1.0, "net": 1.0}) == [[], [], []]


def test_a_firing_alert_stays_while_its_feature_is_not_sent(rig: AlertRig) -> None:
    rig.fire()
    assert rig.run("db-1", HIGH, HIGH, HIGH, values={"mem": 1.0, "net": 1.0}) == [[REFRESHED]] * 3


# ---------------------------------------------------------------- unknown targets
def test_an_alert_ends_with_the_first_forecast_in_which_its_target_is_unknown(rig: AlertRig) -> None:
    fired = rig.fire()
    rig.forecast("db-1", UNKNOWN)
    (change,) = rig.evaluate()
    ended = change.change.alert
    assert (change.change.kind, ended.reason, ended.ends_at) == ("resolved", "unknown", rig.now)
    assert (ended.origin, ended.crosses_at) == (fired.origin, fired.crosses_at), "those of the last forecast of it"
    assert rig.evaluator.active == {}


def test_a_pending_alert_of_an_unknown_target_is_dropped(rig: AlertRig) -> None:
    assert rig.run("db-1", HIGH, UNKNOWN) == [[PENDING], [DROPPED]]


@pytest.mark.parametrize("side", ["above", "below"])
def test_an_unknown_target_begins_no_alert_and_counting_begins_anew(state: State, side: str) -> None:
    rig = AlertRig(state, r={"target": "cpu", side: 0.0, "for": 2})
    found = rig.run("db-1", *[UNKNOWN] * 3, *([HIGH] * 2 if side == "above" else [-HIGH] * 2))
    assert found == [[], [], [], [PENDING], [FIRED]]


def test_other_targets_of_the_server_are_judged_on(state: State) -> None:
    rig = AlertRig(state, cpu={**CPU_RULE, "for": 1}, mem={"target": "mem", "above": 90.0, "for": 1})
    rig.run("db-1", HIGH)
    rig.forecast("db-1", HIGH)
    slot = rig.get_slot("db-1")
    values = state.board.values[slot].copy()
    values[state.contract.targets.index("cpu")] = np.nan
    rig.steps["db-1"] += 1
    state.board.post(slot, rig.steps["db-1"], 8, MODEL, values)
    assert summarize(rig.evaluate()) == [("resolved", "cpu", "db-1"), ("refreshed", "mem", "db-1")]


def test_no_alert_begins_beyond_the_limit_of_active_ones(state: State) -> None:
    rig = AlertRig(state, AlertLimits(max_active=2), r={**CPU_RULE, "for": 1})
    for server in ("db-1", "db-2", "db-3"):
        rig.forecast(server, HIGH)
    assert len(rig.evaluate()) == 2
    assert rig.evaluator.counts.refused == 1
    for server in ("db-1", "db-2"):
        rig.forecast(server, LOW)
    rig.evaluate()
    rig.forecast("db-3", HIGH)
    assert summarize(rig.evaluate()) == [("fired", "r", "db-3")]


# ---------------------------------------------------------------- servers that are silent, forgotten or go back
def test_an_alert_of_a_silent_server_ends(rig: AlertRig) -> None:
    rig.fire("db-1")
    rig.forecast("db-2", HIGH)
    rig.evaluate()
    for rig.clock in range(0, 3_601, 60):
        assert rig.evaluator.end_silent(rig.now, rig.clock) == []
    rig.clock = 3_601.0
    ended = rig.evaluator.end_silent(rig.now, rig.clock)
    assert summarize(ended) == [RESOLVED, ("dropped", "r", "db-2")]
    assert [each.change.alert.reason for each in ended] == ["silent", "silent"]


def test_a_new_forecast_breaks_the_silence(rig: AlertRig) -> None:
    rig.fire()
    rig.clock = 3_000.0
    rig.run("db-1", HIGH)
    assert rig.evaluator.end_silent(rig.now, 6_600.0) == []


def test_time_in_which_the_process_did_not_run_is_no_silence(rig: AlertRig) -> None:
    rig.fire()
    assert rig.evaluator.end_silent(rig.now, 10.0) == []
    assert rig.evaluator.end_silent(rig.now, 10_000.0) == []


def test_an_alert_of_a_forgotten_server_ends(rig: AlertRig) -> None:
    rig.fire()
    slot = rig.get_slot("db-1")
    rig.state.forget(slot)
    rig.evaluator.forget(slot, None)
    (ended,) = rig.evaluator.apply_forgotten(rig.now)
    assert (ended.change.kind, ended.change.alert.reason) == ("resolved", "forgotten")


def test_a_server_that_comes_back_begins_anew(rig: AlertRig) -> None:
    rig.fire()
    slot = rig.get_slot("db-1")
    rig.state.forget(slot)
    rig.evaluator.forget(slot, None)
    assert rig.run("db-1", HIGH, HIGH) == [[RESOLVED, PENDING], [FIRED]]


def test_the_next_server_of_a_slot_does_not_inherit_an_alert(rig: AlertRig) -> None:
    rig.fire()
    slot = rig.get_slot("db-1")
    rig.state.forget(slot)
    rig.get_slot("web-1")
    assert rig.state.directory.slots["web-1"] == slot
    rig.evaluator.forget(slot, "web-1")
    assert rig.run("web-1", HIGH) == [[RESOLVED, ("pending", "r", "web-1")]]


def test_a_forecast_that_was_copied_before_its_server_was_forgotten_makes_no_alert(
    rig: AlertRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.run("db-1", HIGH)
    rig.forecast("db-1", HIGH)
    slot = rig.get_slot("db-1")
    apply_forgotten = rig.evaluator.apply_forgotten

    def forget_first(now: float) -> object:
        monkeypatch.undo()
        rig.state.forget(slot)
        rig.evaluator.forget(slot, None)
        return apply_forgotten(now)

    monkeypatch.setattr(rig.evaluator, "apply_forgotten", forget_first)
    assert summarize(rig.evaluate()) == [DROPPED]
    assert rig.evaluator.active == {}


def test_rows_that_went_back_leave_a_firing_alert_and_drop_a_pending_one(rig: AlertRig) -> None:
    rig.fire("db-1")
    rig.forecast("db-2", HIGH)
    rig.evaluate()
    for server in ("db-1", "db-2"):
        rig.state.rewind(rig.get_slot(server), 100)
        rig.steps[server] = 100
        rig.evaluator.forget(rig.get_slot(server), server)
    assert summarize(rig.evaluator.apply_forgotten(rig.now)) == [("dropped", "r", "db-2")]
    assert rig.run("db-1", LOW, LOW) == [[REFRESHED], [RESOLVED]], "lower steps are new ones"


# ---------------------------------------------------------------- rules that change, and restarts
def test_alerts_of_rules_that_are_removed_or_changed_end(state: State) -> None:
    rig = AlertRig(state, r={**CPU_RULE, "for": 1}, s={**CPU_RULE, "for": 1}, t={**CPU_RULE, "for": 1})
    rig.run("db-1", HIGH)
    kept = {**CPU_RULE, "for": 1}
    ended = rig.evaluator.replace_rules(make_alert_rules(state, {"t": kept, "s": {**kept, "above": 94.0}}), rig.now)
    assert [(each.change.alert.rule, each.change.alert.reason) for each in ended] == [
        ("r", "rule_changed"),
        ("s", "rule_changed"),
    ]
    assert rig.run("db-1", HIGH) == [[("refreshed", "t", "db-1"), ("fired", "s", "db-1")]]


def test_other_annotations_end_no_alert(rig: AlertRig) -> None:
    rig.fire()
    rules = make_alert_rules(rig.state, {"r": {**CPU_RULE, "annotations": {"runbook_url": "https://example.org"}}})
    assert rig.evaluator.replace_rules(rules, rig.now) == []
    rig.run("db-1", HIGH)
    assert rig.evaluator.active["r", rig.get_slot("db-1")].annotations == {"runbook_url": "https://example.org"}


def test_without_rules_nothing_is_evaluated(rig: AlertRig) -> None:
    rig.fire()
    assert summarize(rig.evaluator.replace_rules((), rig.now)) == [RESOLVED]
    assert rig.run("db-1", HIGH) == [[]]


def test_a_restart_continues_alerts_by_the_names_of_their_servers(rig: AlertRig) -> None:
    alert = rig.fire()
    rig.forecast("db-2", HIGH)
    (pending,) = rig.evaluate()
    stored = [
        StoredAlert(alert, rig.rules[0].fingerprint, 0),
        StoredAlert(pending.change.alert, pending.fingerprint, 1),
    ]
    next_one = AlertRig(rig.state)
    next_one.steps = rig.steps
    restored = next_one.evaluator.restore(stored, next_one.now, 0.0)
    assert [each.change for each in restored] == [
        AlertChange(alert, "refreshed"),
        AlertChange(pending.change.alert, "refreshed"),
    ]
    assert next_one.evaluate() == [], "these forecasts were judged before"
    assert next_one.run("db-2", HIGH) == [[("fired", "r", "db-2")]]
    next_one.run("db-1", HIGH)
    assert next_one.evaluator.active["r", rig.get_slot("db-1")].starts_at == alert.starts_at


@pytest.mark.parametrize(
    ("rule", "server", "reason"), [({"above": 80.0}, "db-1", "rule_changed"), ({}, "db-9", "forgotten")]
)
def test_a_restart_ends_alerts_whose_rule_or_server_is_gone(
    rig: AlertRig, rule: dict[str, float], server: str, reason: str
) -> None:
    alert = rig.fire()
    alert = type(alert)(**{**alert.__dict__, "server": server})
    next_one = AlertRig(rig.state, r={**CPU_RULE, **rule})
    (ended,) = next_one.evaluator.restore([StoredAlert(alert, rig.rules[0].fingerprint, 0)], 5.0, 0.0)
    assert (ended.change.kind, ended.change.alert.reason, ended.change.alert.ends_at) == ("resolved", reason, 5.0)
    assert next_one.evaluator.active == {}


def test_a_restart_judges_what_was_posted_after_the_stored_alert(rig: AlertRig) -> None:
    alert = rig.fire()
    rig.forecast("db-1", LOW)
    next_one = AlertRig(rig.state)
    next_one.steps = rig.steps
    next_one.evaluator.restore([StoredAlert(alert, rig.rules[0].fingerprint, 1)], next_one.now, 0.0)
    assert summarize(next_one.evaluate()) == [RESOLVED]


def test_evaluations_are_counted(rig: AlertRig) -> None:
    rig.run("db-1", LOW, LOW)
    rig.evaluate()
    assert rig.evaluator.counts.forecasts == 2


def test_slots_without_a_forecast_are_passed_over(rig: AlertRig) -> None:
    rig.get_slot("db-1")
    assert rig.state.board.get_steps(np.array([0])).tolist() == [NO_STEP]
    assert rig.evaluate() == []
