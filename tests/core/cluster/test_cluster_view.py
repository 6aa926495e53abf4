"""Tests `streamd/core/cluster/cluster_view.py`: nodes and shards as an operator sees them."""

from streamd.core.cluster.cluster_view import describe_nodes, list_unowned
from streamd.core.cluster.lease_actions import Lease
from streamd.core.cluster.membership import Heartbeat, NodePhase

HEARD = [
    Heartbeat(node="b", run=5, beat=1, time=0.0, version="1.2", details={"servers": 7.0}),
    Heartbeat(node="a", run=3, beat=1, time=0.0, phase=NodePhase.DRAINING, hindrances=("disk",), cannot_own=True),
]
LEASES = {0: Lease("a", 3), 1: Lease("b", 4), 2: Lease("b", 5), 3: Lease(), 4: Lease("c", 1)}


def test_nodes_are_described_by_name_with_the_shards_of_their_present_run() -> None:
    a, b, gone = describe_nodes(HEARD, LEASES, {"a", "gone"}, {"b": 0.12345})
    assert (a["node"], a["shards"], a["phase"], a["problems"], a["drained"]) == ("a", 1, "draining", ["disk"], True)
    assert not a["can_forecast"]
    assert (b["node"], b["shards"], b["servers"], b["clock_offset_seconds"]) == ("b", 1, 7.0, 0.123)
    assert gone == {"node": "gone", "phase": "away", "drained": True, "shards": 0}


def test_shards_of_former_runs_of_nodes_that_are_away_and_of_nobody_are_unowned() -> None:
    assert list_unowned(LEASES, HEARD, 6) == [1, 3, 4, 5]
