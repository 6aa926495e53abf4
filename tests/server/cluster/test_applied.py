"""Tests `streamd/server/cluster/applied.py`: counts of shards that come and go only rise."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from streamd.cluster.rows.applier import ApplyCounts
from streamd.server.cluster.applied import AppliedCounts


@dataclass
class Received:
    """What was rejected."""

    rejected: dict[str, int]

    def count_rejected(self) -> Mapping[str, int]:
        return self.rejected


@dataclass
class CountedApplier:
    """An applier with some counts."""

    rows: int
    rejected: dict[str, int] = field(default_factory=dict)

    @property
    def counts(self) -> ApplyCounts:
        return ApplyCounts(rows=self.rows, points=1)

    @property
    def received(self) -> Received:
        return Received(self.rejected)


def test_the_counts_of_a_shard_that_is_loaded_anew_are_added_to_its_former_ones() -> None:
    counts = AppliedCounts()
    assert counts.count() == {"rows": 0, "points": 0, "forgotten": 0, "unreadable": 0}
    counts.add(0, cast(Any, CountedApplier(5, {"too_old": 2})))
    counts.add(1, cast(Any, CountedApplier(7, {"no_capacity": 1})))
    counts.add(0, cast(Any, CountedApplier(3, {"too_old": 1})))
    assert counts.count() == {"rows": 15, "points": 3, "forgotten": 0, "unreadable": 0}
    assert counts.count_rejected() == {"too_old": 3, "no_capacity": 1}
