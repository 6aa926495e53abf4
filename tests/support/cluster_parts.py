"""Nodes of a cluster over a made log, for tests of one daemon."""

from streamd.server.cluster.part import ClusterPart
from streamd.server.config import ClusterSection, Config
from tests.support.made_log import MemoryLog


async def connect_made_log() -> None:
    """Do nothing: a made log is connected."""


def make_cluster_part(section: ClusterSection, log: MemoryLog) -> ClusterPart:
    """Make a node that a test joins, if it wants to."""
    return ClusterPart(Config(cluster=section), lambda config, name: (log, connect_made_log))


def make_unjoined_part() -> ClusterPart:
    """Make a node that has all metrics of one."""
    return make_cluster_part(ClusterSection(nats="nats://made:4222", node="a", shards=4), MemoryLog())
