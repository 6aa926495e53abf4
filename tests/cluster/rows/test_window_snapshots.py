"""Tests `streamd/cluster/rows/window_snapshots.py`: what is written, what is removed for it, and what is loaded."""

import asyncio
import math
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from streamd.cluster.log import LogGapError, LogMessage
from streamd.core.cluster.chain_entries import FencedError
from streamd.core.cluster.formats import LaterFormatError
from streamd.core.cluster.snapshots import MAX_AGE_SECONDS, SnapshotPlan
from streamd.core.cluster.window_batches import read_head
from streamd.core.mapping.series import SourceSeries
from streamd.runtime.state.state import WindowLimits
from tests.support.collector_rig import RULES
from tests.support.contracts import make_contract
from tests.support.made_broker import MadeStream
from tests.support.shard_rig import BEGIN, NAMES, STEP_SECONDS, RigNode, ShardRig, sample


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[ShardRig]:
    rig = ShardRig(tmp_path, contract=make_contract(context_length=30))
    yield rig
    await rig.close()


def start(rig: ShardRig, chunk_servers: int = 2) -> RigNode:
    node = rig.start_node()
    node.held[0].snapshots.plan = SnapshotPlan(chunk_servers)
    return node


def rows(rig: ShardRig) -> MadeStream:
    return rig.log.broker.get_stream(NAMES.rows_stream(0))


def windows(rig: ShardRig) -> MadeStream:
    return rig.log.broker.get_stream(NAMES.windows_stream(0))


async def fill(node: RigNode, servers: str, steps: range) -> None:
    for step in steps:
        await node.take(*(sample(server, step) for server in servers))


async def test_each_chunk_has_one_snapshot_with_its_servers(rig: ShardRig) -> None:
    node = start(rig)
    await fill(node, "abc", range(3))
    await node.take_over()
    for _ in range(2):
        await node.held[0].snapshots.write_all(0.0)
        await fill(node, "abc", range(3, 4))
        await node.read_rows()
    heads = [read_head(message.data) for message in windows(rig).messages.values()]
    assert sorted((head.chunk, tuple(head.servers), head.chunks) for head in heads) == [
        (0, ("a", "b"), 2),
        (1, ("c",), 2),
    ]
    assert [message.subject for message in windows(rig).messages.values()] == [NAMES.windows(0, 0), NAMES.windows(0, 1)]


async def test_a_snapshot_is_written_when_it_is_old_and_rows_changed_it(rig: ShardRig) -> None:
    node = start(rig)
    snapshots = node.held[0].snapshots
    await fill(node, "a", range(3))
    await node.take_over()
    await snapshots.write_due(1.0)
    assert (snapshots.written, rows(rig).state.messages) == (0, 3), "it is not old"
    await snapshots.write_due(1.0 + MAX_AGE_SECONDS)
    assert (snapshots.written, rows(rig).state.messages) == (1, 0)
    await snapshots.write_due(10.0 * MAX_AGE_SECONDS)
    assert snapshots.written == 1, "nothing changed it"


async def test_a_chunk_that_nothing_changed_covers_later_rows(rig: ShardRig) -> None:
    node, second = start(rig, 1), start(rig, 1)
    snapshots = node.held[0].snapshots
    await fill(node, "ab", range(3))
    await node.take_over()
    await snapshots.write_all(0.0)
    await fill(node, "b", range(3, 6))
    await node.read_rows()
    await snapshots.write_all(0.0)
    assert (snapshots.written, rows(rig).state.messages) == (4, 0)
    await fill(node, "b", range(6, 8))
    await node.read_rows()
    chunk = snapshots.plan.chunks[1]
    await snapshots._write(chunk, 0.0)
    await snapshots.write_due(60.0)
    assert rows(rig).state.messages == 0, "the other snapshot is as good as new"
    await second.take_over()
    assert second.windows() == node.windows()


async def test_a_server_that_is_in_two_snapshots_is_loaded_from_the_newer_one(rig: ShardRig) -> None:
    node, second = start(rig, 1), start(rig, 1)
    await fill(node, "ab", range(3))
    await node.take_over()
    await node.held[0].snapshots.write_all(0.0)
    await node.publisher.forget("a", 0, math.inf)
    await node.read_rows()
    await node.held[0].snapshots.write_due(1e6)
    await fill(node, "ca", range(3, 5))  # c takes the place of a
    await node.read_rows()
    plan = node.held[0].snapshots.plan
    for chunk in reversed(plan.chunks):
        await node.held[0].snapshots._write(chunk, 0.0)
    await fill(node, "a", range(5, 6))
    await node.read_rows()
    await second.take_over()
    assert second.windows() == node.windows()
    assert set(second.windows()) == {"a", "b", "c"}


async def test_an_order_to_forget_counts_only_for_what_came_before_it(rig: ShardRig) -> None:
    node, second = start(rig, 1), start(rig, 1)
    await fill(node, "b", range(1))
    await node.take_over()
    await fill(node, "a", range(2))
    await node.publisher.forget("a", 0, math.inf)
    await fill(node, "a", range(2, 4))
    await node.read_rows()
    snapshots = node.held[0].snapshots
    snapshots._follow_servers(0.0)
    await snapshots._write(next(chunk for chunk in snapshots.plan.chunks if "a" in chunk.servers), 0.0)
    await second.take_over()
    assert second.windows() == node.windows()
    assert len(second.windows()["a"][1]) == 2


async def test_rows_that_are_removed_while_a_node_loads_are_noticed(rig: ShardRig) -> None:
    node, second = start(rig), start(rig)
    await fill(node, "a", range(3))
    await node.take_over()
    await node.held[0].snapshots.write_all(0.0)
    await fill(node, "a", range(3, 6))
    await node.read_rows()
    await second.held[0].snapshots.load()
    await node.held[0].snapshots.write_all(0.0)
    await fill(node, "a", range(6, 7))
    with pytest.raises(LogGapError):
        await second.held[0].read_rows()
    await second.take_over()
    await node.read_rows()
    assert second.windows() == node.windows()


async def test_a_former_owner_does_not_replace_a_newer_snapshot(rig: ShardRig) -> None:
    former, owner, third = start(rig), start(rig), start(rig)
    former.held[0].snapshots.fence, owner.held[0].snapshots.fence = 5, 7
    await fill(former, "a", range(3))
    await former.take_over()
    await former.held[0].snapshots.write_all(0.0)
    await owner.take_over()
    await fill(owner, "ab", range(3, 6))
    await owner.read_rows()
    former.log.hold_requests = True
    chunk = former.held[0].snapshots.plan.chunks[0]
    writing = asyncio.create_task(former.held[0].snapshots._write(chunk, 0.0))
    for _ in range(5):
        await asyncio.sleep(0)
    former.log.hold_requests = False
    await owner.held[0].snapshots.write_all(0.0)
    former.log.release()
    assert not await writing, "it had a look at the newer one"
    assert rows(rig).state.messages == 0
    await third.take_over()
    assert third.windows() == owner.windows()


async def test_a_new_owner_goes_on_with_the_chunks_that_the_former_wrote_last(rig: ShardRig) -> None:
    former, owner, third = start(rig), start(rig), start(rig)
    former.held[0].snapshots.fence, owner.held[0].snapshots.fence = 5, 7
    await fill(former, "a", range(3))
    await former.take_over()
    await owner.take_over()  # it is prepared, and follows
    await fill(former, "bc", range(3))
    for node in (former, owner):
        await node.read_rows()
    await former.held[0].snapshots.write_all(0.0)
    assert rows(rig).state.messages == 0
    plan = owner.held[0].snapshots.plan
    plan.add_server("c", 0, 0, 0.0)  # its chunks are others than those of the former
    plan.add_server("a", 0, 0, 0.0)
    await owner.held[0].snapshots._write(plan.chunks[0], 0.0)
    await third.take_over()
    assert third.windows() == owner.windows()


async def test_snapshots_of_a_longer_window_are_restored_to_a_shorter_one(rig: ShardRig) -> None:
    node = start(rig)
    short = rig.start_node(contract=make_contract(context_length=8))
    await fill(node, "a", range(20))
    await node.take_over()
    await node.held[0].snapshots.write_all(0.0)
    await short.take_over()
    assert short.windows()["a"][1] == node.windows()["a"][1][-8:]


async def test_servers_that_find_no_slot_are_counted(tmp_path: Path) -> None:
    rig = ShardRig(tmp_path)
    node = rig.start_node()
    small = rig.start_node(window_limits=WindowLimits(capacity=2, need=2, late_steps=8, grace_seconds=10.0))
    await fill(node, "abc", range(3))
    await node.take_over()
    await node.held[0].snapshots.write_all(0.0)
    await small.take_over()
    assert set(small.windows()) == {"a", "b"}
    assert small.held[0].snapshots.restorer.not_restored == 1
    await rig.close()


async def test_an_unreadable_snapshot_is_left_out(rig: ShardRig) -> None:
    node = start(rig, 1)
    await fill(node, "ab", range(3))
    await node.take_over()
    await node.held[0].snapshots.write_all(0.0)
    await rig.log.append(NAMES.windows(0, 0), b"\x02\x01nonsense", rolls_up=True)
    second = start(rig)
    await second.take_over()
    assert set(second.windows()) == {"b"}


async def test_rows_with_points_stay_for_the_steps_that_may_change(tmp_path: Path) -> None:
    rig = ShardRig(tmp_path, rule_sets=[RULES])
    node = rig.start_node()
    await node.take_over()
    for step in range(12):
        rig.log.broker.now = BEGIN + STEP_SECONDS * (step + 1)
        batch = node.takers.points.start_batch("test")
        batch.add_point(SourceSeries("load", {"host": "web"}), BEGIN + STEP_SECONDS * step + 1.0, float(step))
        await node.takers.points.commit(batch)
        await node.read_rows()
        await node.held[0].snapshots.write_due(1e4 * step)
    left = rows(rig).state
    assert 5 <= left.messages <= 8, "two steps more than those that may change"
    await rig.close()


# ---------------------------------------------------------------- a new owner
async def test_a_former_owner_writes_no_snapshot_behind_the_marker_of_its_successor(rig: ShardRig) -> None:
    former, owner = start(rig), start(rig)
    await fill(former, "a", range(3))
    for node, fence in ((former, 5), (owner, 7)):
        await node.take_over()
        await node.held[0].snapshots.claim(fence)
    await fill(former, "a", range(3, 6))
    await former.read_rows()
    with pytest.raises(FencedError, match="fence 7"):
        await former.held[0].snapshots.write_all(0.0)
    await owner.read_rows()
    await owner.held[0].snapshots.write_all(0.0)
    assert rows(rig).state.messages == 0


async def test_an_owner_that_was_given_old_snapshots_begins_anew(rig: ShardRig) -> None:
    """As by a server of NATS that was stopped for a while: what it says of the rows comes from another one."""
    node, second = start(rig), start(rig)
    await fill(node, "a", range(3))
    await node.take_over()
    await node.held[0].snapshots.write_all(0.0)
    stream = rig.log.broker.get_stream(NAMES.windows_stream(0))
    old = stream.list_after(">", 0)
    await fill(node, "a", range(3, 6))
    await node.read_rows()
    await node.held[0].snapshots.write_all(0.0)
    read = second.log.read

    def read_old(stream: str, *given: Any, **options: Any) -> Any:
        async def give() -> AsyncIterator[list[LogMessage]]:
            yield old

        return give() if stream == NAMES.windows_stream(0) else read(stream, *given, **options)

    second.log.read = read_old  # type: ignore[method-assign]
    await second.take_over()
    second.log.read = read  # type: ignore[method-assign]
    assert second.windows() != node.windows()
    with pytest.raises(LogGapError, match="missed a snapshot of chunk 0"):
        await second.held[0].snapshots.claim(7)
    await second.take_over()
    await second.held[0].snapshots.claim(7)
    assert second.windows() == node.windows()


async def test_the_marker_of_an_owner_comes_behind_what_the_former_one_writes_meanwhile(rig: ShardRig) -> None:
    former, owner, third = start(rig), start(rig), start(rig)
    await fill(former, "a", range(3))
    await former.take_over()
    await owner.take_over()
    await fill(former, "a", range(3, 6))
    for node in (former, owner):
        await node.read_rows()
    await former.held[0].snapshots.write_all(0.0)
    await owner.held[0].snapshots.claim(7)
    await third.take_over()
    assert third.windows() == owner.windows() == former.windows()


async def test_rows_of_a_log_that_was_made_anew_are_not_taken_for_covered(
    rig: ShardRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamd.cluster.rows.window_snapshots.SHORT_TRIES", 1)
    node = start(rig)
    await fill(node, "a", range(5))
    await node.take_over()
    await node.held[0].snapshots.write_all(0.0)
    broker, stream = rig.log.broker, NAMES.rows_stream(0)
    broker.streams[stream] = MadeStream(broker.streams[stream].plan)
    await fill(node, "a", range(5, 7))
    second = start(rig)
    await second.take_over()
    assert len(second.windows()["a"][1]) == 7, "the rows of the snapshot, and the new ones"


async def test_a_snapshot_of_a_later_release_is_named_and_not_passed_over_or_replaced(rig: ShardRig) -> None:
    node = start(rig)
    await fill(node, "a", range(3))
    await node.take_over()
    await node.held[0].snapshots.write_all(0.0)
    later = await rig.log.append(NAMES.windows(0, 0), b"\x02\x02" + bytes(20), rolls_up=True)
    reason = f"test_windows_0, message {later.sequence}: a snapshot is of format 2, which a later release writes"
    await fill(node, "a", range(3, 5))
    await node.read_rows()
    with pytest.raises(LaterFormatError, match=reason):
        await node.held[0].snapshots.write_all(0.0)
    with pytest.raises(LaterFormatError, match=reason):
        await start(rig).take_over()
    assert later.sequence in windows(rig).messages
