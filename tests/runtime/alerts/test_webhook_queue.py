"""Tests `streamd/runtime/alerts/webhook_queue.py`: each state that is still the newest reaches the receiver."""

from hypothesis import given
from hypothesis import strategies as st

from streamd.runtime.alerts.alert import Alert, AlertKey, AlertState
from streamd.runtime.alerts.webhook_queue import WebhookQueue
from tests.support.made_alerts import make_alert, make_resolved_alert


def restore(firing: list[Alert], resolved: list[Alert], confirmed: set[tuple[float, AlertState]]) -> list[Alert]:
    queue = WebhookQueue()
    queue.restore(firing, resolved, lambda alert, state: (alert.starts_at or 0.0, state) in confirmed)
    return queue.peek(100)


def test_a_newer_state_replaces_one_that_waits() -> None:
    queue = WebhookQueue()
    resolved = make_resolved_alert()
    queue.note(make_alert())
    queue.note(make_alert(server="other"))
    queue.note(resolved)
    assert queue.peek(1) == [resolved]
    assert len(queue) == 2


def test_a_state_that_came_during_a_post_is_not_confirmed_by_it() -> None:
    queue = WebhookQueue()
    queue.note(make_alert())
    sent = queue.peek(10)
    queue.note(make_resolved_alert())
    queue.confirm(sent)
    assert [each.state for each in queue.peek(10)] == [AlertState.RESOLVED]
    queue.confirm(queue.peek(10))
    assert len(queue) == 0


def test_postponed_alerts_wait_behind_the_others() -> None:
    queue = WebhookQueue()
    for server in ("a", "b", "c"):
        queue.note(make_alert(server=server))
    queue.postpone(queue.peek(1))
    assert [each.server for each in queue.peek(10)] == ["b", "c", "a"]
    queue.postpone([make_alert(server="gone")])
    assert len(queue) == 3


def test_after_a_restart_only_what_was_not_confirmed_waits() -> None:
    firing = make_alert(starts_at=1.0)
    assert restore([firing], [], set()) == [firing]
    assert restore([firing], [], {(1.0, AlertState.FIRING)}) == []


def test_a_resolved_alert_waits_only_if_its_receiver_knows_that_it_fired() -> None:
    resolved = make_resolved_alert(starts_at=1.0)
    assert restore([], [resolved], set()) == [], "a new receiver does not get the history"
    assert restore([], [resolved], {(1.0, AlertState.FIRING)}) == [resolved]
    assert restore([], [resolved], {(1.0, AlertState.FIRING), (1.0, AlertState.RESOLVED)}) == []


def test_of_several_alerts_of_a_rule_and_a_server_the_newest_counts() -> None:
    older, newer = make_resolved_alert(starts_at=1.0), make_resolved_alert(starts_at=2.0)
    known = {(1.0, AlertState.FIRING), (2.0, AlertState.FIRING)}
    assert restore([], [newer, older], known) == [newer]
    again = make_alert(starts_at=3.0)
    assert restore([again], [newer, older], known) == [again]


Identity = tuple[str, float, AlertState]


class WebhookRun:
    """Alerts, a queue for them, and what a receiver of them got."""

    def __init__(self) -> None:
        self.queue = WebhookQueue()
        self.active: dict[AlertKey, Alert] = {}
        self.resolved: list[Alert] = []
        self.confirmed: set[Identity] = set()
        self.delivered: list[Identity] = []
        self.repeats = 0
        self.is_restarted = False

    def change(self, server: str, now: float) -> None:
        """Let an alert fire, or end if it fires."""
        key = "disk_fills", server
        if key not in self.active:
            alert = self.active[key] = make_alert(server=server, starts_at=now)
        else:
            alert = make_resolved_alert(server=server, starts_at=self.active.pop(key).starts_at, ends_at=now)
            self.resolved.insert(0, alert)
        self.queue.note(alert)

    def restart(self) -> None:
        self.queue, self.is_restarted = WebhookQueue(), True
        self.queue.restore(
            self.active.values(),
            self.resolved,
            lambda alert, state: (alert.server, alert.starts_at, state) in self.confirmed,
        )

    def send(self, *, is_answered: bool) -> None:
        sent = self.queue.peek(2)
        self.delivered += map(identify, sent)
        if is_answered:
            self.confirmed |= set(map(identify, sent))
            self.queue.confirm(sent)
        else:
            self.repeats += len(sent)


def identify(alert: Alert) -> Identity:
    return alert.server, alert.starts_at or 0.0, alert.state


@given(st.lists(st.tuples(st.sampled_from(["change", "sent", "lost", "restart"]), st.integers(0, 2)), max_size=60))
def test_each_newest_state_is_delivered_and_none_twice_unless_an_answer_was_lost(steps: list[tuple[str, int]]) -> None:
    run = WebhookRun()
    for number, (what, place) in enumerate(steps):
        if what == "change":
            run.change(f"db-{place}", number + 1.0)
        elif what == "restart":
            run.restart()
        else:
            run.send(is_answered=what == "sent")
    while len(run.queue):
        run.send(is_answered=True)
    assert len(run.delivered) - len(set(run.delivered)) <= run.repeats
    assert set(map(identify, run.active.values())) <= set(run.delivered)
    for server in {each.server for each in run.resolved} - {server for _, server in run.active}:
        newest = next(each for each in run.resolved if each.server == server)
        fired = server, newest.starts_at or 0.0, AlertState.FIRING
        assert identify(newest) in run.delivered or (run.is_restarted and fired not in run.confirmed)
