"""The servers of one shard at a node: those whose names were checked, and those that have a slot. Changes no slot."""

from collections.abc import Sequence

from streamd.cluster.shard_finder import share_finder
from streamd.core.errors import MalformedError
from streamd.core.state.directory import Directory


class ShardServers:
    """The servers of shard `shard` of `shards`."""

    def __init__(self, directory: Directory, shard: int, shards: int) -> None:
        self._directory = directory
        self._shard = shard
        self._finder = share_finder(shards)
        self._known: dict[str, bool] = {}

    def check(self, servers: Sequence[str]) -> None:
        """Raise `MalformedError` if one of the servers is of another shard."""
        known = self._known
        for server in servers:
            if server in known:
                continue
            shard = self._finder.find(server)
            if shard != self._shard:
                raise MalformedError(f"the server {server!r} belongs to shard {shard}, and not to {self._shard}")
            if len(known) >= 2 * self._directory.capacity + 1_000:
                known.clear()
                known.update(dict.fromkeys(self.find_all(), True))
            known[server] = True

    def note(self, servers: Sequence[str]) -> None:
        """Note servers that are known to be of this shard."""
        self._known.update(dict.fromkeys(servers, True))

    def list_known(self) -> dict[str, int]:
        """Return the servers that came in the shard's log and have a slot, with their slots."""
        slots = self._directory.slots
        return {server: slots[server] for server in self._known if server in slots}

    def find_all(self) -> dict[str, int]:
        """Return all servers of this shard that have a slot here, for whatever reason, with their slots."""
        shard, find = self._shard, self._finder.find
        return {server: slot for server, slot in self._directory.slots.items() if find(server) == shard}
