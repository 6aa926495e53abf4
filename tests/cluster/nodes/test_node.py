"""Tests `streamd/cluster/nodes/node.py`: nodes over a made log, in virtual time, with shards that only note what
happens.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import pytest

from streamd.cluster.log import LogAwayError
from streamd.cluster.nodes.node import ClusterNode
from streamd.cluster.nodes.node_settings import NodeCondition, NodeSettings
from streamd.core.cluster.formats import LaterFormatError
from streamd.core.cluster.lease_actions import Action
from streamd.core.cluster.shards import ClusterNames
from streamd.core.errors import ConfigError, UnavailableError
from tests.support.made_log import MemoryLog, make_memory_log
from tests.support.virtual_time import run_in_virtual_time

SHARDS = 8
NAMES = ClusterNames("streamd")


class NotedShard:
    """A shard that has nothing to load; `owners` has, for each shard, the nodes that own it at this moment."""

    def __init__(self, shard: int, node: str, owners: dict[int, list[str]]) -> None:
        self.is_closed = False
        self.fence = 0
        self.failures: list[Exception] = []
        self._shard, self._node, self._owners = shard, node, owners
        self._lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def lose_track(self) -> None:
        self._lost.set_exception(UnavailableError("rows were removed unread"))

    async def follow(self) -> None:
        await self._lost

    async def wait_caught_up(self) -> None:
        await asyncio.sleep(0.5)

    async def own(self, fence: int) -> None:
        await self.wait_caught_up()
        if self.failures:
            raise self.failures.pop()
        self.fence = fence
        self._owners.setdefault(self._shard, []).append(self._node)

    async def leave(self) -> None:
        await asyncio.sleep(0.1)
        self._end()

    async def close(self) -> None:
        self.is_closed = True
        self._end()

    def _end(self) -> None:
        if self._node in self._owners.get(self._shard, ()):
            self._owners[self._shard].remove(self._node)

    def describe(self) -> dict[str, int]:
        return {"fence": self.fence}


class MadeNodes:
    """Nodes that are started and stopped by a test."""

    def __init__(self) -> None:
        self.log = make_memory_log(NAMES, 0)
        self.loop = asyncio.get_running_loop()
        self.log.broker.monotonic = self.loop.time
        self.owners: dict[int, list[str]] = {}
        self.nodes: dict[str, ClusterNode] = {}
        self.logs: dict[str, MemoryLog] = {}
        self.ready: dict[str, bool] = {}
        self.hindrances: dict[str, tuple[str, ...]] = {}
        self.clock_offsets: dict[str, float] = {}
        self.made: list[NotedShard] = []
        self.failures: list[Exception] = []
        self.unable: dict[str, Exception] = {}
        """Nodes that can own no shard 0, with the reason."""

    async def start(self, *names: str) -> None:
        for name in names:
            self.logs[name] = self.log.connect()
            node = ClusterNode(
                NodeSettings(node=name, shards=SHARDS, version="1"),
                self.logs[name],
                NAMES,
                lambda shard, name=name: self._make_shard(shard, name),  # type: ignore[misc]
                lambda name=name: self._describe(name),  # type: ignore[misc]
                wall=lambda name=name: 1.7e9 + self.loop.time() + self.clock_offsets.get(name, 0.0),  # type: ignore[misc]
                clock=self.loop.time,
            )
            await node.find_others()
            await node.start()
            self.nodes[name] = node

    def _make_shard(self, shard: int, name: str) -> NotedShard:
        made = NotedShard(shard, name, self.owners)
        made.failures, self.failures = self.failures, []
        if shard == 0 and name in self.unable:
            made.failures = [self.unable[name]]
        self.made.append(made)
        return made

    def _describe(self, name: str) -> NodeCondition:
        hindrances = self.hindrances.get(name, ())
        return NodeCondition(is_ready=self.ready.get(name, True), hindrances=hindrances, details={})

    async def kill(self, name: str) -> None:
        """End a node as kill -9 does: nobody hears of it."""
        self.logs[name].kill()
        await self.nodes.pop(name).close()

    async def close(self) -> None:
        for node in self.nodes.values():
            await node.close()
        await self.log.close()

    def count_shards(self) -> dict[str, int]:
        """Return how many shards each node owns; none is owned twice or not at all."""
        assert sorted(self.owners) == list(range(SHARDS))
        assert all(len(owners) == 1 for owners in self.owners.values()), self.owners
        counts = dict.fromkeys(self.nodes, 0)
        for (owner,) in self.owners.values():
            counts[owner] += 1
        return counts


def with_nodes(test: Callable[[MadeNodes], Awaitable[None]]) -> None:
    """Run a test in virtual time."""

    async def run() -> None:
        nodes = MadeNodes()
        try:
            await test(nodes)
        finally:
            await nodes.close()

    run_in_virtual_time(run())


def find_owned_by(nodes: MadeNodes, name: str) -> Sequence[int]:
    return sorted(shard for shard, owners in nodes.owners.items() if owners == [name])


# ---------------------------------------------------------------- coming and going
def test_a_node_that_is_alone_takes_all_shards() -> None:
    async def test(nodes: MadeNodes) -> None:
        await nodes.start("a")
        await asyncio.sleep(3)
        assert nodes.count_shards() == {"a": SHARDS}
        assert nodes.nodes["a"].list_held() == list(range(SHARDS))

    with_nodes(test)


def test_a_node_that_joins_gets_its_share_after_the_delay_and_no_shard_is_without_an_owner_for_long() -> None:
    async def test(nodes: MadeNodes) -> None:
        await nodes.start("a")
        await asyncio.sleep(3)
        await nodes.start("b")
        await asyncio.sleep(20)
        assert nodes.count_shards() == {"a": SHARDS, "b": 0}
        await asyncio.sleep(30)
        assert nodes.count_shards() == {"a": 4, "b": 4}
        assert [nodes.nodes["a"].find_owner(shard) for shard in range(SHARDS)].count("b") == 4

    with_nodes(test)


def test_a_request_to_balance_needs_no_delay() -> None:
    async def test(nodes: MadeNodes) -> None:
        await nodes.start("a")
        await asyncio.sleep(3)
        await nodes.start("b")
        await nodes.log.table(NAMES.bucket("control")).put("rebalance", b"")
        await asyncio.sleep(8)
        assert nodes.count_shards() == {"a": 4, "b": 4}

    with_nodes(test)


def test_the_shards_of_a_node_that_dies_are_owned_within_lease_time_and_loading() -> None:
    async def test(nodes: MadeNodes) -> None:
        await nodes.start("a", "b", "c")
        await asyncio.sleep(60)
        before = nodes.count_shards()
        assert sorted(before.values()) == [2, 3, 3]
        died = find_owned_by(nodes, "b")
        kept = find_owned_by(nodes, "a")
        await nodes.kill("b")
        await asyncio.sleep(2.5 + 0.5 + 1.0)  # the lease, the loading, a heartbeat and some ticks
        assert sorted(nodes.count_shards().values()) == [4, 4]
        assert all(nodes.owners[shard] == ["a"] for shard in kept), "a shard moved that did not have to"
        assert died

    with_nodes(test)


def test_a_node_that_leaves_hands_over_what_it_has_and_the_others_have_prepared_it() -> None:
    async def test(nodes: MadeNodes) -> None:
        await nodes.start("a", "b")
        await asyncio.sleep(60)
        began = nodes.loop.time()
        await nodes.nodes["a"].leave()
        assert nodes.loop.time() - began < 10
        await asyncio.sleep(1)
        assert find_owned_by(nodes, "b") == list(range(SHARDS))
        await nodes.nodes.pop("a").close()
        assert nodes.count_shards() == {"b": SHARDS}

    with_nodes(test)


def test_the_last_node_that_leaves_frees_its_shards() -> None:
    async def test(nodes: MadeNodes) -> None:
        await nodes.start("a")
        await asyncio.sleep(3)
        await nodes.nodes["a"].leave()
        assert nodes.nodes["a"].list_held() == []
        assert all(not nodes.nodes["a"].find_holder(shard).node for shard in range(SHARDS))

    with_nodes(test)


def test_a_node_that_starts_again_under_its_name_has_its_shards_back_without_waiting_for_the_lease() -> None:
    async def test(nodes: MadeNodes) -> None:
        await nodes.start("a")
        await asyncio.sleep(3)
        fences = [nodes.nodes["a"].find_fence(shard) for shard in range(SHARDS)]
        await nodes.kill("a")
        await nodes.start("a")
        await asyncio.sleep(2)
        assert nodes.count_shards() == {"a": SHARDS}
        assert all(nodes.nodes["a"].find_fence(shard) > fence for shard, fence in enumerate(fences))

    with_nodes(test)


def test_a_tick_that_fails_does_not_end_the_later_ones() -> None:
    async def test(nodes: MadeNodes) -> None:
        await nodes.start("a")
        book, failures = nodes.nodes["a"]._book, [ZeroDivisionError("a defect")]
        assert book is not None
        tick = book.tick

        def fail_once(now: float) -> list[Action]:
            if failures:
                raise failures.pop()
            return tick(now)

        book.tick = fail_once  # type: ignore[method-assign]
        await asyncio.sleep(5)
        assert nodes.count_shards() == {"a": SHARDS}

    with_nodes(test)


# ---------------------------------------------------------------- names
def test_a_second_node_of_a_name_is_refused() -> None:
    async def test(nodes: MadeNodes) -> None:
        await nodes.start("a")
        with pytest.raises(ConfigError, match=r"\[cluster\] node: another node of the cluster 'streamd' is named 'a'"):
            await nodes.start("a")
        await asyncio.sleep(3)
        assert nodes.count_shards() == {"a": SHARDS}

    with_nodes(test)


def test_a_node_that_was_replaced_stops_its_shards_and_says_so() -> None:
    async def test(nodes: MadeNodes) -> None:
        await nodes.start("a")
        former, ended = nodes.nodes["a"], []
        former.on_replaced = lambda: ended.append(True)
        await asyncio.sleep(3)
        nodes.logs["a"].cut()  # a partition, behind which it goes on
        await nodes.start("a")
        await asyncio.sleep(3)
        heal = nodes.log.broker.connections
        for connection in list(heal):
            if isinstance(connection, MemoryLog):
                connection.heal()
        await asyncio.sleep(3)
        assert ended == [True]
        assert former.list_held() == []
        assert nodes.count_shards() == {"a": SHARDS}
        await former.close()

    with_nodes(test)


# ---------------------------------------------------------------- who may own
def test_a_node_that_is_drained_hands_over_and_gets_shards_again_once_it_is_not() -> None:
    async def test(nodes: MadeNodes) -> None:
        await nodes.start("a", "b")
        await asyncio.sleep(60)
        control = nodes.log.table(NAMES.bucket("control"))
        await control.put("drain.a", b"{}")
        await asyncio.sleep(10)
        assert nodes.count_shards() == {"a": 0, "b": SHARDS}
        await control.delete("drain.a")
        await asyncio.sleep(50)
        assert nodes.count_shards() == {"a": 4, "b": 4}

    with_nodes(test)


def test_a_node_whose_disk_is_full_hands_over() -> None:
    async def test(nodes: MadeNodes) -> None:
        await nodes.start("a", "b")
        await asyncio.sleep(60)
        nodes.hindrances["a"] = ("disk",)
        await asyncio.sleep(10)
        assert nodes.count_shards() == {"a": 0, "b": SHARDS}
        assert nodes.nodes["a"].list_hindrances() == ("disk",)

    with_nodes(test)


def test_a_node_that_is_not_ready_joins_and_takes_nothing() -> None:
    async def test(nodes: MadeNodes) -> None:
        nodes.ready["b"] = False
        await nodes.start("a", "b")
        await asyncio.sleep(60)
        assert nodes.count_shards() == {"a": SHARDS, "b": 0}
        nodes.ready["b"] = True
        await asyncio.sleep(60)
        assert nodes.count_shards() == {"a": 4, "b": 4}

    with_nodes(test)


def test_a_node_that_cannot_read_what_a_later_release_wrote_leaves_it_to_others_and_says_so() -> None:
    async def test(nodes: MadeNodes) -> None:
        nodes.unable["a"] = LaterFormatError("the chain is of format 2, which a later release writes")
        await nodes.start("a")
        await asyncio.sleep(10)
        assert nodes.nodes["a"].list_hindrances() == ("format",)
        assert len(find_owned_by(nodes, "a")) == SHARDS - 1, "there is no other node"
        await nodes.start("b")
        await asyncio.sleep(30)
        assert nodes.count_shards() == {"a": 0, "b": SHARDS}

    with_nodes(test)


def test_leases_that_were_deleted_or_cannot_be_read_are_taken_anew() -> None:
    async def test(nodes: MadeNodes) -> None:
        await nodes.start("a", "b")
        await asyncio.sleep(60)
        leases = nodes.log.table(NAMES.bucket("leases"))
        await leases.put("shard.0", b"\xc1")
        await leases.delete("shard.1")
        await asyncio.sleep(10)
        assert sum(nodes.count_shards().values()) == SHARDS
        owners = {shard: found for shard, found in nodes.owners.items() if len(found) == 1}
        assert len(owners) == SHARDS

    with_nodes(test)


def test_of_three_nodes_one_whose_clock_is_ahead_hands_over_and_knows_the_right_time() -> None:
    async def test(nodes: MadeNodes) -> None:
        await nodes.start("a", "b", "c")
        await asyncio.sleep(60)
        nodes.clock_offsets["c"] = 3_600.0
        await asyncio.sleep(25)
        assert nodes.nodes["c"].list_hindrances() == ("clock",)
        assert nodes.nodes["a"].list_hindrances() == ()
        assert nodes.count_shards() == {"a": 4, "b": 4, "c": 0}
        right = 1.7e9 + nodes.loop.time()
        assert all(abs(node.read_cluster_time() - right) < 1 for node in nodes.nodes.values())

    with_nodes(test)


# ---------------------------------------------------------------- faults
def test_a_node_that_is_cut_off_comes_back_and_nothing_is_owned_twice() -> None:
    async def test(nodes: MadeNodes) -> None:
        await nodes.start("a", "b")
        await asyncio.sleep(60)
        nodes.logs["b"].cut()
        await asyncio.sleep(10)
        nodes.logs["b"].heal()
        await asyncio.sleep(5)
        assert nodes.count_shards() == {"a": SHARDS, "b": 0}
        await asyncio.sleep(50)
        assert nodes.count_shards() == {"a": 4, "b": 4}

    with_nodes(test)


def test_while_the_log_is_away_all_keep_what_they_have() -> None:
    async def test(nodes: MadeNodes) -> None:
        await nodes.start("a", "b")
        await asyncio.sleep(60)
        before = nodes.count_shards()
        nodes.log.broker.set_away(True)
        await asyncio.sleep(60)
        assert nodes.count_shards() == before
        assert not nodes.nodes["a"].is_joined
        nodes.log.broker.set_away(False)
        await asyncio.sleep(5)
        assert nodes.count_shards() == before
        assert nodes.nodes["a"].is_joined

    with_nodes(test)


def test_the_marker_of_an_owner_is_appended_again_after_the_log_was_away() -> None:
    async def test(nodes: MadeNodes) -> None:
        nodes.failures = [LogAwayError("no leader") for _ in range(3)]
        await nodes.start("a")
        await asyncio.sleep(6)
        assert nodes.count_shards() == {"a": SHARDS}

    with_nodes(test)


def test_a_shard_that_cannot_be_owned_here_is_released_to_another_node() -> None:
    async def test(nodes: MadeNodes) -> None:
        await nodes.start("a")
        nodes.unable["a"] = UnavailableError("it has no capacity")
        await asyncio.sleep(3)
        await nodes.start("b")
        await asyncio.sleep(8)
        assert nodes.count_shards() == {"a": SHARDS - 1, "b": 1}

    with_nodes(test)


def test_a_shard_that_loses_track_of_its_log_is_made_anew() -> None:
    async def test(nodes: MadeNodes) -> None:
        await nodes.start("a", "b")
        await asyncio.sleep(60)
        lost = next(each for each in nodes.made if not each.is_closed)
        lost.lose_track()
        await asyncio.sleep(60)
        assert lost.is_closed
        assert nodes.count_shards() == {"a": 4, "b": 4}

    with_nodes(test)
