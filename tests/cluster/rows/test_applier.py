"""Tests `streamd/cluster/rows/applier.py`: what all nodes took is in the windows of a shard's owner as on one host."""

import asyncio
import math
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamd.cluster.log import LogGapError, LogMessage
from streamd.core.cluster.formats import LaterFormatError
from streamd.core.cluster.row_batches import make_forget_section, make_rows_message, make_section
from streamd.core.cluster.snapshots import SnapshotPlan
from streamd.core.errors import StorageError
from streamd.core.state.samples import Sample
from streamd.runtime.state.state import WindowLimits
from tests.support.contracts import make_contract
from tests.support.shard_rig import NAMES, RigNode, ShardRig, make_frame, sample
from tests.support.state_files import fill_the_disk

SERVERS = ("a", "b", "c", "d", "e", "f", "g")


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[ShardRig]:
    rig = ShardRig(tmp_path)
    yield rig
    await rig.close()


async def test_samples_of_two_nodes_are_in_the_owners_windows(rig: ShardRig) -> None:
    first, second = rig.start_node(), rig.start_node()
    assert (await first.take(sample("web", 1), sample("db", 1, status=3))).accepted == 2
    assert (await second.take(sample("web", 2))).accepted == 1
    await second.take_over()
    assert len(second.windows()["web"][1]) == 2
    assert second.windows()["db"][1][0][1] == 0x83
    assert first.windows() == {}


# ---------------------------------------------------------------- any order of what may happen
Operation = tuple[str, int, tuple[Sample, ...]]


def samples_of(server: str, step: int, columns: list[str], status: int | None) -> Sample:
    return sample(server, step, {name: float(step) for name in columns}, status)


SAMPLES = st.builds(
    samples_of,
    st.sampled_from(SERVERS),
    st.integers(0, 45),
    st.lists(st.sampled_from(["cpu", "mem", "net"]), unique=True),
    st.none() | st.integers(0, 15),
)
OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("send"), st.integers(0, 1), st.lists(SAMPLES, min_size=1, max_size=12).map(tuple)),
        st.tuples(st.just("frame"), st.integers(0, 45), st.just(())),
        st.tuples(st.sampled_from(["read", "snapshot", "take over", "forget"]), st.integers(0, 6), st.just(())),
    ),
    min_size=5,
    max_size=25,
)


class Scenario:
    """Two nodes that own a shard in turns, and one host that takes the same."""

    def __init__(self, folder: Path) -> None:
        self.rig = ShardRig(
            folder,
            contract=make_contract(context_length=26),
            window_limits=WindowLimits(capacity=16, need=2, late_steps=20, grace_seconds=1e6),
        )
        self.nodes = [self.start(), self.start()]
        self.host = self.start()
        self.owner = 0
        self.now = 0.0

    def start(self) -> RigNode:
        node = self.rig.start_node()
        node.held[0].snapshots.plan = SnapshotPlan(1)
        return node

    async def run(self, operations: list[Operation]) -> None:
        await self.nodes[0].take_over()
        for name, number, samples in operations:
            await self.do(name, number, samples)

    async def do(self, name: str, number: int, samples: tuple[Sample, ...]) -> None:
        owner, host = self.nodes[self.owner], self.host.service
        if name == "send":
            result = await self.nodes[number].take(*samples)
            assert result.rejected == 0
            await host.ingest.take_samples(enumerate(samples))
        elif name == "frame":
            await self.nodes[number % 2].take_columns(SERVERS, number)
            await host.ingest.take_frame(make_frame(SERVERS, number))
        elif name == "read":
            await owner.read_rows()
        elif name == "snapshot":
            self.now += 10_000.0
            await owner.held[0].snapshots.write_due(self.now)
        elif name == "forget":
            await self.nodes[0].publisher.forget(SERVERS[number], 0, math.inf)
            if (slot := host.state.directory.slots.get(SERVERS[number])) is not None:
                host.forget(slot)
        else:
            self.owner = 1 - self.owner
            self.nodes[self.owner].held = self.nodes[self.owner].hold()
            self.nodes[self.owner].held[0].snapshots.plan = SnapshotPlan(1)
            await self.nodes[self.owner].take_over()


@settings(max_examples=25)
@given(OPERATIONS)
async def test_any_owner_has_the_windows_of_one_host(operations: list[Operation]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        scenario = Scenario(Path(folder))
        try:
            await scenario.run(operations)
            await scenario.nodes[scenario.owner].read_rows()
            expected = scenario.host.windows()
            assert scenario.nodes[scenario.owner].windows() == expected
            last = scenario.start()
            await last.take_over()
            assert last.windows() == expected
        finally:
            await scenario.rig.close()


# ---------------------------------------------------------------- what cannot be applied
async def apply(node: RigNode, *messages: bytes) -> None:
    applier = node.held[0].applier
    first = applier.sequence + 1
    await applier.apply([LogMessage("", data, first + place) for place, data in enumerate(messages)])


async def test_unreadable_parts_are_counted_and_nothing_else_is_lost(rig: ShardRig) -> None:
    node = rig.start_node()
    await node.take(sample("web", 1))
    good = rig.log.broker.get_stream(NAMES.rows_stream(0)).messages[1].data
    section = good[2:]
    await apply(
        node,
        b"",
        b"\x07\x01" + section,
        make_rows_message([make_section(1, b"bad"), make_section(99, b""), make_section(3, b"\xff"), section]),
        good + b"\x01",
        good[:-3],
    )
    assert node.held[0].applier.counts.unreadable == 7
    assert node.held[0].applier.sequence == 5
    assert set(node.windows()) == {"web"}


async def test_a_row_of_another_shard_is_not_taken(tmp_path: Path) -> None:
    rig = ShardRig(tmp_path, shards=2)
    node = rig.start_node()
    await node.take(*(sample(f"web-{number}", 1) for number in range(20)))
    for shard in (0, 1):
        stray = rig.log.broker.get_stream(NAMES.rows_stream(1 - shard)).messages[1].data
        await node.held[shard].applier.apply([LogMessage("", stray, 1)])
        assert node.held[shard].applier.counts.unreadable == 1
    assert node.windows() == {}
    await rig.close()


async def test_messages_that_were_removed_unread_are_noticed(rig: ShardRig) -> None:
    node = rig.start_node()
    applier = node.held[0].applier
    await applier.apply([LogMessage("", make_rows_message([make_forget_section("web", math.inf)]), 1)])
    await applier.apply([LogMessage("", b"", 1)])
    with pytest.raises(LogGapError, match="message 3 of shard 0 follows 1"):
        await applier.apply([LogMessage("", b"", 3)])


async def test_an_order_that_waited_in_a_node_that_was_cut_off_forgets_nothing(rig: ShardRig) -> None:
    former, owner, broker = rig.start_node(), rig.start_node(), rig.log.broker
    await owner.take(sample("web", 1))
    former.log.cut()
    waiting = asyncio.create_task(former.publisher.forget("web", 0, broker.now + 3.0))
    await asyncio.sleep(0)
    await owner.publisher.forget("web", 0, broker.now + 3.0)
    broker.now += 20.0
    await owner.take(sample("web", 2))
    former.log.heal()
    await waiting
    await owner.read_rows()
    assert set(owner.windows()) == {"web"}
    assert owner.held[0].applier.counts.forgotten == 1


async def test_nothing_is_skipped_while_the_disk_is_full(rig: ShardRig) -> None:
    node = rig.start_node()
    await node.take(sample("web", 1))
    node.state.refuse_writes(StorageError("the disk is full"))
    with pytest.raises(StorageError):
        await node.read_rows()
    assert node.held[0].applier.sequence == 0
    node.state.refuse_writes(None)
    await node.read_rows()
    assert set(node.windows()) == {"web"}


async def test_a_message_that_was_stored_in_part_is_applied_again(
    rig: ShardRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = rig.start_node()
    await node.take(sample("web", 1))
    with monkeypatch.context() as full:
        fill_the_disk(full)
        with pytest.raises(StorageError, match="message 1 of shard 0 could not be stored as a whole"):
            await node.read_rows()
    assert (node.windows(), node.held[0].applier.sequence) == ({}, 0)
    await node.read_rows()
    assert set(node.windows()) == {"web"}


async def test_more_servers_than_slots_are_counted_at_the_owner(tmp_path: Path) -> None:
    rig = ShardRig(tmp_path, window_limits=WindowLimits(capacity=2, need=2, late_steps=8, grace_seconds=10.0))
    first, second = rig.start_node(), rig.start_node()
    assert (await first.take(*(sample(server, 1) for server in "abc"))).accepted == 3
    await second.take_over()
    assert set(second.windows()) == {"a", "b"}
    assert second.held[0].applier.describe()["rejected"] == {"no_capacity": 1}
    await rig.close()


async def test_a_shard_that_is_dropped_leaves_no_server(tmp_path: Path) -> None:
    rig = ShardRig(tmp_path, shards=2)
    node = rig.start_node()
    await node.take(*(sample(f"web-{number}", 1) for number in range(12)))
    await node.take_over()
    of_other = set(node.held[1].applier.servers)
    node.held[0].applier.drop()
    assert set(node.windows()) == of_other
    assert len(of_other) > 1
    await rig.close()


async def test_rows_of_a_later_release_are_named_and_nothing_behind_them_is_applied(rig: ShardRig) -> None:
    node = rig.start_node()
    await node.take(sample("a", 1))
    await rig.log.append(NAMES.rows(0), b"\x01\x02 of a later release")
    await node.take(sample("a", 2))
    with pytest.raises(LaterFormatError, match="message 2 of the log of rows: a message of rows is of format 2"):
        await node.take_over()
    assert node.held[0].applier.sequence == 1
