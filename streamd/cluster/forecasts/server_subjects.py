"""Publishes each forecast on the subject of its server, once it is in the log, for clients of NATS. It may be lost."""

import asyncio
import contextlib
from collections.abc import Callable, Sequence

import structlog

from streamd.cluster.lasting_tasks import start_task
from streamd.cluster.log import Log, LogAwayError
from streamd.core.arrays import Slots
from streamd.core.cluster.shards import ClusterNames

log = structlog.get_logger(__name__)

PUBLISHED_AT_ONCE = 64
"""Forecasts that are published before the loop gets its turn."""


class ServerSubjects:
    """The publisher of `forecast.<server>`; a newer forecast of a server replaces one that waits.

    `encode` returns the `forecast` frame of a slot in MessagePack, `None` if it has none; `servers` are by slot.
    """

    def __init__(
        self,
        cluster_log: Log,
        names: ClusterNames,
        servers: Sequence[str | None],
        encode: Callable[[int], bytes | memoryview | None],
    ) -> None:
        self.published = 0
        """Forecasts since start."""
        self.lost = 0
        """Those that were not published, since the log was away."""
        self._log = cluster_log
        self._names = names
        self._servers = servers
        self._encode = encode
        self._waiting: dict[int, None] = {}
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Publish from now on."""
        self._task = start_task(self._run())

    def publish(self, slots: Slots) -> None:
        """Publish the latest forecasts of these slots soon."""
        self._waiting.update(dict.fromkeys(slots.tolist()))
        self._news.set()

    async def _run(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            while self._waiting:
                for slot in list(self._waiting)[:PUBLISHED_AT_ONCE]:
                    del self._waiting[slot]
                    await self._publish_one(slot)
                await asyncio.sleep(0)

    async def _publish_one(self, slot: int) -> None:
        server, frame = self._servers[slot], self._encode(slot)
        if server is None or frame is None:
            return
        if not self._log.is_connected:
            self.lost += 1
            return
        try:
            await self._log.publish(self._names.server_forecasts(server), bytes(frame))
        except LogAwayError:
            self.lost += 1
        else:
            self.published += 1

    async def close(self) -> None:
        """Publish nothing any more."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
