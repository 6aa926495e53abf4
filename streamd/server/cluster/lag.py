"""The lag of this node's shards behind their row logs, measured at an interval. Decides nothing."""

import asyncio

from streamd.cluster.lasting_tasks import start_task
from streamd.cluster.log import Log, LogAwayError
from streamd.cluster.nodes.node import ClusterNode
from streamd.core.cluster.shards import ClusterNames

LAG_INTERVAL_SECONDS = 5.0
"""The interval: each shard that is held costs the log a request."""


class LagWatch:
    """The messages of each shard that are in its row log, and not in the windows of this node yet."""

    def __init__(self, cluster_log: Log, names: ClusterNames, node: ClusterNode) -> None:
        self.messages: dict[int, int] = {}
        """By shard that this node has."""
        self._log = cluster_log
        self._names = names
        self._node = node
        self._task: asyncio.Task[None] | None = None

    @property
    def total(self) -> int:
        """The sum over all shards of this node."""
        return sum(self.messages.values())

    def start(self) -> None:
        """Measure from now on."""
        self._task = start_task(self._run())

    async def _run(self) -> None:
        while True:
            await self.measure()
            await asyncio.sleep(LAG_INTERVAL_SECONDS)

    async def measure(self) -> None:
        """Measure once; while the log is away, what was measured last stays."""
        measured: dict[int, int] = {}
        try:
            for shard in self._node.list_held():
                last = (await self._log.read_state(self._names.rows_stream(shard))).last
                held = self._node.find_held(shard)
                if held is not None:
                    measured[shard] = max(last - int(held.describe()["rows_sequence"]), 0)
        except LogAwayError:
            return
        self.messages = measured

    async def close(self) -> None:
        """Measure no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
