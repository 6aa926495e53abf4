"""Tests `streamd/runtime/alerts/alertmanager.py`: an alert as Alertmanager takes it."""

import re
from datetime import datetime

from hypothesis import given
from hypothesis import strategies as st

from streamd.runtime.alerts.alert import Alert, CrossingTimes
from streamd.runtime.alerts.alertmanager import make_alertmanager_alert, make_labels
from tests.support.made_alerts import NOW, make_alert, make_resolved_alert

TIMES = st.floats(NOW - 10_000, NOW + 10_000)


def read_time(shown: str) -> float:
    return datetime.fromisoformat(shown).timestamp()


def make(alert: Alert, source_url: str = "") -> dict[str, object]:
    return make_alertmanager_alert(alert, NOW, expiry_seconds=900.0, source_url=source_url)


def test_an_active_alert_ends_only_if_nothing_repeats_it() -> None:
    shown = make_alertmanager_alert(make_alert(), NOW, expiry_seconds=900.0)
    assert shown["startsAt"] == "2023-11-14T22:11:40.000Z"
    assert shown["endsAt"] == "2023-11-14T22:28:20.000Z"
    assert read_time(shown["endsAt"]) == NOW + 900


def test_a_resolved_alert_keeps_its_annotations_and_has_its_end() -> None:
    shown = make_alertmanager_alert(make_resolved_alert(), NOW, expiry_seconds=900.0)
    assert read_time(shown["endsAt"]) == NOW - 50
    assert shown["annotations"]["summary"].startswith("disk_usage of db-07: no longer")
    assert shown["annotations"]["runbook_url"] == "https://runbooks/disk"


@given(TIMES, TIMES, st.booleans())
def test_no_alert_starts_ahead_or_ends_before_it_starts(starts_at: float, ends_at: float, is_resolved: bool) -> None:
    alert = (
        make_resolved_alert(starts_at=starts_at, ends_at=ends_at) if is_resolved else make_alert(starts_at=starts_at)
    )
    shown = make_alertmanager_alert(alert, NOW, expiry_seconds=900.0)
    assert read_time(shown["startsAt"]) <= read_time(shown["endsAt"])
    assert read_time(shown["startsAt"]) <= NOW
    assert not is_resolved or read_time(shown["endsAt"]) <= NOW, "it would stay active"


def test_the_labels_never_change_while_an_alert_is_active() -> None:
    firing = make_alert()
    later = make_alert(crosses_at=CrossingTimes(None, None, None), origin=int(NOW), model="other", updated_at=NOW)
    assert make_labels(firing) == make_labels(later) == make_labels(make_resolved_alert())
    assert make_labels(firing) == {
        "alertname": "disk_fills",
        "server": "db-07",
        "target": "disk_usage",
        "severity": "warning",
        "team": "storage",
    }


def test_the_range_is_in_the_annotations() -> None:
    shown = make_alertmanager_alert(
        make_alert(crosses_at=CrossingTimes(NOW, NOW + 60, None)), NOW, expiry_seconds=900.0
    )
    assert shown["annotations"]["crosses_earliest"] == "2023-11-14T22:13:20.000Z"
    assert shown["annotations"]["crosses_likely"] == "2023-11-14T22:14:20.000Z"
    assert "crosses_latest" not in shown["annotations"]
    assert all(re.fullmatch("[a-zA-Z_][a-zA-Z0-9_]*", name) for name in shown["annotations"])


def test_a_rule_may_have_its_own_summary() -> None:
    shown = make_alertmanager_alert(make_alert(annotations={"summary": "Disk!"}), NOW, expiry_seconds=900.0)
    assert shown["annotations"]["summary"] == "Disk!"


def test_the_link_is_a_url_or_absent() -> None:
    assert "generatorURL" not in make(make_alert())
    linked = make(make_alert(server="a b/ä&x"), "https://streamd.example/base/")
    assert linked["generatorURL"] == ("https://streamd.example/base/v1/alerts?rule=disk_fills&server=a+b%2F%C3%A4%26x")
