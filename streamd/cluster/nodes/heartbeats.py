"""Heartbeats: what this node says of itself twice a second, and what it hears of all nodes.

Moves bytes only: who is alive, and whose clock is wrong, `streamd/core/cluster/` decides.
"""

import asyncio
import time
from collections.abc import Callable

import msgspec
import structlog

from streamd.cluster.log import Log, LogAwayError, LogMessage, Unsubscribe
from streamd.core.cluster.clocks import ClockBook
from streamd.core.cluster.membership import HEARTBEAT_SECONDS, Heartbeat, Membership
from streamd.core.cluster.shards import NAME_PATTERN, ClusterNames

log = structlog.get_logger(__name__)

_MAX_TIME = 1e11
"""Epoch seconds: the year 5138."""

_decoder = msgspec.msgpack.Decoder(Heartbeat)


def encode_heartbeat(heartbeat: Heartbeat) -> bytes:
    """Return a heartbeat as it is published."""
    return msgspec.msgpack.encode(heartbeat)


def decode_heartbeat(data: bytes) -> Heartbeat | None:
    """Return a heartbeat, `None` if the bytes are not one: another release may add to it."""
    try:
        heartbeat = _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    # A time that is no number would spread to the clock of this node.
    is_valid = NAME_PATTERN.fullmatch(heartbeat.node) and abs(heartbeat.time) < _MAX_TIME
    return heartbeat if is_valid else None


class Heartbeats:
    """Publishes the heartbeats of this node, and takes those of all for its membership and its clocks.

    `describe` returns the present heartbeat, given its number. `wall` returns epoch seconds, `clock` monotonic ones.
    """

    def __init__(
        self,
        cluster_log: Log,
        names: ClusterNames,
        membership: Membership,
        clocks: ClockBook,
        describe: Callable[[int], Heartbeat],
        *,
        wall: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.unreadable = 0
        """Messages that are no heartbeats."""
        self._log = cluster_log
        self._names = names
        self._membership = membership
        self._clocks = clocks
        self._describe = describe
        self._wall = wall
        self._clock = clock
        self._beat = 0
        self._unsubscribe: Unsubscribe | None = None

    async def listen(self) -> None:
        """Take the heartbeats of all nodes from now on."""
        self._unsubscribe = await self._log.subscribe(self._names.node(), self._take)

    async def close(self) -> None:
        """Listen no more."""
        if self._unsubscribe is not None:
            await self._unsubscribe()
            self._unsubscribe = None

    async def beat_regularly(self) -> None:
        """Publish a heartbeat at each interval until cancelled."""
        while True:
            await self.beat()
            await asyncio.sleep(HEARTBEAT_SECONDS)

    async def beat(self) -> None:
        """Publish a heartbeat; one that cannot be sent is lost, as the network may lose it too."""
        self._beat += 1
        heartbeat = self._describe(self._beat)
        try:
            await self._log.publish(self._names.node(heartbeat.node), encode_heartbeat(heartbeat))
        except LogAwayError:
            log.debug("heartbeat_not_sent", beat=self._beat)

    def _take(self, message: LogMessage) -> None:
        heartbeat = decode_heartbeat(message.data)
        if heartbeat is None:
            self.unreadable += 1
            return
        now = self._clock()
        if self._membership.hear(heartbeat, now) and heartbeat.node != self._membership.node:
            self._clocks.hear(heartbeat.node, heartbeat.time, self._wall(), now)


async def listen_for_heartbeats(cluster_log: Log, names: ClusterNames, seconds: float) -> list[Heartbeat]:
    """Return the newest heartbeat of each node that comes within some seconds, by the node's name."""
    newest: dict[str, Heartbeat] = {}

    def take(message: LogMessage) -> None:
        heartbeat = decode_heartbeat(message.data)
        if heartbeat is not None:
            former = newest.get(heartbeat.node)
            if former is None or (former.run, former.beat) < (heartbeat.run, heartbeat.beat):
                newest[heartbeat.node] = heartbeat

    unsubscribe = await cluster_log.subscribe(names.node(), take)
    try:
        await asyncio.sleep(seconds)
    finally:
        await unsubscribe()
    return [newest[node] for node in sorted(newest)]
