"""The forecast chains that a node reads: those of its own shards, and those that its readers want."""

from collections import Counter
from collections.abc import Callable
from enum import Enum

from streamd.cluster.forecasts.chain_follower import ChainFollower


class ChainUse(Enum):
    """The reasons to read a chain."""

    ROWS = "rows"
    """The shard's rows are followed or owned here."""
    READERS = "readers"
    """The forecasts of its servers are read here."""


class ShardChains:
    """The followers of chains by shard, each as long as there is a reason; `make` returns one that does not read."""

    def __init__(self, make: Callable[[int], ChainFollower]) -> None:
        self._make = make
        self._followers: dict[int, ChainFollower] = {}
        self._uses: dict[int, set[ChainUse]] = {}
        self._former: Counter[str] = Counter()
        """The counts of chains that are not read any more."""

    def acquire(self, shard: int, use: ChainUse) -> ChainFollower:
        """Return the follower of a shard's chain, which reads from now on."""
        follower = self._followers.get(shard)
        if follower is None:
            follower = self._followers[shard] = self._make(shard)
            follower.has_rows = lambda: self.is_used(shard, ChainUse.ROWS)
            follower.start()
        self._uses.setdefault(shard, set()).add(use)
        return follower

    async def release(self, shard: int, use: ChainUse) -> None:
        """Note that one reason is gone; without any, the chain is not read any more."""
        uses = self._uses.get(shard, set())
        uses.discard(use)
        if not uses and (follower := self._followers.pop(shard, None)) is not None:
            await follower.pause()
            self._former += _count(follower)

    def count_repairs(self) -> dict[str, int]:
        """Return since start how often chains were `read_again`, or stayed `incomplete`, and `unreadable` messages."""
        counts = {"read_again": 0, "incomplete": 0, "unreadable": 0}
        return counts | sum(map(_count, self._followers.values()), self._former)

    def is_used(self, shard: int, use: ChainUse) -> bool:
        """Whether there is this reason to read a chain."""
        return use in self._uses.get(shard, ())

    def find(self, shard: int) -> ChainFollower | None:
        """Return the follower of a chain, `None` if the chain is not read here."""
        return self._followers.get(shard)

    async def close(self) -> None:
        """Read no chain any more."""
        for follower in list(self._followers.values()):
            await follower.pause()
        self._followers.clear()
        self._uses.clear()


def _count(follower: ChainFollower) -> Counter[str]:
    return Counter(read_again=follower.reloads, incomplete=follower.incomplete, unreadable=follower.unreadable)
