"""Tests `streamd/runtime/alerts/alertmanager_queue.py`: what is sent, in which state, and how often."""

from hypothesis import given
from hypothesis import strategies as st

from streamd.runtime.alerts.alert import AlertState
from streamd.runtime.alerts.alertmanager_queue import AlertmanagerQueue
from tests.support.made_alerts import HeldAlerts, make_alert, make_pending_alert, make_resolved_alert

RESEND, EXPIRY = 60.0, 900.0


def make_queue(alerts: HeldAlerts, now: float = 0.0) -> AlertmanagerQueue:
    return AlertmanagerQueue(alerts.active, resend_seconds=RESEND, expiry_seconds=EXPIRY, now=now)


def test_all_that_fires_is_sent_at_the_start_and_again_at_each_interval() -> None:
    alerts = HeldAlerts(make_alert(server="a"), make_alert(server="b"), make_pending_alert(server="c"))
    queue = make_queue(alerts)
    assert queue.count_seconds(0.0) == 0.0
    assert [each.server for each in queue.take(500, 0.0)] == ["a", "b"]
    assert queue.take(500, 1.0) == []
    assert queue.count_seconds(20.0) == 40.0
    assert [each.server for each in queue.take(500, 60.0)] == ["a", "b"]


def test_an_alert_is_sent_in_its_newest_state() -> None:
    alerts = HeldAlerts(make_alert(updated_at=1.0))
    queue = make_queue(alerts)
    queue.note_firing(("disk_fills", "db-07"))
    newest = make_alert(updated_at=2.0)
    alerts.put(newest, "refreshed")
    assert queue.take(500, 0.0) == [newest]


def test_a_resolved_alert_is_repeated_until_it_has_expired() -> None:
    alerts = HeldAlerts()
    queue = make_queue(alerts)
    queue.take(500, 0.0)
    resolved = make_resolved_alert()
    queue.note_resolved(resolved, 10.0)
    assert queue.take(500, 10.0) == [resolved]
    sent = [now for now in range(11, 2_000) if queue.take(500, float(now)) == [resolved]]
    assert sent == list(range(60, 910, 60))


def test_a_former_resolve_counts_from_its_end() -> None:
    queue = make_queue(HeldAlerts())
    queue.note_resolved(make_resolved_alert(), 0.0, age_seconds=EXPIRY - 100)
    assert [now for now in range(300) if queue.take(500, float(now))] == [0, 60]
    queue.note_resolved(make_resolved_alert(), 0.0, age_seconds=EXPIRY)
    assert queue.due == 0


def test_an_alert_that_fires_again_is_not_sent_as_resolved() -> None:
    alerts = HeldAlerts()
    queue = make_queue(alerts)
    queue.note_resolved(make_resolved_alert(), 0.0)
    again = make_alert(starts_at=5.0)
    alerts.put(again)
    queue.note_firing(again.key)
    assert queue.take(500, 0.0) == [again]
    assert queue.take(500, 60.0) == [again]


def test_an_alert_that_is_pending_again_is_still_resolved() -> None:
    alerts = HeldAlerts()
    queue = make_queue(alerts)
    resolved = make_resolved_alert()
    queue.note_resolved(resolved, 0.0)
    alerts.put(make_pending_alert())
    assert queue.take(500, 0.0) == [resolved]


def test_what_could_not_be_sent_is_due_again() -> None:
    alerts = HeldAlerts(*(make_alert(server=str(number)) for number in range(5)))
    queue = make_queue(alerts)
    taken = queue.take(2, 0.0)
    queue.put_back(taken)
    assert {each.server for each in queue.take(5, 1.0)} == {"0", "1", "2", "3", "4"}


STEPS = st.lists(st.tuples(st.sampled_from(["fire", "resolve", "take", "fail"]), st.integers(0, 3)), max_size=60)


@given(STEPS)
def test_a_receiver_has_the_newest_state_of_each_alert_once_all_is_taken(steps: list[tuple[str, int]]) -> None:
    alerts = HeldAlerts()
    queue = make_queue(alerts)
    known: dict[str, AlertState] = {}
    for number, (what, server) in enumerate(steps):
        name = f"db-{server}"
        is_firing = ("disk_fills", name) in alerts.active
        if what == "fire" and not is_firing:
            alerts.put(make_alert(server=name, starts_at=float(number)))
            queue.note_firing(("disk_fills", name))
        elif what == "resolve" and is_firing:
            resolved = make_resolved_alert(server=name)
            alerts.put(resolved)
            queue.note_resolved(resolved, 0.0)
        elif what == "take":
            known |= {each.server: each.state for each in queue.take(2, 0.0)}
        else:
            queue.put_back(queue.take(2, 0.0))
        assert queue.due <= 4, "memory for each alert once"
    while not queue.count_seconds(0.0):
        known |= {each.server: each.state for each in queue.take(2, 0.0)}
    expected = {alert.server: AlertState.RESOLVED for alert in alerts.resolved}
    assert known == expected | {server: AlertState.FIRING for _, server in alerts.active}
