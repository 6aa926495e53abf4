"""Tests `streamd/runtime/alerts/silencing.py`: what receivers are notified of, whatever happens in between."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamd.core.selection import ServerGlobs
from tests.support.alert_rig import CPU_RULE, make_alert_rules
from tests.support.silence_rig import HIGH, LOW, SilenceRig
from tests.support.state_files import opened


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[SilenceRig]:
    with opened(tmp_path) as state:
        yield SilenceRig(state)


def test_an_alert_that_begins_while_silenced_is_sent_when_the_silence_ends(rig: SilenceRig) -> None:
    rig.begin(60.0)
    rig.forecast("db-1", HIGH)
    assert (rig.take_notified(), rig.find_ends()) == ([], {"db-1": rig.now + 60.0})
    rig.wait(60.0)
    assert (rig.take_notified(), rig.find_ends()) == ([("firing", "db-1")], {"db-1": None})
    rig.forecast("db-1", LOW)
    assert rig.take_notified() == [("resolved", "db-1")]


def test_an_alert_that_begins_and_ends_while_silenced_is_never_sent(rig: SilenceRig) -> None:
    rig.begin(60.0)
    rig.forecast("db-1", HIGH)
    rig.forecast("db-1", LOW)
    rig.wait(60.0)
    assert rig.take_notified() == []


def test_the_end_of_an_alert_that_was_sent_before_the_silence_is_sent(rig: SilenceRig) -> None:
    rig.forecast("db-1", HIGH)
    rig.begin(60.0)
    assert rig.changes == [("fired", "db-1"), ("silenced", "db-1")]
    rig.forecast("db-1", LOW)
    assert rig.take_notified() == [("firing", "db-1"), ("resolved", "db-1")]


def test_of_several_silences_the_one_that_ends_last_counts(rig: SilenceRig) -> None:
    start = rig.now
    rig.begin(60.0, "a")
    rig.forecast("db-1", HIGH)
    rig.begin(30.0, "b")
    assert rig.find_ends() == {"db-1": start + 60.0}
    rig.begin(90.0, "c", servers=("db-*",))
    assert rig.find_ends() == {"db-1": start + 90.0}
    rig.end("c")
    assert rig.find_ends() == {"db-1": start + 60.0}
    rig.wait(30.0)
    assert rig.find_ends() == {"db-1": start + 60.0}
    assert rig.take_notified() == []


def test_a_silence_of_another_rule_or_server_changes_nothing(rig: SilenceRig) -> None:
    rig.begin(60.0, "a", servers=("web-*",))
    rig.begin(60.0, "b", rules=("other",))
    rig.forecast("db-1", HIGH)
    assert rig.take_notified() == [("firing", "db-1")]


def test_a_clock_that_jumps_ahead_ends_a_silence_and_one_that_jumps_back_does_not(rig: SilenceRig) -> None:
    rig.begin(60.0)
    rig.forecast("db-1", HIGH)
    rig.wait(-86_400.0)
    assert rig.take_notified() == []
    rig.wait(86_400.0 + 3_600.0)
    assert rig.take_notified() == [("firing", "db-1")]
    rig.wait(-3_600.0)
    assert rig.find_ends() == {"db-1": None}, "it has ended"


def test_a_rule_that_is_changed_while_its_alert_is_withheld_tells_no_receiver(rig: SilenceRig) -> None:
    rig.begin(60.0)
    rig.forecast("db-1", HIGH)
    rig.thread.replace_rules(make_alert_rules(rig.rig.state, {"r": {**CPU_RULE, "for": 1, "above": 80.0}}))
    rig.forecast("db-1", HIGH)
    assert [kind for kind, _ in rig.changes] == ["fired", "resolved", "fired"]
    assert (rig.take_notified(), rig.find_ends()) == ([], {"db-1": rig.now + 60.0}), (
        "the new definition is silenced too"
    )


# ---------------------------------------------------------------- whatever happens
@dataclass
class NaiveReceivers:
    """What receivers are notified of, as the documents define it."""

    now: float
    silences: dict[str, tuple[str, float]] = field(default_factory=dict)
    firing: dict[str, bool] = field(default_factory=dict)
    """By server, whether its receivers know of its alert."""
    notified: list[tuple[str, str]] = field(default_factory=list)

    def find_end(self, server: str) -> float | None:
        ends = [end for glob, end in self.silences.values() if ServerGlobs([glob]).matches(server)]
        return max(ends, default=None)

    def fire(self, server: str) -> None:
        if server not in self.firing:
            self.firing[server] = False
            self.release()

    def resolve(self, server: str) -> None:
        if self.firing.pop(server, False):
            self.notified.append(("resolved", server))

    def release(self) -> None:
        """Forget the silences that have ended, and notify of what they withheld."""
        self.silences = {name: each for name, each in self.silences.items() if each[1] > self.now}
        for server, is_known in self.firing.items():
            if not is_known and self.find_end(server) is None:
                self.firing[server] = True
                self.notified.append(("firing", server))

    def take_notified(self) -> list[tuple[str, str]]:
        notified, self.notified = self.notified, []
        return sorted(notified)


SERVERS = st.sampled_from(["db-1", "db-2", "web-1"])
EVENTS = st.lists(
    st.tuples(st.just("high"), SERVERS)
    | st.tuples(st.just("low"), SERVERS)
    | st.tuples(st.just("silence"), st.tuples(st.sampled_from(["*", "db-*", "web-1"]), st.integers(1, 9)))
    | st.tuples(st.sampled_from(["wait", "kill"]), st.integers(0, 4))
    | st.tuples(st.just("end"), st.integers(0, 3))
    | st.tuples(st.just("forget"), SERVERS),
    min_size=5,
    max_size=25,
)


@settings(max_examples=80)
@given(events=EVENTS)
def test_receivers_know_of_each_alert_that_is_not_silenced_and_of_its_end(
    tmp_path_factory: pytest.TempPathFactory, events: list[tuple[str, Any]]
) -> None:
    with opened(tmp_path_factory.mktemp("state")) as state:
        rig = SilenceRig(state)
        naive = NaiveReceivers(rig.now)
        for number, (event, value) in enumerate(events):
            rig = apply_event(rig, naive, number, event, value)
            assert rig.take_notified() == naive.take_notified(), (number, event, value)
            assert rig.find_ends() == {server: naive.find_end(server) for server in naive.firing}
            assert [each.id for each in rig.silences] == list(naive.silences)
        rig.thread.close()


def apply_event(rig: SilenceRig, naive: NaiveReceivers, number: int, event: str, value: Any) -> SilenceRig:
    if event in ("high", "low"):
        rig.forecast(value, HIGH if event == "high" else LOW)
        (naive.fire if event == "high" else naive.resolve)(value)
    elif event == "silence":
        glob, seconds = value
        rig.now += 0.001  # so that their order is known
        naive.now = rig.now
        rig.begin(seconds, f"s{number}", servers=(glob,))
        naive.silences[f"s{number}"] = glob, naive.now + seconds
    elif event == "end" and value < len(naive.silences):
        ended = list(naive.silences)[value]
        rig.end(ended)
        del naive.silences[ended]
    elif event in ("wait", "kill"):
        naive.now += value
        if event == "kill":
            rig = rig.kill(seconds_away=value)
        else:
            rig.wait(value)
    elif event == "forget" and value in rig.rig.steps:
        rig.forget(value)
        naive.resolve(value)
    naive.release()
    return rig
