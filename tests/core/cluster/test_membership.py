"""Tests `streamd/core/cluster/membership.py`: who is alive, as one node hears it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamd.core.cluster.membership import (
    FORMER_RUN_SECONDS,
    HEARTBEAT_SECONDS,
    Heartbeat,
    Membership,
    NodePhase,
    find_namesake,
    is_able,
    is_eligible,
)

LEASE = 2.5


def beat(node: str, number: int, run: int = 1, phase: NodePhase = NodePhase.SERVING) -> Heartbeat:
    return Heartbeat(node=node, run=run, beat=number, time=0.0, phase=phase)


def hear_until(members: Membership, end: float, *nodes: str, begin: float = 0.0) -> None:
    """Hear the own heartbeats, and those of others, twice a second."""
    for number in range(int(begin / HEARTBEAT_SECONDS), int(end / HEARTBEAT_SECONDS) + 1):
        now = number * HEARTBEAT_SECONDS
        members.hear(beat("me", number + 1), now)
        for node in nodes:
            members.hear(beat(node, number + 1), now)


def names_alive(members: Membership, now: float) -> list[str]:
    return [each.node for each in members.list_alive(now)]


def test_a_silent_node_is_dead_after_the_lease_time() -> None:
    members = Membership("me", 1, LEASE, now=0.0)
    hear_until(members, 10.0, "a", "b")
    hear_until(members, 12.0, "b", begin=10.5)
    assert names_alive(members, 12.4) == ["a", "b", "me"]
    hear_until(members, 12.5, "b", begin=12.5)
    assert names_alive(members, 12.6) == ["b", "me"]


def test_suspicion_stands_still_while_the_own_heartbeats_do_not_come_back() -> None:
    members = Membership("me", 1, LEASE, now=0.0)
    hear_until(members, 10.0, "a")
    assert not members.is_observing(60.0)
    assert names_alive(members, 60.0) == ["a", "me"]
    members.hear(beat("me", 121), 60.0)
    hear_until(members, 62.0, begin=60.5)
    assert names_alive(members, 62.4) == ["a", "me"], "it has the whole time to be heard again"
    assert names_alive(members, 62.6) == ["me"]


def test_a_run_that_was_replaced_is_dead_at_once_and_its_late_heartbeats_change_nothing() -> None:
    members = Membership("me", 1, LEASE, now=0.0)
    hear_until(members, 1.0, "a")
    assert members.is_alive("a", 1, 1.0)
    assert members.hear(beat("a", 1, run=2), 1.1)
    assert not members.hear(beat("a", 99, run=1), 1.2)
    assert not members.is_alive("a", 1, 1.2)
    assert members.is_alive("a", 2, 1.2)


def test_a_lower_run_is_a_late_heartbeat_unless_the_higher_one_is_long_gone() -> None:
    members = Membership("me", 1, LEASE, now=0.0)
    hear_until(members, 0.5)
    members.hear(beat("a", 5, run=9), 0.5)
    hear_until(members, 60.0, begin=1.0)
    assert not members.hear(beat("a", 1, run=3), 60.0)
    hear_until(members, 61.0, begin=60.5)
    assert not members.hear(beat("a", 5, run=9), 61.0)
    assert members.hear(beat("a", 2, run=3), 61.0), "the table of nodes was deleted, and counts from the beginning"
    assert members.is_alive("a", 3, 61.0)


def test_a_heartbeat_that_comes_twice_keeps_nobody_alive() -> None:
    members = Membership("me", 1, LEASE, now=0.0)
    hear_until(members, 1.0, "a")
    hear_until(members, 4.0, begin=1.5)
    members.hear(beat("a", 3), 4.0)
    assert names_alive(members, 4.0) == ["me"]


def test_the_last_heartbeat_ends_a_run_at_once() -> None:
    members = Membership("me", 1, LEASE, now=0.0)
    hear_until(members, 1.0, "a")
    members.hear(beat("a", 9, phase=NodePhase.GONE), 1.1)
    assert not members.is_alive("a", 1, 1.1)
    assert not members.hear(beat("a", 8), 1.2), "one from before it came late"
    assert names_alive(members, 1.2) == ["me"]


def test_a_holder_that_was_never_heard_has_the_lease_time_to_be_heard() -> None:
    members = Membership("me", 1, LEASE, now=0.0)
    hear_until(members, 5.0)
    assert members.is_alive("a", 7, 5.0)
    hear_until(members, 7.0, begin=5.5)
    assert members.is_alive("a", 7, 7.4)
    hear_until(members, 7.5, begin=7.5)
    assert not members.is_alive("a", 7, 7.5)


def test_of_two_nodes_with_one_name_the_one_that_began_first_learns_it() -> None:
    members = Membership("me", 1, LEASE, now=0.0)
    hear_until(members, 1.0)
    assert not members.is_replaced
    members.hear(beat("me", 1, run=2), 1.1)
    hear_until(members, 2.0, begin=1.5)
    assert members.is_replaced


def test_a_node_that_is_about_to_start_finds_the_one_that_has_its_name() -> None:
    assert find_namesake([beat("a", 1), beat("b", 1)], "c") is None
    assert find_namesake([beat("a", 1), beat("b", 1)], "b") == beat("b", 1)
    assert find_namesake([beat("b", 1, phase=NodePhase.GONE)], "b") is None


def test_calm_begins_anew_when_a_node_comes_goes_or_restarts_and_after_a_long_own_silence() -> None:
    members = Membership("me", 1, LEASE, now=0.0)
    hear_until(members, 10.0, "a")
    members.measure_calm(0.5)
    assert members.measure_calm(10.0) >= 9.0
    members.hear(beat("a", 1, run=2), 10.1)
    assert members.measure_calm(10.2) == 0.0
    assert 0.5 < members.measure_calm(11.0) < 1.0
    members.hear(beat("me", 50), 20.0)
    assert members.measure_calm(20.0) == 0.0


def test_pauses_shorter_than_the_lease_only_do_not_count_as_calm() -> None:
    members = Membership("me", 1, LEASE, now=0.0)
    number, now = 0, 0.0
    for _ in range(10):
        for _ in range(4):
            number, now = number + 1, now + 0.5
            for node in ("me", "a"):
                members.hear(beat(node, number), now)
            members.measure_calm(now)
        now += 2.0  # nothing is heard for 2.5 s, a little less than the lease
        now -= 0.1
    assert 14.0 < members.measure_calm(now) < 25.0


def test_a_node_is_eligible_if_it_serves_without_a_hindrance() -> None:
    assert is_eligible(beat("a", 1))
    for phase in (NodePhase.JOINING, NodePhase.DRAINING, NodePhase.LEAVING, NodePhase.GONE):
        assert not is_eligible(beat("a", 1, phase=phase))
    slow = Heartbeat(node="a", run=1, beat=1, time=0.0, hindrances=("disk",))
    assert not is_eligible(slow)
    assert is_able(slow)
    assert not is_able(Heartbeat(node="a", run=1, beat=1, time=0.0, hindrances=("version",), cannot_own=True))
    assert is_able(beat("a", 1, phase=NodePhase.DRAINING))
    assert not is_able(beat("a", 1, phase=NodePhase.LEAVING))


def test_nodes_that_were_silent_for_an_hour_are_forgotten() -> None:
    members = Membership("me", 1, LEASE, now=0.0)
    hear_until(members, 1.0, "a")
    now = 1.0
    for number in range(4, 3_700):
        now += 1.0
        members.hear(beat("me", number), now)
    assert members.remove_silent(now) == ["a"]
    assert members.remove_silent(now) == []


def test_nodes_that_are_long_gone_leave_room_for_new_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamd.core.cluster.membership.MAX_NODES", 2)
    members = Membership("me", 1, LEASE, now=0.0)
    hear_until(members, 1.0, "a")
    assert not members.hear(beat("b", 1), 1.0)
    now = 1.0
    for number in range(4, 3_700):
        now += 1.0
        members.hear(beat("me", number), now)
    assert members.hear(beat("b", 2), now)
    assert [each.node for each in members.list_alive(now)] == ["b", "me"]


@given(st.lists(st.tuples(st.sampled_from(["me", "a", "b"]), st.integers(1, 3), st.integers(0, 8), st.floats(0, 2))))
def test_a_node_is_alive_exactly_if_its_newest_run_was_heard_lately(
    heard: list[tuple[str, int, int, float]],
) -> None:
    """Against a naive model, with the own heartbeats coming all the time."""
    members = Membership("me", 9, LEASE, now=0.0)
    newest: dict[str, tuple[int, int]] = {}
    at: dict[str, float] = {}
    now = own = 0.0
    for number, (node, run, count, seconds) in enumerate(heard):
        now += min(seconds, 1.0)
        members.hear(Heartbeat(node="me", run=9, beat=100 + number, time=0.0), now)
        own = now
        former = newest.get(node, (0, -1))
        is_anew = run < former[0] and now - at[node] >= FORMER_RUN_SECONDS
        if node != "me" and ((run, count) > former or is_anew):
            newest[node], at[node] = (run, count), now
        members.hear(beat(node, count, run=run), now)
        now += seconds / 4
        expected = {other for other in at if now - at[other] < LEASE - 1e-9}
        expected_now = {name for name in names_alive(members, now) if name != "me"}
        assert now - own <= 0.5
        assert expected_now == expected
