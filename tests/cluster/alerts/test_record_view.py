"""Tests `streamd/cluster/alerts/record_view.py`: readers of any sequence of records know what its last one says."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from streamd.cluster.alerts.alert_records import AlertRecord
from streamd.cluster.alerts.record_view import RecordView
from streamd.runtime.alerts.alert import Alert, AlertChange, AlertKey, AlertState
from streamd.runtime.alerts.store import StoredAlert
from tests.support.made_alerts import make_alert, make_change, make_pending_alert, make_resolved_alert

SERVERS = ("a", "b", "c")


class NaiveOwner:
    """An owner that begins and ends alerts one by one, and has the record of them."""

    def __init__(self) -> None:
        self.active: dict[str, Alert] = {}
        self.resolved: list[Alert] = []
        self.time = 0.0

    def step(self, server: str) -> None:
        """Move a server's alert on: pending, firing, firing with a newer forecast, resolved."""
        self.time += 1.0
        alert = self.active.get(server)
        if alert is None:
            self.active[server] = make_pending_alert(server=server, updated_at=self.time)
        elif alert.state is AlertState.PENDING:
            self.active[server] = make_alert(server=server, starts_at=self.time, updated_at=self.time)
        elif alert.updated_at == alert.starts_at:
            self.active[server] = make_alert(server=server, starts_at=alert.starts_at, updated_at=self.time)
        else:
            del self.active[server]
            self.resolved.insert(0, make_resolved_alert(server=server, starts_at=alert.starts_at, ends_at=self.time))

    def drop(self, server: str) -> None:
        if server in self.active and self.active[server].state is AlertState.PENDING:
            del self.active[server]

    def record(self, kept: int) -> AlertRecord:
        return AlertRecord(
            fence=1,
            active=tuple(StoredAlert(alert, "print", 0) for alert in self.active.values()),
            resolved=tuple(self.resolved[:kept]),
        )


class Reader:
    def __init__(self) -> None:
        self.active: dict[AlertKey, Alert] = {}
        self.resolved: list[Alert] = []

    def take(self, batches: Sequence[Sequence[AlertChange]]) -> None:
        for batch in batches:
            keys = [change.alert.key for change in batch]
            assert len(set(keys)) == len(keys)
            for change in batch:
                self._take_one(change)

    def _take_one(self, change: AlertChange) -> None:
        alert = change.alert
        former = self.active.pop(alert.key, None)
        if alert.state is not AlertState.RESOLVED:
            assert former is None or change.kind != "pending" or former.state is AlertState.PENDING
            assert (change.kind == "refreshed") == (former is not None and former.state is alert.state)
            self.active[alert.key] = alert
        elif change.kind == "resolved":
            self.resolved.append(alert)


moves = st.lists(
    st.one_of(
        st.tuples(st.just("step"), st.sampled_from(SERVERS)),
        st.tuples(st.just("drop"), st.sampled_from(SERVERS)),
        st.tuples(st.just("read"), st.just("")),
    ),
    max_size=40,
)


@given(moves)
def test_readers_know_what_the_last_record_says_and_each_end_once(given_moves: list[tuple[str, str]]) -> None:
    owner, view, reader = NaiveOwner(), RecordView(), Reader()
    for move, server in [*given_moves, ("read", "")]:
        if move == "read":
            reader.take(view.follow(owner.record(kept=100)))
            assert reader.active == {alert.key: alert for alert in owner.active.values()}
        else:
            getattr(owner, move)(server)
    assert reader.resolved == owner.resolved[::-1]


def test_what_was_shown_otherwise_is_not_shown_again() -> None:
    view = RecordView()
    view.note([make_change(make_alert(server="a")), make_change(make_alert(server="b"))])
    view.note([make_change(make_resolved_alert(server="b"))])
    record = AlertRecord(
        active=(StoredAlert(make_alert(server="a"), "print", 0),), resolved=(make_resolved_alert(server="b"),)
    )
    assert view.follow(record) == []
    assert view.keys == [("disk_fills", "a")]


def test_a_firing_alert_without_a_record_of_its_end_is_dropped() -> None:
    view = RecordView()
    view.follow(AlertRecord(active=(StoredAlert(make_alert(), "print", 0),)))
    ((change,),) = view.follow(AlertRecord())
    assert (change.kind, change.alert.state) == ("dropped", AlertState.RESOLVED)
