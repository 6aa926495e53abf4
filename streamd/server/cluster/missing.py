"""The streams and buckets of the cluster that are not in NATS any more: somebody deleted them, or NATS lost its disks.

Tells it, and makes none anew: an operator may be about to restore them. A node that starts makes what is missing.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

import structlog

from streamd.cluster.lasting_tasks import start_task
from streamd.cluster.log import Log, LogAwayError, LogMissingError
from streamd.cluster.nodes.node import ClusterNode
from streamd.cluster.streams import BUCKETS
from streamd.core.cluster.shards import ClusterNames

log = structlog.get_logger(__name__)

CHECK_INTERVAL_SECONDS = 5.0

STREAMS_CHECKED_AT_ONCE = 9
"""Streams of this node's shards that are looked for at each interval, in turn: each costs the log a request."""


class MissingStreams:
    """A watch on the buckets, and on the streams of the shards that this node has."""

    def __init__(self, cluster_log: Log, names: ClusterNames, node: ClusterNode) -> None:
        self.missing: set[str] = set()
        """The streams and buckets that are missing."""
        self._log = cluster_log
        self._names = names
        self._node = node
        self._turn: deque[str] = deque()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Look from now on."""
        self._task = start_task(self._run())

    async def _run(self) -> None:
        while True:
            await self.check()
            await asyncio.sleep(CHECK_INTERVAL_SECONDS)

    async def check(self) -> None:
        """Look once; while the log is away, nothing is known to be missing that was not before."""
        for table in BUCKETS:
            bucket = self._names.bucket(table)
            await self._look(bucket, self._log.table(bucket).read_all)
        if not self._turn:
            self._turn.extend(self._list_streams())
            self.missing.intersection_update({*self._turn, *map(self._names.bucket, BUCKETS)})
        for _ in range(min(STREAMS_CHECKED_AT_ONCE, len(self._turn))):
            stream = self._turn.popleft()
            await self._look(stream, lambda stream=stream: self._log.read_state(stream))  # type: ignore[misc]

    def _list_streams(self) -> list[str]:
        names = self._names
        kinds = (names.rows_stream, names.windows_stream, names.forecasts_stream)
        return [kind(shard) for shard in self._node.list_held() for kind in kinds]

    async def _look(self, name: str, read: Callable[[], Awaitable[object]]) -> None:
        try:
            await read()
        except LogMissingError as exc:
            if name not in self.missing:
                log.error("stream_missing", stream=name, error=str(exc), remedy="restore it, or restart a node")
            self.missing.add(name)
        except LogAwayError:
            return
        else:
            self.missing.discard(name)

    async def close(self) -> None:
        """Look no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
