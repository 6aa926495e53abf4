"""Tests `streamd/cluster/shard_slots.py`."""

from streamd.cluster.shard_slots import ShardSlots
from streamd.core.cluster.shards import find_shard
from streamd.core.state.directory import DIRECTORY_COLUMNS, Directory
from streamd.core.state.layout import Layout

SHARDS = 4
CAPACITY = 12


def make_directory() -> Directory:
    layout = Layout(DIRECTORY_COLUMNS, CAPACITY, {})
    return Directory(layout.make_views(bytearray(layout.nbytes)))


def admit(directory: Directory, server: str) -> None:
    slot, _ = directory.find_slot()
    directory.admit(slot, server, 0.0)


def check(slots: ShardSlots, directory: Directory) -> None:
    """Each shard has the slots of its servers, and as many are counted."""
    for shard in range(SHARDS):
        expected = {slot for server, slot in directory.slots.items() if find_shard(server, SHARDS) == shard}
        assert set(slots.list_slots(shard).tolist()) == expected
        assert slots.count_slots()[shard] == len(expected)


def test_each_server_is_listed_and_counted_in_its_shard_while_servers_come_and_go() -> None:
    directory = make_directory()
    slots = ShardSlots(directory, SHARDS)
    check(slots, directory)
    for number in range(CAPACITY):
        admit(directory, f"server-{number}")
        check(slots, directory)
    for number in range(0, CAPACITY, 2):
        directory.release(directory.slots[f"server-{number}"])
        admit(directory, f"other-{number}")
    directory.release(directory.slots["server-1"])
    check(slots, directory)
