"""The living nodes that hold leases, and those that may: what a plan of owners is made of. Changes no lease."""

from collections.abc import Mapping, Sequence

from streamd.core.cluster.assignment import NodeLoad, plan_owners
from streamd.core.cluster.lease_actions import Lease
from streamd.core.cluster.membership import Membership, is_able, is_eligible


def find_holders(members: Membership, leases: Mapping[int, Lease], now: float) -> dict[int, str | None]:
    """Return the living node that holds each shard; `None` for a shard that is free, or whose holder is dead."""
    alive: dict[Lease, bool] = {}
    for lease in leases.values():
        if lease not in alive:
            alive[lease] = bool(lease.node) and members.is_alive(lease.node, lease.run, now)
    return {shard: lease.node if alive[lease] else None for shard, lease in leases.items()}


def list_takers(members: Membership, now: float) -> list[str]:
    """Return the nodes that may take shards: the eligible ones, without any those that are able."""
    alive = members.list_alive(now)
    return [one.node for one in alive if is_eligible(one)] or [one.node for one in alive if is_able(one)]


def list_loads(members: Membership, holders: Mapping[int, str | None], now: float) -> list[NodeLoad]:
    """Return the nodes to plan with: also holders that were not heard yet, but for which it is too early."""
    loads = {
        one.node: NodeLoad(one.node, is_eligible=is_eligible(one), is_able=is_able(one))
        for one in members.list_alive(now)
    }
    for holder in holders.values():
        if holder is not None:
            loads.setdefault(holder, NodeLoad(holder))
    return list(loads.values())


def agrees_with_plan(holders: Mapping[int, str | None], loads: Sequence[NodeLoad]) -> bool:
    """Whether each shard is held by the node that should own it."""
    plan = plan_owners(holders, loads)
    return all(plan.get(shard) == holder for shard, holder in holders.items())
