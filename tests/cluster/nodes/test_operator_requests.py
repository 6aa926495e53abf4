"""Tests `streamd/cluster/nodes/operator_requests.py`: what a node makes of the keys that `streamd cluster` writes."""

from streamd.cluster.log import Entry
from streamd.cluster.nodes.operator_requests import DRAIN_KEY, REBALANCE_KEY, OperatorRequests


def test_a_node_is_drained_while_its_key_is_there() -> None:
    requests = OperatorRequests()
    for node in ("a", "b"):
        assert not requests.see(f"{DRAIN_KEY}.{node}", Entry(b"{}", 1))
    assert requests.drained == {"a", "b"}
    assert not requests.see(f"{DRAIN_KEY}.a", None)
    assert requests.drained == {"b"}


def test_a_request_to_balance_counts_once_and_not_for_a_later_run() -> None:
    requests = OperatorRequests()
    assert not requests.see(REBALANCE_KEY, Entry(b"", 9)), "it was for the nodes of that time"
    requests.begin()
    assert not requests.see(REBALANCE_KEY, Entry(b"", 9)), "a lost connection brings all keys again"
    assert requests.see(REBALANCE_KEY, Entry(b"", 11))
    assert not requests.see(REBALANCE_KEY, Entry(b"", 11))
    assert requests.see(REBALANCE_KEY, Entry(b"", 12))
    assert not requests.see("versions", Entry(b"", 13))


def test_a_request_to_balance_counts_also_in_a_table_that_was_made_anew() -> None:
    requests = OperatorRequests()
    requests.begin()
    assert requests.see(REBALANCE_KEY, Entry(b"", 11))
    assert not requests.see(REBALANCE_KEY, None)
    assert requests.see(REBALANCE_KEY, Entry(b"", 3))
