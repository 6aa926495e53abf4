"""A plan of which node should own which shard: balanced within one, with the fewest moves. Changes no lease.

All nodes compute the same plan from the same leases and heartbeats; where they differ, leases decide.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b


@dataclass(frozen=True, slots=True)
class NodeLoad:
    """A living node: `is_eligible` if it should own shards, `is_able` if it can while there is no eligible one."""

    node: str
    is_eligible: bool = True
    is_able: bool = True


def plan_owners(
    holders: Mapping[int, str | None], nodes: Sequence[NodeLoad], *, may_balance: bool = True
) -> dict[int, str]:
    """Return the node that should own each shard; a shard that none can own, and none holds, is not in it.

    `holders` has the living node that holds each shard, `None` for a free one. Free shards, and those of nodes that
    are not eligible, go to eligible nodes at once; others only if `may_balance`. If there is no eligible node, those
    that are able keep their shards and take the others; without those too, shards stay where they are.
    """
    alive = {each.node for each in nodes}
    takers = sorted(each.node for each in nodes if each.is_eligible)
    if not takers:
        takers = sorted(each.node for each in nodes if each.is_able)
        may_balance = False
    if not takers:
        return {shard: holder for shard, holder in holders.items() if holder in alive and holder is not None}
    stays = {shard: holder for shard, holder in holders.items() if holder in takers and holder is not None}
    if may_balance:
        stays = _drop_excess(stays, takers, len(holders))
    return _place(stays, sorted(holders.keys() - stays.keys()), takers)


def rank_nodes(shard: int, nodes: Iterable[str]) -> list[str]:
    """Return nodes in the order in which they try a shard that stays free, another one for each shard."""
    return sorted(nodes, key=lambda node: blake2b(f"{shard} {node}".encode(), digest_size=8).digest())


def _drop_excess(holders: Mapping[int, str], takers: Sequence[str], shards: int) -> dict[int, str]:
    """Return the shards that stay: each node keeps its share, those that hold most one more."""
    counts = _count(holders, takers)
    share, more = divmod(shards, len(takers))
    by_count = sorted(takers, key=lambda node: (-counts[node], node))
    quotas = {node: share + (number < more) for number, node in enumerate(by_count)}
    stays: dict[int, str] = {}
    kept = dict.fromkeys(takers, 0)
    for shard, holder in sorted(holders.items()):
        if kept[holder] < quotas[holder]:
            kept[holder] += 1
            stays[shard] = holder
    return stays


def _place(holders: Mapping[int, str], shards: Sequence[int], takers: Sequence[str]) -> dict[int, str]:
    """Give each of these shards to the node that has the fewest, the first by name among several."""
    counts = _count(holders, takers)
    owners = dict(holders)
    for shard in shards:
        taker = min(takers, key=lambda node: (counts.get(node, 0), node))
        counts[taker] = counts.get(taker, 0) + 1
        owners[shard] = taker
    return owners


def _count(holders: Mapping[int, str], takers: Sequence[str]) -> dict[str, int]:
    counts = dict.fromkeys(takers, 0)
    for holder in holders.values():
        counts[holder] = counts.get(holder, 0) + 1
    return counts
