"""Remembers the series of servers that got no slot by their keys, and nothing else of them. Within limits; no I/O.

A fleet that is larger than `max_servers` sends the same series again and again. To map each of them each time takes 6
us, to find it here 1 us.
"""

from collections import OrderedDict
from collections.abc import Hashable

MAX_REFUSED_BYTES = 2**27
"""The size of what is remembered: about 250,000 series."""

REPLACE_EVERY = 16
"""When the memory is full, one in so many new keys replaces the oldest. If each did, a fleet that is just too large for
the memory would find none of its keys, because all are replaced before they come again."""

_OBJECT_BYTES, _ENTRY_BYTES = 50, 250


class RefusedKeys:
    """The names of servers without a slot, by the protocol and key of each of their series."""

    def __init__(self, max_bytes: int = MAX_REFUSED_BYTES) -> None:
        self._max_bytes = max_bytes
        self._servers: OrderedDict[tuple[str, Hashable], str] = OrderedDict()
        self._bytes = 0
        self._unplaced = 0

    def find_server(self, protocol: str, key: Hashable) -> str | None:
        """Return the server of a series that was refused before; it may have a slot by now."""
        return self._servers.get((protocol, key))

    def add(self, protocol: str, key: Hashable, server: str) -> None:
        """Remember a series of a server that got no slot, if there is space or it is its turn to replace others."""
        place = (protocol, key)
        if place in self._servers:
            return
        size = _measure_entry(key, server)
        if self._bytes + size > self._max_bytes:
            self._unplaced += 1
            if self._unplaced % REPLACE_EVERY:
                return
        self._servers[place] = server
        self._bytes += size
        while self._bytes > self._max_bytes:
            self.remove(*next(iter(self._servers)))

    def remove(self, protocol: str, key: Hashable) -> None:
        """Forget a series, if it was refused."""
        server = self._servers.pop((protocol, key), None)
        if server is not None:
            self._bytes -= _measure_entry(key, server)

    def __len__(self) -> int:
        return len(self._servers)


def measure_key(key: Hashable) -> int:
    """Return about how many bytes a key takes."""
    if isinstance(key, bytes | str):
        return _OBJECT_BYTES + len(key)
    if isinstance(key, tuple | frozenset):
        return _OBJECT_BYTES + sum(map(measure_key, key))
    return _OBJECT_BYTES


def _measure_entry(key: Hashable, server: str) -> int:
    return _ENTRY_BYTES + measure_key(key) + measure_key(server)
