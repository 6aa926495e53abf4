"""Removes the beginning of a shard's chain: what is too long, or, if the log is full, all that nobody needs."""

import structlog

from streamd.cluster.forecasts.chain_follower import ChainFollower
from streamd.cluster.log import Log, LogAwayError
from streamd.core.cluster.shards import ClusterNames

log = structlog.get_logger(__name__)


class ChainPurger:
    """The purger of one shard's chain, which `follower` knows; only for who owns it, or has read it to claim it."""

    def __init__(self, cluster_log: Log, names: ClusterNames, follower: ChainFollower) -> None:
        self._log = cluster_log
        self._names = names
        self._follower = follower

    async def remove(self, below: int) -> bool:
        """Remove the entries below a sequence; returns whether the log did so. While it is away, none."""
        shard = self._follower.shard
        try:
            await self._log.purge(self._names.forecasts_stream(shard), self._names.forecasts(shard), below=below)
            self._follower.note_removed(below)
            await self._follower.read_extent()
        except LogAwayError as exc:
            log.debug("chain_not_trimmed", shard=shard, error=str(exc))
            return False
        return True

    async def make_room(self) -> None:
        """Remove all that later entries have, however new it is: the log is full, and nothing can be moved first.

        Readers that have not read it yet get the next forecasts of its servers.
        """
        follower = self._follower
        try:
            first = await follower.read_extent()
        except LogAwayError:
            return
        below = follower.chain.superseded_below
        if below > first and not follower.later_format and await self.remove(below):
            log.warning("chain_cut_short", shard=follower.shard, below=below)
