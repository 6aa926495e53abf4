"""Tests `streamd/cluster/rows/shard_servers.py`: other shards' names, and what is remembered."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from streamd.cluster.rows.shard_servers import ShardServers
from streamd.core.cluster.shards import find_shard
from streamd.core.errors import MalformedError
from streamd.core.state.directory import Directory

NAMES = [f"web-{number}" for number in range(4_000)]
OWN = [name for name in NAMES if find_shard(name, 2) == 1]
FOREIGN = next(name for name in NAMES if find_shard(name, 2) == 0)


def make_directory(slots: dict[str, int]) -> Directory:
    made: Any = SimpleNamespace(capacity=8, slots=slots)
    return cast("Directory", made)


def test_a_server_of_another_shard_is_refused_whenever_it_comes() -> None:
    servers = ShardServers(make_directory({}), 1, 2)
    for _ in range(2):
        with pytest.raises(MalformedError, match=f"{FOREIGN}' belongs to shard 0, and not to 1"):
            servers.check([OWN[0], FOREIGN])


def test_names_without_a_slot_are_not_remembered_without_a_bound() -> None:
    servers = ShardServers(make_directory({OWN[0]: 3, FOREIGN: 4}), 1, 2)
    servers.check([OWN[0]])
    servers.check(OWN)
    assert len(servers._known) <= 2 * 8 + 1_000
    assert servers.list_known() == servers.find_all() == {OWN[0]: 3}
