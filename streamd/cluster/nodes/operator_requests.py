"""The requests of operators to all nodes, keys of the table `control`: drained nodes, and to balance the shards.

`streamd cluster` writes them. Decides nothing.
"""

from streamd.cluster.log import Entry

DRAIN_KEY, REBALANCE_KEY = "drain", "rebalance"
"""The keys: one for each drained node, `drain.NODE`, and one for the newest request to balance."""


class OperatorRequests:
    """The requests as one node reads them."""

    def __init__(self) -> None:
        self.drained: set[str] = set()
        """The nodes that are drained."""
        self._rebalance_revision = 0
        self._has_begun = False

    def begin(self) -> None:
        """Note that all keys were seen that were there at the start: a request to balance was for earlier nodes."""
        self._has_begun = True

    def see(self, key: str, entry: Entry | None) -> bool:
        """Take a key as the table shows it; returns whether it is a new request to balance."""
        name, _, node = key.partition(".")
        if name == DRAIN_KEY:
            (self.drained.discard if entry is None else self.drained.add)(node)
        if key != REBALANCE_KEY:
            return False
        former, self._rebalance_revision = self._rebalance_revision, 0 if entry is None else entry.revision
        return self._has_begun and self._rebalance_revision > former
