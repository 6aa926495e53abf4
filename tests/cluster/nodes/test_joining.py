"""Tests `streamd/cluster/nodes/joining.py`: who is there, and the number of a run, also in tables made anew."""

import asyncio

import pytest

from streamd.cluster.log import Log
from streamd.cluster.nodes.heartbeats import encode_heartbeat
from streamd.cluster.nodes.joining import HeardNodes, begin_run, listen_for_nodes
from streamd.cluster.nodes.lease_entries import encode_lease, make_lease_key
from streamd.cluster.revisions import MAX_RAISED
from streamd.core.cluster.lease_actions import Lease
from streamd.core.cluster.membership import Heartbeat, NodePhase
from streamd.core.cluster.shards import ClusterNames
from streamd.core.errors import ConfigError
from tests.support.made_log import MemoryLog
from tests.support.virtual_time import run_in_virtual_time

NAMES = ClusterNames("streamd")


def make_heartbeat(node: str, run: int, phase: NodePhase = NodePhase.SERVING) -> Heartbeat:
    return Heartbeat(node=node, run=run, beat=1, time=0.0, phase=phase)


def listen(node: str, *heartbeats: Heartbeat) -> HeardNodes:
    """Return what a node hears while others send heartbeats, in virtual time."""
    found: list[HeardNodes] = []

    async def run() -> None:
        log = MemoryLog()
        listening = asyncio.create_task(listen_for_nodes(log, NAMES, node, 2.5))
        await asyncio.sleep(1.0)
        for heartbeat in heartbeats:
            await log.connect().publish(NAMES.node(heartbeat.node), encode_heartbeat(heartbeat))
        found.append(await listening)

    run_in_virtual_time(run())
    return found[0]


def test_the_nodes_that_run_are_heard_and_the_highest_run_of_all() -> None:
    gone = make_heartbeat("c", 9, NodePhase.GONE)
    heard = listen("me", make_heartbeat("a", 3), make_heartbeat("b", 5), gone)
    assert heard == HeardNodes(("a", "b"), 9)
    assert listen("me") == HeardNodes((), 0)


def test_a_run_that_no_table_can_have_given_does_not_count() -> None:
    heard = listen("me", make_heartbeat("a", 3), make_heartbeat("b", 2**60))
    assert heard.highest_run == 3


def test_a_name_that_a_living_node_has_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"\[cluster\] node: another node of the cluster 'streamd' is named 'me'"):
        listen("me", make_heartbeat("me", 3))
    assert listen("me", make_heartbeat("me", 3, NodePhase.GONE)).names == ()


@pytest.fixture
def log() -> Log:
    made = MemoryLog()
    for table in ("control", "leases"):
        made.broker.make_bucket(NAMES.bucket(table))
    return made


@pytest.mark.parametrize(
    ("heard", "held", "run"),
    [(0, 0, 1), (40, 0, 41), (7, 300, 301), (0, MAX_RAISED + 1, 1)],
)
async def test_a_run_is_above_all_that_are_heard_or_have_leases(log: Log, heard: int, held: int, run: int) -> None:
    control, leases = (log.table(NAMES.bucket(table)) for table in ("control", "leases"))
    await leases.put(make_lease_key(0), encode_lease(Lease("b", held)))
    await leases.put(make_lease_key(1), b"unreadable")
    assert await begin_run(control, leases, "me", "1.0", HeardNodes((), heard)) == run
    assert await begin_run(control, leases, "me", "1.0", HeardNodes((), heard)) == run + 1
    assert (await control.read_all())["node.me"].value == b"1.0"
