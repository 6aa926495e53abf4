"""The first steps of a node that joins: it listens who is there, and gets the number of its run."""

from dataclasses import dataclass

from streamd.cluster.log import Log, SharedTable
from streamd.cluster.nodes.heartbeats import listen_for_heartbeats
from streamd.cluster.nodes.lease_entries import decode_lease
from streamd.cluster.revisions import MAX_RAISED, put_above
from streamd.core.cluster.membership import NodePhase, find_namesake
from streamd.core.cluster.shards import ClusterNames
from streamd.core.errors import ConfigError

NODE_KEY = "node"
"""The key of a node in the table `control`, with its name behind it: its revision is the number of the run."""


@dataclass(frozen=True)
class HeardNodes:
    """The nodes that run, and the highest number of a run among them; 0 without any."""

    names: tuple[str, ...] = ()
    highest_run: int = 0


async def listen_for_nodes(cluster_log: Log, names: ClusterNames, node: str, seconds: float) -> HeardNodes:
    """Listen for some seconds, and return the nodes that run.

    Raises `ConfigError` if another node has this node's name, `LogAwayError`.
    """
    heard = await listen_for_heartbeats(cluster_log, names, seconds)
    namesake = find_namesake(heard, node)
    if namesake is not None:
        raise ConfigError(
            f"[cluster] node: another node of the cluster {names.name!r} is named {namesake.node!r} and runs "
            f"(run {namesake.run}), expected a name of its own for each node"
        )
    running = [each for each in heard if each.phase is not NodePhase.GONE]
    runs = [each.run for each in heard if each.run <= MAX_RAISED]
    return HeardNodes(tuple(each.node for each in running), max(runs, default=0))


async def begin_run(control: SharedTable, leases: SharedTable, node: str, release: str, heard: HeardNodes) -> int:
    """Return the number of a new run of a node, above all others'; raises `LogAwayError`.

    It is a revision of the table `control`, which may have been deleted and made anew since the others began.
    """
    found = [decode_lease(entry.value) for entry in (await leases.read_all()).values()]
    runs = [lease.run for lease in found if lease is not None and lease.run <= MAX_RAISED]
    return await put_above(control, f"{NODE_KEY}.{node}", release.encode(), max([heard.highest_run, *runs]))
