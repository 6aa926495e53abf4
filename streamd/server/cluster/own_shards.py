"""The shards that this node owns at the moment, as they matter to calls and to its heartbeats."""

from streamd.cluster.forecasts.forecasts import ClusterForecasts


class OwnShards:
    """The owned shards of one node of a cluster of `shards` shards."""

    def __init__(self, forecasts: ClusterForecasts, shards: int) -> None:
        self._forecasts = forecasts
        self._shards = shards

    def is_owned(self, shard: int) -> bool:
        """Whether this node forecasts a shard; one that it only takes over is none of them yet."""
        held = self._forecasts.shards.get(shard)
        return held is not None and held.is_owning

    def list_owned(self) -> list[int]:
        """Return the owned shards, in order."""
        return [shard for shard in range(self._shards) if self.is_owned(shard)]

    def count_servers(self) -> int:
        """Return the number of servers in the owned shards."""
        return int(self._forecasts.slots.count_slots()[self.list_owned()].sum())
