"""A cluster as an operator sees it: its nodes and shards, of heartbeats and leases. Decides nothing."""

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

from streamd.core.cluster.lease_actions import Lease
from streamd.core.cluster.membership import Heartbeat


def describe_nodes(
    heartbeats: Iterable[Heartbeat],
    leases: Mapping[int, Lease],
    drained: AbstractSet[str],
    clock_offsets: Mapping[str, float] | None = None,
) -> list[dict[str, Any]]:
    """Return each living node, by name, and those drained and away; clocks in seconds ahead of the reader's."""
    nodes = [
        {
            "node": each.node,
            "run": each.run,
            "phase": each.phase.value,
            "version": each.version,
            "shards": count_shards(leases, each.node, each.run),
            "problems": list(each.hindrances),
            "can_forecast": not each.cannot_own,
            "drained": each.node in drained,
            "clock_offset_seconds": _round((clock_offsets or {}).get(each.node)),
            **each.details,
        }
        for each in heartbeats
    ]
    known = {each["node"] for each in nodes}
    nodes += [{"node": name, "phase": "away", "drained": True, "shards": 0} for name in drained if name not in known]
    return sorted(nodes, key=lambda each: str(each["node"]))


def count_shards(leases: Mapping[int, Lease], node: str, run: int) -> int:
    """Return how many shards a run of a node has."""
    return sum(lease.node == node and lease.run == run for lease in leases.values())


def list_unowned(leases: Mapping[int, Lease], heartbeats: Sequence[Heartbeat], shards: int) -> list[int]:
    """Return the shards without a living node."""
    alive = {(each.node, each.run) for each in heartbeats}
    free = Lease()
    owners = ((shard, leases.get(shard, free)) for shard in range(shards))
    return [shard for shard, lease in owners if (lease.node, lease.run) not in alive]


def _round(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)
