"""Tests `streamd/cluster/nodes/lease_entries.py`: keys and values of the table of leases."""

import pytest

from streamd.cluster.nodes.lease_entries import decode_lease, encode_lease, make_lease_key, parse_lease_key
from streamd.core.cluster.lease_actions import Lease


def test_keys_and_values_come_back() -> None:
    assert parse_lease_key(make_lease_key(17)) == 17
    assert decode_lease(encode_lease(Lease("a", 3))) == Lease("a", 3)


@pytest.mark.parametrize("key", ["shard", "shard.", "shard.x", "shard.²", "raised", "other.1"])
def test_other_keys_are_of_no_shard(key: str) -> None:
    assert parse_lease_key(key) is None


@pytest.mark.parametrize("value", [b"", b"\xc1", b"\x80\x80", b"\x01"])
def test_bytes_that_are_no_lease_are_none(value: bytes) -> None:
    assert decode_lease(value) is None
