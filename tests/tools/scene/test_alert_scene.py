"""Tests `streamd/tools/scene/alert_scene.py`: the faults of a scene, and its report."""

from streamd.tools.loadtest.terminal import Terminal
from streamd.tools.scene.alert_scene import AlertSceneResult, format_alert_scene
from streamd.tools.scene.notifications import NotificationCounter


def make_result() -> AlertSceneResult:
    counter = NotificationCounter()
    for server in ("db-0", "db-1"):
        for state in ("firing", "resolved"):
            counter.by_alertmanager[server, state] = counter.by_daemon[server, state] = 1
            counter.ids.add(server + state)
    return AlertSceneResult(alerts=2, counter=counter, seconds=74.0, webhook_repeats=0)


def test_one_notification_of_each_state_is_no_fault() -> None:
    assert make_result().list_faults() == []


def test_what_alertmanager_notifies_twice_is_a_fault() -> None:
    result = make_result()
    result.counter.by_alertmanager["db-0", "firing"] += 1
    assert result.list_faults() == ["Alertmanager: db-0 as firing: 2 times"]


def test_what_the_daemon_repeats_with_the_same_id_is_none() -> None:
    result = make_result()
    result.counter.by_daemon["db-0", "firing"] += 1
    assert result.list_faults() == []
    result.counter.ids.add("another")
    assert result.list_faults() == ["the webhook got 5 ids, expected 4"]


def test_what_is_not_notified_is_a_fault() -> None:
    result = make_result()
    del result.counter.by_alertmanager["db-1", "resolved"]
    del result.counter.by_daemon["db-1", "resolved"]
    assert result.list_faults() == [
        "Alertmanager notified 1 servers as resolved, expected 2",
        "the webhook notified 1 servers as resolved, expected 2",
    ]


def test_the_report_has_the_counts_and_the_faults() -> None:
    result = make_result()
    result.counter.by_alertmanager["db-0", "firing"] += 1
    report = "\n".join(format_alert_scene(result, Terminal()))
    assert "3 firing and 2 resolved notifications of 2 alerts" in report
    assert "4 notifications with 4 ids, so 0 of them repeated" in report
    assert "db-0 as firing: 2 times" in report
