"""Finds the shards of servers, and remembers those that were seen before."""

from collections.abc import Sequence
from functools import cache

import numpy as np

from streamd.core.arrays import Numbers
from streamd.core.cluster.shards import find_shard
from streamd.core.state.directory import check_server_name

MAX_REMEMBERED_SERVERS = 200_000
"""Servers that are remembered: a look-up takes a tenth of the time of a hash."""


class ShardFinder:
    """The shards of servers in a cluster of `shards`."""

    def __init__(self, shards: int) -> None:
        self.shards = shards
        self._known: dict[str, int] = {}

    def find(self, server: str) -> int:
        """Return the shard of a server; raises `InvalidServerError` for a name that is none."""
        shard = self._known.get(server)
        if shard is None:
            check_server_name(server)
            shard = find_shard(server, self.shards)
            if len(self._known) >= MAX_REMEMBERED_SERVERS:
                self._known.clear()
            self._known[server] = shard
        return shard

    def find_all(self, servers: Sequence[str]) -> Numbers:
        """Return the shard of each server, `(n,)`; raises as `find`."""
        find = self.find
        return np.fromiter((find(server) for server in servers), np.int64, len(servers))


@cache
def share_finder(shards: int) -> ShardFinder:
    """Return the finder that all parts of this process share: each server is remembered once."""
    return ShardFinder(shards)
