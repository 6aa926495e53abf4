"""The other nodes of a cluster, as the routes of this node see them (`http/other_nodes.py`)."""

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from streamd.cluster.log import Log
from streamd.cluster.nodes.node import ClusterNode
from streamd.cluster.rows.row_publisher import RowPublisher
from streamd.core.access.caller import Caller
from streamd.core.cluster.cluster_view import describe_nodes, list_unowned
from streamd.core.cluster.membership import NodePhase
from streamd.http.server_answers import EncodedAnswer, ServerCall
from streamd.server.cluster.remote_calls import RemoteCalls


class NodeView:
    """The questions of this node to the others, and its reports as a part of the cluster.

    `forget` forgets a server in the whole cluster; `show_all` brings the latest forecasts of all servers to this node.
    `list_missing` returns the streams and buckets that were deleted.
    """

    def __init__(
        self,
        node: ClusterNode,
        cluster_log: Log,
        name: str,
        calls: RemoteCalls,
        *,
        forget: Callable[[str], Awaitable[None]],
        publisher: RowPublisher,
        show_all: Callable[[], Awaitable[None]],
        list_missing: Callable[[], Sequence[str]],
        refuses_after_seconds: float,
    ) -> None:
        self._node = node
        self._log = cluster_log
        self._name = name
        self._calls = calls
        self._forget = forget
        self._publisher = publisher
        self._show_all = show_all
        self._list_missing = list_missing
        self._refuses_after_seconds = refuses_after_seconds

    async def answer(self, call: ServerCall) -> EncodedAnswer | None:
        """Return the answer of the node that has the server; `None` if that is this one. Raises `UnavailableError`."""
        return await self._calls.answer(call)

    async def list_servers(self, caller: Caller, after: str, limit: int) -> Mapping[str, Any]:
        """Return a page of all servers that a caller may read, by name."""
        return await self._calls.list_servers(caller, after, limit)

    async def forget_server(self, server: str) -> None:
        """Forget a server that this node has; returns when it is done here. Raises `UnavailableError`."""
        await self._forget(server)

    async def show_all(self) -> None:
        """Return when the latest forecasts of all servers are here, or after a moment."""
        await self._show_all()

    # ------------------------------------------------------------ reports
    @property
    def away_seconds(self) -> float:
        """For how long there has been no connection to NATS; 0 while there is one."""
        since = self._log.away_since
        return 0.0 if since is None else time.monotonic() - since

    def describe(self) -> Mapping[str, Any]:
        """Return the entry `cluster` of the status."""
        node, shards = self._node, self._node.settings.shards
        alive = node.list_alive()
        leases = {shard: node.find_holder(shard) for shard in range(shards)}
        now = time.monotonic()
        return {
            "name": self._name,
            "node": node.settings.node,
            "run": node.run,
            "phase": node.phase.value,
            "problems": list(node.list_hindrances()),
            "connected": self._log.is_connected,
            "away_seconds": round(self.away_seconds, 3),
            "missing": list(self._list_missing()),
            "waiting_bytes": self._publisher.queued_bytes,
            "clock_ahead_seconds": round(node.clock_ahead_seconds, 3),
            "shards": shards,
            "unowned": list_unowned(leases, alive, shards),
            "failed": [{"shard": shard, "reason": reason} for shard, reason in node.list_failures().items()],
            "here": [self._describe_shard(shard) for shard in range(shards) if node.find_held(shard) is not None],
            "nodes": describe_nodes(alive, leases, node.list_drained(), node.clocks.list_offsets(now)),
        }

    def _describe_shard(self, shard: int) -> dict[str, Any]:
        held = self._node.find_held(shard)
        return {"shard": shard, **({} if held is None else held.describe())}

    def list_problems(self) -> list[str]:
        """Return what is wrong, one word each, while this node can still answer."""
        node = self._node
        away = [] if self._log.is_connected and not self._publisher.waiting_shards else ["log_away"]
        missing = ["missing"] if self._list_missing() else []
        drained = ["drained"] if node.phase is NodePhase.DRAINING else []
        return [*away, *missing, *drained, *node.list_hindrances()]

    def find_refusal(self) -> str | None:
        """Return why this node should get no requests now: it has not joined, or agents would only wait for the log."""
        if self._node.phase is NodePhase.JOINING:
            return "joining"
        is_refusing = self._publisher.is_full or self.away_seconds > self._refuses_after_seconds
        return "log_away" if is_refusing else None
