"""The counts of all that was applied from row logs since start: shards come and go, and counts only rise."""

from collections import Counter

from streamd.cluster.rows.applier import Applier


class AppliedCounts:
    """The counts of the shards that are here, and of those that were."""

    def __init__(self) -> None:
        self._appliers: dict[int, Applier] = {}
        self._former: Counter[str] = Counter()
        self._former_rejected: Counter[str] = Counter()

    def add(self, shard: int, applier: Applier) -> None:
        """Count a shard that is loaded, in place of its former applier."""
        former = self._appliers.get(shard)
        if former is not None:
            self._former += _count(former)
            self._former_rejected += Counter(former.received.count_rejected())
        self._appliers[shard] = applier

    def count(self) -> dict[str, int]:
        """Return what was applied, by kind."""
        counts = {"rows": 0, "points": 0, "forgotten": 0, "unreadable": 0}
        return counts | sum((_count(each) for each in self._appliers.values()), self._former)

    def count_rejected(self) -> dict[str, int]:
        """Return the rows that were in a log and could not be taken, by error code."""
        rejected = (Counter(each.received.count_rejected()) for each in self._appliers.values())
        return dict(sum(rejected, self._former_rejected))


def _count(applier: Applier) -> Counter[str]:
    counts = applier.counts
    return Counter(rows=counts.rows, points=counts.points, forgotten=counts.forgotten, unreadable=counts.unreadable)
