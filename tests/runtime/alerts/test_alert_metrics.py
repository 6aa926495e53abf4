"""Tests `streamd/runtime/alerts/alert_metrics.py`: crossing times of active alerts as samples."""

from streamd.runtime.alerts.alert import CrossingTimes
from streamd.runtime.alerts.alert_metrics import iterate_seconds_until
from tests.support.made_alerts import NOW, HeldAlerts, make_alert, make_pending_alert, make_resolved_alert


def test_each_bound_that_crosses_has_a_sample_never_below_zero() -> None:
    alerts = HeldAlerts(make_alert(crosses_at=CrossingTimes(NOW - 5, NOW + 60, None)), make_resolved_alert(server="b"))
    assert list(iterate_seconds_until(alerts, NOW, lambda server: True)) == [
        ("disk_fills", "db-07", "earliest", 0.0),
        ("disk_fills", "db-07", "likely", 60.0),
    ]


def test_only_servers_that_may_be_read_are_named() -> None:
    alerts = HeldAlerts(make_pending_alert(server="db-1"), make_alert(server="web-1"))
    found = list(iterate_seconds_until(alerts, NOW, lambda server: server.startswith("db-")))
    assert {each.server for each in found} == {"db-1"}


def test_alerts_may_change_in_between() -> None:
    alerts = HeldAlerts(*(make_alert(server=str(number)) for number in range(3)))
    samples = iterate_seconds_until(alerts, NOW, lambda server: True)
    next(samples)
    alerts.active.clear()
    assert {each.server for each in samples} == {"0", "1", "2"}
