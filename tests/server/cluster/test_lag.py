"""Tests `streamd/server/cluster/lag.py`: the messages between the end of each row log and the windows."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from streamd.cluster.streams import ShardLimits, prepare_streams
from streamd.core.cluster.shards import ClusterNames
from streamd.server.cluster.lag import LagWatch
from tests.support.made_log import MemoryLog

LIMITS = ShardLimits(row_bytes=2**20, forecast_bytes=2**20)

NAMES = ClusterNames("streamd")


@dataclass
class AppliedShard:
    """A shard that has applied some messages."""

    sequence: int

    def describe(self) -> Mapping[str, Any]:
        return {"rows_sequence": self.sequence}


@dataclass
class NodeOfShards:
    """A node that holds some shards."""

    shards: dict[int, AppliedShard] = field(default_factory=dict)

    def list_held(self) -> list[int]:
        return [*self.shards, 2]

    def find_held(self, shard: int) -> AppliedShard | None:
        return self.shards.get(shard)


async def test_the_lag_is_what_is_in_the_log_and_not_in_the_windows() -> None:
    log, node = MemoryLog(), NodeOfShards({0: AppliedShard(2), 1: AppliedShard(0)})
    await prepare_streams(log, NAMES, 3, LIMITS)
    for _ in range(5):
        await log.append(NAMES.rows(0), b"rows")
    watch = LagWatch(log, NAMES, cast(Any, node))
    await watch.measure()
    assert watch.messages == {0: 3, 1: 0}
    assert watch.total == 3
    node.shards[0].sequence = 5
    log.cut()
    await watch.measure()
    assert watch.total == 3, "the log is away: what was measured stays"
    log.heal()
    await watch.measure()
    assert watch.total == 0
