"""Tests `streamd/core/cluster/leases.py`: what a node does about its shards, and a cluster without faults in time."""

from collections.abc import Sequence

import pytest

from streamd.core.cluster.balancing import BALANCE_PATIENCE
from streamd.core.cluster.lease_actions import (
    Abandon,
    Action,
    Activate,
    AskHandover,
    Lease,
    Prepare,
    ReleaseLease,
    Stop,
    TakeLease,
)
from streamd.core.cluster.leases import MAX_PREPARING, LeaseBook
from streamd.core.cluster.membership import Heartbeat, Membership, NodePhase
from streamd.core.cluster.shard_phases import ShardPhase
from tests.support.made_cluster import LEASE_SECONDS, TICK_SECONDS, ModelCluster

LEASE = 2.5
DELAY = 30.0
ME = Lease("me", 1)
A = Lease("a", 1)


class Bench:
    """The book of the node `me`, and a membership that hears nodes twice a second."""

    def __init__(self, shards: int = 2, others: Sequence[str] = ("a",)) -> None:
        self.members = Membership("me", 1, LEASE, now=0.0)
        self.book = LeaseBook(self.members, shards, lease_seconds=LEASE, rebalance_delay_seconds=DELAY)
        self.now = 0.0
        self.beat = 0
        self.others = dict.fromkeys(others, NodePhase.SERVING)
        self.phase = NodePhase.SERVING
        self.wait(1.0)

    def wait(self, seconds: float) -> list[Action]:
        """Let time pass, and return what the ticks say."""
        actions: list[Action] = []
        for _ in range(round(seconds / 0.5)):
            self.now += 0.5
            self.beat += 1
            for name, phase in {"me": self.phase, **self.others}.items():
                beat = Heartbeat(node=name, run=1, beat=self.beat, time=0.0, phase=phase)
                self.members.hear(beat, self.now)
            if self.now > 1.0:
                actions += self.book.tick(self.now)
        return actions

    def see(self, *leases: Lease, revision: int = 1) -> list[Action]:
        """See the leases of all shards."""
        actions: list[Action] = []
        for shard, lease in enumerate(leases):
            actions += self.book.see_lease(shard, lease, revision + shard)
        return actions


# ---------------------------------------------------------------- taking
def test_free_shards_are_taken_at_once_each_by_one_node() -> None:
    assert Bench(shards=4).wait(0.5) == [TakeLease(1, 0), TakeLease(3, 0)]


def test_the_shards_of_a_dead_node_are_taken_after_the_lease_time() -> None:
    bench = Bench(others=("a",))
    bench.see(A, ME)
    bench.others.clear()
    assert bench.wait(2.0) == []
    assert bench.wait(0.5) == [TakeLease(0, 1)]


def test_a_shard_is_activated_with_the_revision_that_its_lease_got() -> None:
    bench = Bench()
    bench.see(A, Lease())
    assert bench.wait(0.5) == [TakeLease(1, 2)]
    assert bench.book.confirm_take(1, 3) == [Activate(1, 3)]
    assert bench.book.see_lease(1, ME, 3) == [], "the table shows it too"
    assert bench.book.list_held() == [1]


def test_a_take_without_an_answer_is_made_again_or_seen_in_the_table() -> None:
    bench = Bench()
    bench.see(A, Lease())
    bench.wait(0.5)
    bench.book.refuse_take(1, bench.now)
    assert bench.wait(0.5) == []
    assert bench.wait(1.0) == [TakeLease(1, 2)]
    assert bench.book.see_lease(1, ME, 3) == [Activate(1, 3)]


def test_a_take_that_another_node_forestalled_is_not_made_again() -> None:
    bench = Bench(others=("a", "b"))
    bench.see(A, Lease())
    bench.wait(0.5)
    assert bench.book.see_lease(1, Lease("b", 1), 3) == []
    bench.book.refuse_take(1, bench.now)
    assert bench.wait(3.0) == []


def test_a_shard_that_stays_free_is_taken_by_a_node_to_which_it_was_not_planned() -> None:
    bench = Bench(shards=1, others=("a",))
    assert bench.book.plan(bench.now) == {0: "a"}
    assert bench.wait(6.0)[0] == TakeLease(0, 0)


def test_a_node_that_is_cut_off_takes_nothing() -> None:
    bench = Bench()
    bench.see(A, ME)
    assert bench.book.tick(bench.now + 60.0) == []


def test_a_node_that_cannot_own_takes_nothing() -> None:
    bench = Bench(shards=4, others=())
    bench.phase = NodePhase.JOINING
    assert bench.wait(20.0) == []


def test_a_run_that_restarted_under_its_name_takes_the_shards_of_the_former_at_once() -> None:
    bench = Bench(others=())
    bench.see(Lease("me", 0), Lease("me", 0))
    assert bench.wait(0.5) == [TakeLease(0, 1), TakeLease(1, 2)]


# ---------------------------------------------------------------- losing
def test_a_shard_whose_lease_another_has_is_stopped_at_once() -> None:
    bench = Bench()
    bench.see(A, ME)
    assert bench.book.see_lease(1, A, 9) == [Stop(1)]
    assert bench.book.list_held() == []


def test_an_older_revision_changes_nothing() -> None:
    bench = Bench()
    bench.see(A, ME, revision=5)
    assert bench.book.see_lease(1, A, 4) == []
    assert bench.book.list_held() == [1]


def test_a_lease_of_a_former_run_is_not_the_own_one() -> None:
    bench = Bench()
    assert bench.see(Lease("me", 0), ME) == [Activate(1, 2)]


def test_a_run_that_was_replaced_stops_all_and_takes_nothing() -> None:
    bench = Bench()
    bench.see(A, ME)
    bench.members.hear(Heartbeat(node="me", run=2, beat=1, time=0.0), bench.now)
    assert bench.wait(0.5) == [Stop(1)]
    assert bench.book.see_lease(0, ME, 9) == []
    assert bench.wait(10.0) == []


def test_a_shard_that_cannot_be_activated_goes_to_another_node() -> None:
    bench = Bench()
    bench.see(A, ME)
    assert bench.book.mark_failed(1, bench.now) == [ReleaseLease(1, 2, Lease())]
    assert bench.book.confirm_release(1, 3) == [Stop(1)]
    assert bench.wait(0.5) == []
    assert bench.wait(0.5) == [TakeLease(1, 3)]


def test_a_shard_that_fails_again_and_again_is_left_to_others_for_longer_each_time() -> None:
    bench = Bench()
    bench.see(A, ME)
    waited = []
    for revision in range(3, 25, 2):
        bench.book.mark_failed(1, bench.now)
        bench.book.confirm_release(1, revision)
        began = bench.now
        while bench.wait(0.5) != [TakeLease(1, revision)]:
            pass
        waited.append(bench.now - began)
        bench.book.confirm_take(1, revision + 1)
    assert waited == [1.0, 2.0, 4.0, 8.0, 16.0, *[30.0] * 6]


def test_a_lease_whose_key_was_deleted_is_free_and_its_holder_stops() -> None:
    bench = Bench(others=())
    bench.see(ME, A, revision=7)
    assert bench.book.lose_lease(0) == [Stop(0)]
    assert bench.book.lose_lease(0) == []
    assert TakeLease(0, 0) in bench.wait(0.5)
    assert bench.book.confirm_take(0, 1) == [Activate(0, 1)], "a new table counts from the beginning"


# ---------------------------------------------------------------- handing over
def test_shards_are_balanced_once_it_has_been_calm() -> None:
    bench = Bench(shards=2)
    bench.see(A, A)
    assert bench.wait(DELAY - 2.0) == []
    assert bench.wait(3.0) == [Prepare(1)]
    bench.book.mark_prepared(1)
    assert bench.wait(0.5) == [AskHandover(1, "a")]
    assert bench.wait(1.0) == [AskHandover(1, "a")], "the answer was lost"
    assert bench.book.see_lease(1, ME, 9) == [Activate(1, 9)]


def test_nodes_that_come_and_go_do_not_keep_others_from_their_share_for_ever() -> None:
    bench = Bench(shards=2)
    bench.see(A, A)
    actions: list[Action] = []
    waited = 0.0
    while not actions:
        bench.others["b"] = NodePhase.SERVING
        actions = [*bench.wait(DELAY / 3)]
        bench.others["b"] = NodePhase.JOINING
        actions += bench.wait(DELAY / 3)
        waited += 2 * DELAY / 3
        assert waited < (BALANCE_PATIENCE + 2) * DELAY
    assert actions == [Prepare(1)]
    assert waited >= BALANCE_PATIENCE * DELAY


def test_an_operator_does_not_wait_for_calm() -> None:
    bench = Bench(shards=2)
    bench.see(A, A)
    bench.book.request_rebalance()
    assert bench.wait(0.5) == [Prepare(1)]
    bench.book.mark_prepared(1)
    bench.book.see_lease(1, ME, 9)
    bench.wait(0.5)
    bench.book.see_lease(1, A, 10)
    assert bench.wait(1.0) == [], "the request was met; this is another change"


def test_the_shards_of_a_node_that_drains_are_prepared_at_once() -> None:
    bench = Bench(shards=2)
    bench.see(A, ME)
    bench.others["a"] = NodePhase.DRAINING
    assert bench.wait(0.5) == [Prepare(0)]


def test_few_shards_are_prepared_at_once() -> None:
    bench = Bench(shards=20)
    bench.see(*[A] * 20)
    bench.others["a"] = NodePhase.DRAINING
    assert len(bench.wait(3.0)) == MAX_PREPARING
    bench.book.see_lease(0, ME, 99)
    assert bench.wait(0.5) == [Prepare(4)]


def test_a_shard_that_was_prepared_is_taken_if_its_holder_dies() -> None:
    bench = Bench(shards=2)
    bench.see(A, ME)
    bench.others["a"] = NodePhase.DRAINING
    bench.wait(0.5)
    bench.others.clear()
    assert bench.wait(2.5) == [TakeLease(0, 1)]
    bench.book.refuse_take(0, bench.now)
    assert bench.book.find_phase(0) is ShardPhase.PREPARING


def test_a_shard_that_is_another_s_turn_now_is_abandoned() -> None:
    bench = Bench(shards=2)
    bench.see(A, ME)
    bench.others["a"] = NodePhase.DRAINING
    bench.wait(0.5)
    bench.others["a"] = NodePhase.SERVING
    assert bench.wait(0.5) == [Abandon(0)]


def test_a_holder_releases_a_shard_to_the_node_that_asks() -> None:
    bench = Bench()
    bench.see(ME, ME)
    assert bench.book.answer_handover(0, "a", 1, bench.now) == ReleaseLease(0, 1, A)
    assert bench.book.answer_handover(0, "a", 1, bench.now) is None, "it is on its way"
    assert bench.book.list_held() == [0, 1]
    assert bench.book.confirm_release(0, 7) == [Stop(0)]
    assert bench.book.list_held() == [1]


@pytest.mark.parametrize(("node", "run"), [("a", 2), ("b", 1), ("me", 1)])
def test_a_holder_keeps_a_shard_if_who_asks_is_not_alive_here(node: str, run: int) -> None:
    bench = Bench()
    bench.see(ME, ME)
    assert bench.book.answer_handover(0, node, run, bench.now) is None


def test_a_node_releases_nothing_that_it_does_not_hold() -> None:
    bench = Bench()
    bench.see(A, ME)
    assert bench.book.answer_handover(0, "a", 1, bench.now) is None
    assert bench.book.answer_handover(77, "a", 1, bench.now) is None


def test_a_release_without_an_answer_is_made_again_and_to_nobody_if_the_asker_died() -> None:
    bench = Bench()
    bench.see(ME, ME)
    bench.book.answer_handover(0, "a", 1, bench.now)
    assert bench.wait(2.0) == [], "it is in flight"
    bench.book.refuse_release(0, bench.now)
    assert bench.wait(1.0) == [ReleaseLease(0, 1, A)]
    bench.others.clear()
    bench.book.refuse_release(0, bench.now)
    assert bench.wait(3.0)[-1:] == [ReleaseLease(0, 1, A)]
    bench.book.refuse_release(0, bench.now)
    assert bench.wait(1.0) == [ReleaseLease(0, 1, Lease())]


def test_a_node_that_ends_gives_all_away() -> None:
    bench = Bench(shards=3)
    bench.see(ME, A, ME)
    bench.others["a"] = NodePhase.DRAINING
    assert bench.wait(0.5) == [Prepare(1)]
    assert bench.book.release_all() == [ReleaseLease(0, 1, Lease()), Abandon(1), ReleaseLease(2, 3, Lease())]


def test_the_last_node_keeps_its_shards_while_it_drains() -> None:
    bench = Bench(others=())
    bench.see(ME, ME)
    bench.phase = NodePhase.DRAINING
    assert bench.wait(60.0) == []
    assert bench.book.is_balanced(bench.now)


# ---------------------------------------------------------------- a whole cluster in time
def run_rounds(cluster: ModelCluster, seconds: float) -> None:
    for _ in range(round(seconds / TICK_SECONDS)):
        cluster.run_round()


def test_a_dead_node_s_shards_have_owners_and_forecasts_soon_after_the_lease_time() -> None:
    cluster = ModelCluster(4, 12, servers=24)
    run_rounds(cluster, 20.0)
    assert cluster.is_balanced
    cluster.do_crash(1)
    for server in range(24):
        cluster.do_row(server)
    seconds = 0.0
    while cluster.find_waiting():
        cluster.run_round()
        seconds += TICK_SECONDS
        assert seconds < LEASE_SECONDS + 3.0
    assert seconds > LEASE_SECONDS - 1.0


def test_only_the_shards_of_the_node_that_goes_or_comes_change_owners() -> None:
    cluster = ModelCluster(4, 12, servers=12)
    run_rounds(cluster, 20.0)
    before = cluster.list_owners()
    cluster.do_crash(2)
    run_rounds(cluster, 20.0)
    without = cluster.list_owners()
    assert all(without[shard] == node for shard, node in before.items() if node != "node-2")
    assert len(without) == 12
    cluster.do_start(2)
    run_rounds(cluster, 20.0)
    after = cluster.list_owners()
    changed = [shard for shard in after if after[shard] != without[shard]]
    assert all(after[shard] == "node-2" for shard in changed)
    assert len(changed) == 3


def test_a_drained_node_hands_over_all_and_another_one_none() -> None:
    cluster = ModelCluster(3, 9, servers=9)
    run_rounds(cluster, 20.0)
    before = cluster.list_owners()
    cluster.do_drain(0)
    run_rounds(cluster, 5.0)
    after = cluster.list_owners()
    assert "node-0" not in after.values()
    assert all(after[shard] == node for shard, node in before.items() if node != "node-0")


def test_a_node_that_flaps_gets_no_shards_until_it_is_calm() -> None:
    cluster = ModelCluster(2, 4, servers=4)
    run_rounds(cluster, 20.0)
    for _ in range(4):
        cluster.do_mute(0)
        run_rounds(cluster, 3.0)
        cluster.do_mute(0)
        run_rounds(cluster, 3.0)
        assert set(cluster.list_owners().values()) == {"node-1"}
    run_rounds(cluster, 8.0)
    assert cluster.is_balanced
