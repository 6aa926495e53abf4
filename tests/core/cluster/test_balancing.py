"""Tests `streamd/core/cluster/balancing.py`: when shards may move between living nodes; `test_leases.py` moves them."""

from streamd.core.cluster.balancing import BALANCE_PATIENCE, BalanceTimer
from streamd.core.cluster.membership import Heartbeat, Membership

DELAY, LEASE = 30.0, 2.5


class Bench:
    """A timer at the node `me`, which hears itself, and the node `a` as long as it is there."""

    def __init__(self) -> None:
        self.members = Membership("me", 1, LEASE, now=0.0)
        self.timer = BalanceTimer(self.members, delay_seconds=DELAY, lease_seconds=LEASE)
        self.now, self.beat, self.is_balanced = 0.0, 0, False

    def wait(self, seconds: float, *nodes: str) -> bool:
        """Let time pass with some nodes beside this one; returns whether shards may move at its end."""
        may = False
        for _ in range(round(seconds / 0.5)):
            self.now, self.beat = self.now + 0.5, self.beat + 1
            for node in ("me", *nodes):
                self.members.hear(Heartbeat(node=node, run=1, beat=self.beat, time=0.0), self.now)
            may = self.timer.may_balance(lambda: self.is_balanced, self.now)
        return may


def test_shards_move_after_a_calm() -> None:
    bench = Bench()
    assert not bench.wait(DELAY - 1)
    assert bench.wait(2)


def test_a_node_that_comes_begins_the_calm_anew() -> None:
    bench = Bench()
    bench.wait(DELAY - 5)
    assert not bench.wait(DELAY - 1, "a")
    assert bench.wait(2, "a")


def test_a_request_needs_no_calm_and_holds_until_it_is_done() -> None:
    bench = Bench()
    bench.timer.request()
    assert bench.wait(0.5)
    assert bench.wait(0.5)
    bench.is_balanced = True
    assert not bench.wait(0.5)
    bench.is_balanced = False
    assert not bench.wait(0.5)


def test_nodes_that_come_and_go_all_the_time_put_it_off_for_a_while_only() -> None:
    bench = Bench()
    begun = bench.now
    while not bench.wait(5.0, *(("a",) if bench.now // 5 % 2 else ())):
        assert bench.now - begun < (BALANCE_PATIENCE + 1) * DELAY
    assert bench.now - begun >= BALANCE_PATIENCE * DELAY
