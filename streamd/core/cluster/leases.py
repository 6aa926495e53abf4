"""The leases of one node: which shards it takes, prepares, asks for, owns and releases. Does none of it itself.

A lease is a key of a table, changed by compare-and-set; its revision is the fence of all that its holder makes. A lease
has no time of its own: its holder's heartbeats keep it alive.
"""

from streamd.core.cluster.assignment import plan_owners, rank_nodes
from streamd.core.cluster.balancing import BalanceTimer
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
from streamd.core.cluster.lease_holders import agrees_with_plan, find_holders, list_loads, list_takers
from streamd.core.cluster.membership import Membership, is_able
from streamd.core.cluster.shard_phases import FOLLOWING, FREE, OWNING, ShardLease, ShardPhase

TRY_AGAIN_SECONDS = 1.0
"""After an action without an answer; heartbeats have come twice until then."""

FIRST_FAILED_SECONDS, LAST_FAILED_SECONDS = 1.0, 30.0
"""After a shard could not be activated, until this node tries it again: doubled each time, so that others have it."""

FAILURES_FORGOTTEN_SECONDS = 300.0

MAX_PREPARING = 4
"""Shards that a node prepares at once for a handover: each loads windows."""


class LeaseBook:
    """All leases as one run of a node knows them, and its own shards; `now` is in monotonic seconds.

    Methods return the actions to do, in order. Each outcome is reported, also a missing answer; what the table shows
    (`see_lease`) decides in any case, so an answer may be lost.
    """

    def __init__(
        self,
        membership: Membership,
        shards: int,
        *,
        lease_seconds: float = 2.5,
        rebalance_delay_seconds: float = 30.0,
    ) -> None:
        self._members = membership
        self._me = Lease(membership.node, membership.run)
        self._lease_seconds = lease_seconds
        self._balance = BalanceTimer(membership, delay_seconds=rebalance_delay_seconds, lease_seconds=lease_seconds)
        self._shards = {shard: ShardLease() for shard in range(shards)}
        self._preparing = 0
        """Shards that are followed, as of this tick."""

    # ------------------------------------------------------------ what is known
    def list_held(self) -> list[int]:
        """Return the shards whose lease this node has; those that it is releasing are among them."""
        return [shard for shard, each in self._shards.items() if each.phase in OWNING]

    def find_phase(self, shard: int) -> ShardPhase:
        """Return what this node does with a shard."""
        return self._shards[shard].phase

    def find_lease(self, shard: int) -> tuple[Lease, int]:
        """Return a shard's lease and its revision; its holder need not be alive."""
        return self._shards[shard].lease, self._shards[shard].revision

    def plan(self, now: float, *, may_balance: bool = True) -> dict[int, str]:
        """Return the node that should own each shard, as this node sees it."""
        holders = self._find_holders(now)
        return plan_owners(holders, list_loads(self._members, holders, now), may_balance=may_balance)

    def is_balanced(self, now: float) -> bool:
        """Whether each shard is held by the node that should own it."""
        holders = self._find_holders(now)
        return agrees_with_plan(holders, list_loads(self._members, holders, now))

    # ------------------------------------------------------------ the table
    def see_lease(self, shard: int, lease: Lease, revision: int) -> list[Action]:
        """Take a lease as the table shows it; one that is older than what is known is passed over."""
        each = self._shards.get(shard)
        if each is None or revision <= each.revision:
            return []
        former, each.lease, each.revision = each.phase, lease, revision
        each.free_since, each.is_waiting, each.try_at = None, False, 0.0
        actions: list[Action] = [Stop(shard)] if former in OWNING else []
        if lease == self._me and not self._members.is_replaced:
            each.phase = ShardPhase.HOLDING
            return [*actions, Activate(shard, revision)]
        if former in OWNING:
            each.phase = ShardPhase.ELSEWHERE
        elif former is ShardPhase.TAKING:
            each.phase = each.phase_before
        return actions

    def lose_lease(self, shard: int) -> list[Action]:
        """Take it that the key of a lease was deleted, which no node does: the shard is free."""
        each = self._shards.get(shard)
        if each is None or not each.revision:
            return []
        each.revision = -1
        return self.see_lease(shard, FREE, 0)

    def confirm_take(self, shard: int, revision: int) -> list[Action]:
        """Report that this node's lease was put."""
        return self.see_lease(shard, self._me, revision)

    def refuse_take(self, shard: int, now: float) -> None:
        """Report that the key had another revision, or that no answer came: the table will show what became of it."""
        each = self._shards[shard]
        if each.phase is ShardPhase.TAKING:
            each.phase, each.try_at = each.phase_before, now + TRY_AGAIN_SECONDS

    def refuse_release(self, shard: int, now: float) -> None:
        """Report that a release was refused or had no answer; it is made again unless the table shows another lease."""
        each = self._shards[shard]
        if each.phase is ShardPhase.RELEASING:
            each.is_waiting, each.try_at = False, now + TRY_AGAIN_SECONDS

    def confirm_release(self, shard: int, revision: int) -> list[Action]:
        """Report that the lease was given away."""
        return self.see_lease(shard, self._shards[shard].release_to, revision)

    # ------------------------------------------------------------ the shard's own state
    def mark_prepared(self, shard: int) -> None:
        """Report that a shard that is followed has all that was in its logs."""
        each = self._shards[shard]
        if each.phase is ShardPhase.PREPARING:
            each.phase = ShardPhase.PREPARED
        elif each.phase is ShardPhase.TAKING and each.phase_before is ShardPhase.PREPARING:
            each.phase_before = ShardPhase.PREPARED

    def mark_failed(self, shard: int, now: float) -> list[Action]:
        """Report that a shard could not be prepared or activated: another node shall have it."""
        each = self._shards[shard]
        if now - each.failed_until > FAILURES_FORGOTTEN_SECONDS:
            each.failures = 0
        each.failed_until = now + min(FIRST_FAILED_SECONDS * 2**each.failures, LAST_FAILED_SECONDS)
        each.failures = min(each.failures + 1, 10)
        if each.phase is ShardPhase.HOLDING:
            return [self._release(shard, FREE)]
        return self._abandon(shard)

    # ------------------------------------------------------------ handing over
    def answer_handover(self, shard: int, node: str, run: int, now: float) -> ReleaseLease | None:
        """Return the release that another node asks for; `None` if this node does not hold the shard, or keeps it."""
        each = self._shards.get(shard)
        if each is None or each.phase is not ShardPhase.HOLDING:
            return None
        asker = next((one for one in self._members.list_alive(now) if (one.node, one.run) == (node, run)), None)
        if asker is None or node == self._me.node or not is_able(asker):
            return None
        return self._release(shard, Lease(node, run))

    def release_all(self) -> list[Action]:
        """Return what gives away all that this node holds or follows, without a request: it ends."""
        actions: list[Action] = []
        for shard, each in self._shards.items():
            if each.phase is ShardPhase.HOLDING:
                actions.append(self._release(shard, FREE))
            actions += self._abandon(shard)
        return actions

    def request_rebalance(self) -> None:
        """Move shards to balance them without the usual delay, once."""
        self._balance.request()

    # ------------------------------------------------------------ time
    def tick(self, now: float) -> list[Action]:
        """Return what is to do now; called a few times a second."""
        if self._members.is_replaced:
            return self._stop_all()
        actions = self._repeat_releases(now)
        if not self._members.is_observing(now):
            return actions
        holders = self._find_holders(now)
        loads = list_loads(self._members, holders, now)
        may_balance = self._balance.may_balance(lambda: agrees_with_plan(holders, loads), now)
        plan = plan_owners(holders, loads, may_balance=may_balance)
        takers = list_takers(self._members, now)
        self._preparing = sum(each.phase in FOLLOWING for each in self._shards.values())
        for shard, each in self._shards.items():
            holder = holders[shard]
            if holder is not None:
                each.free_since = None
            elif each.free_since is None:
                each.free_since = now
            actions += self._pursue(shard, holder, plan.get(shard) == self._me.node, takers, now)
        return actions

    def _pursue(self, shard: int, holder: str | None, is_mine: bool, takers: list[str], now: float) -> list[Action]:
        each = self._shards[shard]
        if each.phase in OWNING or each.phase is ShardPhase.TAKING:
            return []
        is_late = now < max(each.try_at, each.failed_until)
        if holder is None:
            if not is_late and (is_mine or self._is_orphan(shard, takers, now)):
                each.phase_before, each.phase = each.phase, ShardPhase.TAKING
                return [TakeLease(shard, each.revision)]
            return []
        if not is_mine:
            return self._abandon(shard)
        return [] if is_late else self._move(shard, holder, now)

    def _move(self, shard: int, holder: str, now: float) -> list[Action]:
        each = self._shards[shard]
        if each.phase is ShardPhase.PREPARED:
            each.try_at = now + TRY_AGAIN_SECONDS
            return [AskHandover(shard, holder)]
        if each.phase is ShardPhase.ELSEWHERE and self._preparing < MAX_PREPARING:
            self._preparing += 1
            each.phase = ShardPhase.PREPARING
            return [Prepare(shard)]
        return []

    def _abandon(self, shard: int) -> list[Action]:
        each = self._shards[shard]
        if each.phase not in FOLLOWING:
            return []
        each.phase = ShardPhase.ELSEWHERE
        return [Abandon(shard)]

    def _release(self, shard: int, to: Lease) -> ReleaseLease:
        each = self._shards[shard]
        each.phase, each.release_to, each.is_waiting = ShardPhase.RELEASING, to, True
        return ReleaseLease(shard, each.revision, to)

    def _repeat_releases(self, now: float) -> list[Action]:
        due = [
            shard
            for shard, each in self._shards.items()
            if each.phase is ShardPhase.RELEASING and not each.is_waiting and now >= each.try_at
        ]
        return [self._release(shard, self._choose_receiver(shard, now)) for shard in due]

    def _choose_receiver(self, shard: int, now: float) -> Lease:
        """Return to which node a release goes that is made again: to any node if the one that asked died meanwhile."""
        to = self._shards[shard].release_to
        return to if to.node and self._members.is_alive(to.node, to.run, now) else FREE

    def _stop_all(self) -> list[Action]:
        actions: list[Action] = []
        for shard, each in self._shards.items():
            if each.phase in OWNING:
                actions.append(Stop(shard))
            elif each.phase in FOLLOWING or each.phase_before in FOLLOWING:
                actions.append(Abandon(shard))
            each.phase = each.phase_before = ShardPhase.ELSEWHERE
        return actions

    def _is_orphan(self, shard: int, takers: list[str], now: float) -> bool:
        """Whether a shard has been free for so long that nodes seem to disagree about who should take it."""
        since = self._shards[shard].free_since
        if since is None or self._me.node not in takers:
            return False
        rank = rank_nodes(shard, takers).index(self._me.node)
        return now - since >= self._lease_seconds * (1 + rank)

    def _find_holders(self, now: float) -> dict[int, str | None]:
        leases = {shard: each.lease for shard, each in self._shards.items()}
        return find_holders(self._members, leases, now)
