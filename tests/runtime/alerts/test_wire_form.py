"""Tests `streamd/runtime/alerts/wire_form.py`: an alert as the wire has it, and the ids of notifications."""

from streamd.runtime.alerts.alert import AlertState, CrossingTimes
from streamd.runtime.alerts.wire_form import describe_alert, make_notification_id
from tests.support.made_alerts import NOW, make_alert, make_resolved_alert


def test_an_alert_has_every_field_of_the_wire() -> None:
    alert = make_alert(crosses_at=CrossingTimes(NOW - 1, NOW + 60, None), silenced_until=NOW + 60)
    shown = describe_alert(alert, NOW)
    assert shown == {
        "rule": "disk_fills",
        "server": "db-07",
        "state": "firing",
        "severity": "warning",
        "labels": {"team": "storage"},
        "annotations": {"runbook_url": "https://runbooks/disk"},
        "target": "disk_usage",
        "unit": "percent",
        "quantile": 0.5,
        "above": 90.0,
        "within_seconds": 14_400.0,
        "starts_at": NOW - 100,
        "ends_at": None,
        "reason": "",
        "origin": int(NOW) - 300,
        "model": "patch_1",
        "crosses_at": {"earliest": NOW - 1, "likely": NOW + 60, "latest": None},
        "seconds_until": {"earliest": 0.0, "likely": 60.0, "latest": None},
        "updated_at": NOW - 10,
        "silenced_until": NOW + 60,
    }


def test_a_silence_that_is_over_is_not_shown_and_none_of_an_alert_that_has_ended() -> None:
    assert describe_alert(make_alert(silenced_until=NOW), NOW)["silenced_until"] is None
    assert describe_alert(make_resolved_alert(silenced_until=NOW + 60), NOW)["silenced_until"] is None


def test_a_threshold_from_above_is_called_below() -> None:
    shown = describe_alert(make_alert(is_above=False, threshold=5.0), NOW)
    assert shown["below"] == 5.0
    assert "above" not in shown


def test_an_id_stays_with_a_state_and_differs_between_states() -> None:
    firing = make_alert()
    again = make_alert(crosses_at=CrossingTimes(None, None, None), updated_at=NOW)
    others = [
        make_resolved_alert(),
        make_alert(starts_at=NOW),
        make_alert(server="db-08"),
        make_alert(rule="disk"),
        make_alert(state=AlertState.PENDING),
    ]
    assert make_notification_id(firing) == make_notification_id(again)
    assert len({make_notification_id(each) for each in (firing, *others)}) == 1 + len(others)
