"""The status of a cluster as a table or as JSON. Reads nothing."""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

from streamd.core.cluster.assignment import NodeLoad, plan_owners
from streamd.core.cluster.cluster_view import describe_nodes, list_unowned
from streamd.core.cluster.lease_actions import Lease
from streamd.core.cluster.membership import Heartbeat, is_able, is_eligible
from streamd.tools.engine.text_table import align_columns

_MAX_LISTED = 20


@dataclass(frozen=True, kw_only=True)
class ClusterStatus:
    """The state of a cluster at `now`, in epoch seconds of this machine."""

    name: str
    shards: int
    heartbeats: list[Heartbeat]
    leases: Mapping[int, Lease]
    fences: Mapping[int, int]
    drained: AbstractSet[str]
    now: float

    @property
    def unowned(self) -> list[int]:
        """The shards without a living node."""
        return list_unowned(self.leases, self.heartbeats, self.shards)

    @property
    def is_balanced(self) -> bool:
        """Whether each shard is where the nodes would place it."""
        alive = {(each.node, each.run) for each in self.heartbeats}
        free = Lease()
        held = {shard: self.leases.get(shard, free) for shard in range(self.shards)}
        holders = {shard: each.node if (each.node, each.run) in alive else None for shard, each in held.items()}
        loads = [NodeLoad(each.node, is_eligible(each), is_able(each)) for each in self.heartbeats]
        return plan_owners(holders, loads) == holders

    def count_shards(self, node: str) -> int:
        """Return how many shards a node has."""
        return sum(lease.node == node for lease in self.leases.values())

    def describe(self) -> dict[str, Any]:
        """Return all of it for JSON."""
        offsets = {each.node: each.time - self.now for each in self.heartbeats}
        free = Lease()
        return {
            "name": self.name,
            "shards": self.shards,
            "nodes": describe_nodes(self.heartbeats, self.leases, self.drained, offsets),
            "unowned": self.unowned,
            "owners": [
                {"shard": shard, "node": self.leases.get(shard, free).node or None, "fence": self.fences.get(shard, 0)}
                for shard in range(self.shards)
            ],
        }


def format_status(status: ClusterStatus, *, with_shards: bool) -> str:
    """Return the table of nodes, a line on the shards, and if wanted the table of shards."""
    lines = list(align_columns([_HEADING, *map(_format_node, _list_nodes(status))]))
    lines += ["", _describe_shards(status)]
    if with_shards:
        rows = [("SHARD", "NODE", "FENCE")]
        rows += [(str(each["shard"]), each["node"] or "-", str(each["fence"])) for each in status.describe()["owners"]]
        lines += ["", *align_columns(rows)]
    return "\n".join(lines)


_HEADING = ("NODE", "PHASE", "SHARDS", "SERVERS", "WAITING", "LAG", "PROBLEMS", "RELEASE")


def _list_nodes(status: ClusterStatus) -> Sequence[Mapping[str, Any]]:
    nodes: list[dict[str, Any]] = status.describe()["nodes"]
    return nodes


def _format_node(node: Mapping[str, Any]) -> tuple[str, ...]:
    problems = [*node.get("problems", ())]
    problems += [] if node.get("can_forecast", True) else ["no_lane"]
    return (
        str(node["node"]),
        "drained" if node["drained"] and node["phase"] == "draining" and not node["shards"] else str(node["phase"]),
        str(node["shards"]),
        _format_count(node.get("servers")),
        _format_bytes(node.get("waiting_bytes")),
        _format_count(node.get("lag_messages")),
        ",".join(problems) or "-",
        str(node.get("version") or "-"),
    )


def _describe_shards(status: ClusterStatus) -> str:
    unowned = status.unowned
    text = f"cluster {status.name}: {status.shards} shards"
    if not unowned:
        return f"{text}, all with a node"
    shown = ", ".join(map(str, unowned[:_MAX_LISTED])) + (", ..." if len(unowned) > _MAX_LISTED else "")
    return f"{text}, {len(unowned)} WITHOUT A NODE: {shown}"


def _format_count(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"


def _format_bytes(value: float | None) -> str:
    return "-" if value is None else f"{value / 2**20:,.1f} MB"
