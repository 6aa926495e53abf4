"""Tests `streamd/tools/cluster/actions.py`: the command reads and changes a cluster of nodes over a made log."""

import argparse
import asyncio
import json
from collections.abc import Awaitable, Callable

import msgspec
import pytest

from streamd.cli import main
from streamd.cluster.meta import META_KEY, check_meta, make_meta
from streamd.cluster.nodes.heartbeats import encode_heartbeat
from streamd.cluster.nodes.lease_entries import make_lease_key
from streamd.cluster.streams import BUCKETS
from streamd.core.cluster.lease_actions import Lease
from streamd.core.cluster.membership import Heartbeat, NodePhase
from streamd.core.cluster.shards import ClusterNames
from streamd.core.errors import ConfigError
from streamd.tools.cluster.actions import run_action
from streamd.tools.cluster.errors import ClusterCommandError
from tests.support.http_harness import CONTRACT
from tests.support.made_log import MemoryLog, make_memory_log
from tests.support.virtual_time import run_in_virtual_time

NAMES = ClusterNames("streamd")
SHARDS = 4


class MadeCluster:
    """Nodes that send heartbeats; `owners` are the nodes of the shards, which a test changes."""

    def __init__(self) -> None:
        self.log = make_memory_log(NAMES, 0)
        self.control = self.log.table(NAMES.bucket("control"))
        self.leases = self.log.table(NAMES.bucket("leases"))
        self.phases: dict[str, NodePhase] = {"a": NodePhase.SERVING, "b": NodePhase.SERVING}
        self._beats = 0

    async def begin(self) -> None:
        meta = make_meta(CONTRACT, shards=SHARDS, aggregation="last", late_tolerance_steps=1)
        await check_meta(self.control, "streamd", meta)
        await self.assign("aabb")

    async def assign(self, owners: str) -> None:
        for shard, node in enumerate(owners):
            await self.leases.put(make_lease_key(shard), msgspec.msgpack.encode(Lease(node, 1)))

    async def beat(self) -> None:
        while True:
            self._beats += 1
            for node, phase in self.phases.items():
                heartbeat = Heartbeat(
                    node=node, run=1, beat=self._beats, time=0.0, phase=phase, version="1", details={"servers": 2.0}
                )
                await self.log.publish(NAMES.node(node), encode_heartbeat(heartbeat))
            await asyncio.sleep(0.5)

    async def run(self, action: str, **options: object) -> int:
        given = {"json": False, "shards": False, "timeout": 20.0, "node": None, **options}
        return await run_action(self.log.connect(), NAMES, argparse.Namespace(action=action, **given))


def with_cluster(test: Callable[[MadeCluster], Awaitable[None]]) -> None:
    """Run a test in virtual time, while the nodes live."""

    async def run() -> None:
        cluster = MadeCluster()
        await cluster.begin()
        beating = asyncio.create_task(cluster.beat())
        try:
            await test(cluster)
        finally:
            beating.cancel()

    run_in_virtual_time(run())


# ---------------------------------------------------------------- status
def test_the_status_is_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    async def test(cluster: MadeCluster) -> None:
        assert await cluster.run("status", shards=True) == 0

    with_cluster(test)
    assert capsys.readouterr().out.splitlines()[:6] == [
        "NODE  PHASE    SHARDS  SERVERS  WAITING  LAG  PROBLEMS  RELEASE",
        "a     serving  2       2        -        -    -         1",
        "b     serving  2       2        -        -    -         1",
        "",
        "cluster streamd: 4 shards, all with a node",
        "",
    ]


def test_a_shard_without_a_node_is_shown_and_gives_the_status_3(capsys: pytest.CaptureFixture[str]) -> None:
    async def test(cluster: MadeCluster) -> None:
        del cluster.phases["b"]
        assert await cluster.run("status", json=True) == 3
        assert await cluster.run("status") == 3

    with_cluster(test)
    shown = capsys.readouterr().out
    assert "cluster streamd: 4 shards, 2 WITHOUT A NODE: 2, 3" in shown
    status = json.loads(shown[: shown.index("\nNODE")])
    assert status["unowned"] == [2, 3]
    assert [each["node"] for each in status["owners"]] == ["a", "a", "b", "b"]


def test_what_is_damaged_is_shown_or_named(capsys: pytest.CaptureFixture[str]) -> None:
    async def test(cluster: MadeCluster) -> None:
        await cluster.leases.put(make_lease_key(2), b"\xc1")
        assert await cluster.run("status") == 3
        await cluster.control.put(META_KEY, b"\xc1")
        with pytest.raises(ConfigError, match="table of control cannot be read"):
            await cluster.run("status")

    with_cluster(test)
    assert "cluster streamd: 4 shards, 1 WITHOUT A NODE: 2" in capsys.readouterr().out


def test_a_cluster_that_was_never_there_is_an_error() -> None:
    async def run(*, has_buckets: bool) -> None:
        log = MemoryLog()
        for table in BUCKETS if has_buckets else ():
            log.broker.make_bucket(NAMES.bucket(table))
        with pytest.raises(ClusterCommandError, match="NATS has no cluster 'streamd': no node of it has joined yet"):
            await run_action(log, NAMES, argparse.Namespace(action="status", json=True, shards=False))

    run_in_virtual_time(run(has_buckets=True))
    run_in_virtual_time(run(has_buckets=False))


def test_a_node_with_shards_whose_heartbeat_is_late_is_waited_for() -> None:
    async def test(cluster: MadeCluster) -> None:
        del cluster.phases["b"]
        asked = asyncio.create_task(cluster.run("status"))
        await asyncio.sleep(2.0)
        cluster.phases["b"] = NodePhase.SERVING
        assert await asked == 0

    with_cluster(test)


# ---------------------------------------------------------------- drain
def test_a_drain_waits_until_the_node_has_no_shards(capsys: pytest.CaptureFixture[str]) -> None:
    async def test(cluster: MadeCluster) -> None:
        drained = asyncio.create_task(cluster.run("drain", node="a"))
        await asyncio.sleep(5)
        assert "drain.a" in await cluster.control.read_all()
        assert not drained.done()
        await cluster.assign("bbbb")
        assert await drained == 0

    with_cluster(test)
    assert capsys.readouterr().err.splitlines()[-1] == (
        "a has no shards; it gets none until: streamd cluster undrain a"
    )


def test_a_drain_that_takes_too_long_says_so() -> None:
    async def test(cluster: MadeCluster) -> None:
        with pytest.raises(ClusterCommandError, match="a still has shards after 3 s; the nodes go on with it"):
            await cluster.run("drain", node="a", timeout=3.0)

    with_cluster(test)


def test_the_last_node_keeps_its_shards_and_the_command_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    async def test(cluster: MadeCluster) -> None:
        del cluster.phases["b"]
        assert await cluster.run("drain", node="a") == 0

    with_cluster(test)
    assert "a keeps its shards until there is another node" in capsys.readouterr().err


def test_a_node_that_is_not_there_is_named_with_those_that_are() -> None:
    async def test(cluster: MadeCluster) -> None:
        for action in ("drain", "undrain"):
            with pytest.raises(ClusterCommandError, match="no node 'x' is there, expected one of a, b"):
                await cluster.run(action, node="x")

    with_cluster(test)


def test_a_drained_node_that_is_away_can_be_undrained() -> None:
    async def test(cluster: MadeCluster) -> None:
        await cluster.control.put("drain.gone", b"{}")
        assert await cluster.run("undrain", node="gone") == 0
        assert "drain.gone" not in await cluster.control.read_all()
        with pytest.raises(ClusterCommandError, match="the node 'a' is not drained"):
            await cluster.run("undrain", node="a")

    with_cluster(test)


# ---------------------------------------------------------------- rebalance
def test_a_request_to_balance_waits_until_the_shards_are_balanced() -> None:
    async def test(cluster: MadeCluster) -> None:
        await cluster.assign("aaaa")
        balanced = asyncio.create_task(cluster.run("rebalance"))
        await asyncio.sleep(5)
        assert "rebalance" in await cluster.control.read_all()
        assert not balanced.done()
        await cluster.assign("aabb")
        assert await balanced == 0

    with_cluster(test)


# ---------------------------------------------------------------- the command
def test_without_a_cluster_the_usage_is_wrong(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("STREAMD_NATS", raising=False)
    assert main(["cluster", "status"]) == 2
    assert "streamd cluster status: no cluster is named" in capsys.readouterr().err
