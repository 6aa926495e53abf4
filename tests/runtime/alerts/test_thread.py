"""Tests `streamd/runtime/alerts/thread.py`: changes are stored and then published, also while the disk refuses them."""

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from unittest.mock import Mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamd.core.errors import StorageError
from streamd.runtime.alerts.alert import AlertChange, AlertState
from streamd.runtime.alerts.noted import NotedSlots
from streamd.runtime.alerts.store import open_alert_store
from streamd.runtime.alerts.thread import AlertThread
from streamd.runtime.state.state import State
from tests.support.alert_rig import CPU_RULE, AlertRig, make_alert_rules
from tests.support.naive_alerts import NaiveAlert, Verdict
from tests.support.state_files import opened

HIGH, LOW = 95.0, 50.0


class Turns:
    """The turns of a thread, which a test makes by itself."""

    def __init__(self, state: State, needed: int = 1) -> None:
        self.needed = needed
        self.rig = AlertRig(state, r={**CPU_RULE, "for": needed})
        self.noted = NotedSlots(state.directory.capacity, lambda: self.rig.clock)
        self.published: list[tuple[str, str]] = []
        self.stored_when_published: list[list[str]] = []
        self.thread = AlertThread(
            self.rig.evaluator, self.noted, self._publish, wall=lambda: self.rig.now, clock=lambda: self.rig.clock
        )
        self.thread.open(state.folder)

    def _publish(self, changes: Sequence[AlertChange]) -> None:
        self.published += [(change.kind, change.alert.server) for change in changes]
        if self.thread.store is not None:
            self.stored_when_published.append([each.alert.server for each in self.thread.store.read_active()])

    def turn(self, *tops: tuple[str, float]) -> list[tuple[str, str]]:
        """Post forecasts, let a second pass, and return what the turn published."""
        self.published = []
        for server, top in tops:
            self.rig.forecast(server, top)
            self.noted.note(np.array([self.rig.get_slot(server)]))
        self.rig.clock += 1.0
        self.thread.run_once()
        return self.published

    def restart(self) -> "Turns":
        """Return the turns of the next process, after its first one."""
        next_one = Turns(self.rig.state, self.needed)
        next_one.rig.steps = self.rig.steps
        next_one.turn()
        return next_one

    def forget(self, server: str) -> None:
        """Forget a server, and let a turn notice it."""
        slot = self.rig.get_slot(server)
        self.rig.state.forget(slot)
        self.rig.evaluator.forget(slot, None)
        self.turn()

    def rewind(self, server: str) -> None:
        """Drop the newest row of a server, with its forecast, and let a turn notice it."""
        self.rig.steps[server] -= 1
        slot = self.rig.get_slot(server)
        self.rig.state.rewind(slot, self.rig.steps[server])
        self.rig.evaluator.forget(slot, server)
        self.turn()


@pytest.fixture
def turns(tmp_path: Path) -> Iterator[Turns]:
    """Make a thread over an open state."""
    with opened(tmp_path) as state:
        turns = Turns(state)
        yield turns
        turns.thread.close()


def read_stored(turns: Turns) -> dict[str, int]:
    """Return the origins of the alerts that are active on the disk, by server."""
    assert turns.thread.store is not None, "it was opened"
    return {each.alert.server: each.alert.origin for each in turns.thread.store.read_active()}


def test_an_alert_is_on_the_disk_before_it_is_published(turns: Turns) -> None:
    assert turns.turn(("db-1", HIGH)) == [("fired", "db-1")]
    assert turns.stored_when_published == [["db-1"]]


def test_only_what_was_noted_is_evaluated(turns: Turns) -> None:
    turns.rig.forecast("db-1", HIGH)
    assert turns.turn(("db-2", HIGH)) == [("fired", "db-2")]


def test_refreshed_alerts_are_stored_after_a_while(turns: Turns) -> None:
    turns.turn(("db-1", HIGH))
    former = read_stored(turns)
    assert turns.turn(("db-1", HIGH)) == [("refreshed", "db-1")]
    assert read_stored(turns) == former
    turns.rig.clock += 30.0
    turns.turn()
    assert read_stored(turns) == {"db-1": former["db-1"] + 300}


def test_refreshed_alerts_are_stored_with_the_next_change_and_at_the_end(turns: Turns) -> None:
    turns.turn(("db-1", HIGH))
    first = read_stored(turns)["db-1"]
    turns.turn(("db-1", HIGH))
    turns.turn(("db-2", HIGH))
    assert read_stored(turns)["db-1"] == first + 300
    turns.turn(("db-1", HIGH))
    turns.thread.close()
    turns.thread.store = open_alert_store(turns.rig.state.folder)
    assert read_stored(turns)["db-1"] == first + 600


def test_changes_that_cannot_be_stored_are_published_and_stored_later(
    turns: Turns, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(changes: object = ()) -> None:
        raise StorageError("the disk is full")

    monkeypatch.setattr(turns.thread.store, "write", refuse)
    assert turns.turn(("db-1", HIGH), ("db-2", HIGH)) == [("fired", "db-1"), ("fired", "db-2")]
    assert turns.turn(("db-1", LOW)) == [("resolved", "db-1")]
    assert read_stored(turns) == {}
    assert turns.thread.failures >= 2
    monkeypatch.undo()
    turns.rig.clock += 30.0
    turns.turn()
    assert list(read_stored(turns)) == ["db-2"]
    assert turns.thread.store is not None
    assert [alert.server for alert in turns.thread.store.read_resolved()] == ["db-1"]


def test_without_a_store_alerts_are_published_all_the_same(tmp_path: Path) -> None:
    with opened(tmp_path) as state:
        (tmp_path / "alerts.sqlite").mkdir()
        turns = Turns(state)
        assert turns.thread.store is None
        assert turns.turn(("db-1", HIGH)) == [("fired", "db-1")]
        turns.thread.close()


def test_a_store_that_cannot_be_read_does_not_keep_the_daemon_from_starting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(tmp_path) as state:
        turns = Turns(state)
        monkeypatch.setattr("streamd.runtime.alerts.thread.open_alert_store", Mock(side_effect=TypeError("a defect")))
        has_opened = threading.Event()
        turns.thread.start(tmp_path, lambda resolved: has_opened.set())
        assert has_opened.wait(10)
        turns.thread.stop(10)
        assert turns.thread.failures == 1


def test_forecasts_of_the_former_process_are_judged_without_a_store_too(tmp_path: Path) -> None:
    with opened(tmp_path) as state:
        (tmp_path / "alerts.sqlite").mkdir()
        AlertRig(state).forecast("db-1", HIGH)
        turns = Turns(state)
        turns.rig.get_slot("db-1")
        assert turns.turn() == [("fired", "db-1")]
        turns.thread.close()


def test_marks_of_deliveries_are_stored_in_the_next_turn(turns: Turns) -> None:
    assert turns.thread.store is not None
    turns.thread.store.mark_delivered("hook", ("r", "db-1"), 5.0, AlertState.FIRING)
    turns.turn()
    assert not turns.thread.store.has_waiting_marks


def test_other_rules_apply_from_the_next_turn_on(turns: Turns) -> None:
    turns.turn(("db-1", HIGH))
    turns.thread.replace_rules(make_alert_rules(turns.rig.state, {"s": {**CPU_RULE, "for": 1}}))
    assert turns.turn(("db-1", HIGH)) == [("resolved", "db-1"), ("fired", "db-1")]


def test_a_server_that_was_forgotten_is_noticed_without_a_forecast(turns: Turns) -> None:
    turns.turn(("db-1", HIGH))
    turns.rig.evaluator.forget(turns.rig.get_slot("db-1"), None)
    assert turns.turn() == [("resolved", "db-1")]


def test_silent_servers_are_noticed(turns: Turns) -> None:
    turns.turn(("db-1", HIGH))
    found = []
    while turns.rig.clock < 3_700.0:
        turns.rig.clock += 40.0
        found += turns.turn()
    assert found == [("resolved", "db-1")]


def test_many_changes_are_published_in_pieces(turns: Turns, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamd.runtime.alerts.thread.MAX_PUBLISHED", 2)
    assert len(turns.turn(("db-1", HIGH), ("db-2", HIGH), ("db-3", HIGH))) == 3
    assert len(turns.stored_when_published) == 2


def test_a_forecast_that_the_former_process_did_not_judge_is_judged_after_the_restart(turns: Turns) -> None:
    turns.turn(("db-1", HIGH))
    turns.rig.forecast("db-1", LOW)
    turns.rig.forecast("db-2", HIGH)
    turns.thread.close()
    next_one = Turns(turns.rig.state)
    next_one.rig.steps = turns.rig.steps
    assert next_one.turn() == [("resolved", "db-1"), ("fired", "db-2")]
    assert next_one.turn() == []
    next_one.thread.close()


EVENTS = st.lists(
    st.tuples(st.sampled_from(["forecast"] * 6 + ["restart", "rewind", "forget"]), st.sampled_from(["db-1", "db-2"]))
    | st.tuples(st.just("forecast"), st.sampled_from(["db-1", "db-2"])),
    max_size=30,
)


@settings(max_examples=25)
@given(events=EVENTS, tops=st.randoms(use_true_random=False))
def test_alerts_are_those_of_each_server_by_itself_whatever_happens_in_between(
    tmp_path_factory: pytest.TempPathFactory, events: list[tuple[str, str]], tops: Random
) -> None:
    with opened(tmp_path_factory.mktemp("state")) as state:
        turns = Turns(state, needed=2)
        naive = {server: NaiveAlert(2) for server in ("db-1", "db-2")}
        for event, server in events:
            if event == "restart":
                turns.thread.close()
                turns = turns.restart()
            elif event == "forecast":
                top, verdict = tops.choice([(HIGH, Verdict.BREACHING), (89.0, Verdict.BAND), (LOW, Verdict.CLEAR)])
                turns.turn((server, top))
                naive[server].judge(turns.rig.steps[server], verdict)
            elif server in turns.rig.steps:
                (turns.forget if event == "forget" else turns.rewind)(server)
                (naive[server].forget if event == "forget" else naive[server].rewind)()
            found = {alert.server: alert.state.value for alert in turns.rig.evaluator.active.values()}
            assert found == {name: each.state for name, each in naive.items() if each.state != "inactive"}
        turns.thread.close()


def test_a_new_thread_continues_and_knows_what_was_resolved(turns: Turns) -> None:
    turns.turn(("db-1", HIGH), ("db-2", HIGH))
    turns.turn(("db-2", LOW))
    turns.thread.close()
    next_one = Turns(turns.rig.state)
    assert next_one.published == [("refreshed", "db-1")]
    next_one.thread.close()
    resolved = AlertThread(next_one.rig.evaluator, next_one.noted, lambda changes: None)
    assert [alert.server for alert in resolved.open(turns.rig.state.folder)] == ["db-2"]
    resolved.close()
