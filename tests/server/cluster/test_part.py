"""Tests `streamd/server/cluster/part.py`: one node over a made log, with its routes, from joining to leaving."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from streamd.core.cluster.membership import HEARTBEAT_SECONDS
from streamd.core.errors import ConfigError
from streamd.server.cluster.part import ClusterPart
from streamd.server.config import ClusterSection
from tests.support.cluster_parts import make_cluster_part
from tests.support.http_harness import NEED, HttpDaemon, HttpDaemonSettings, make_rows, run_http_daemon
from tests.support.made_log import MemoryLog

SHARDS = 4
SECTION = ClusterSection(
    nats="nats://made:4222",
    node="a",
    shards=SHARDS,
    lease_seconds=2.5 * HEARTBEAT_SECONDS,
    publish_timeout_seconds=0.2,
)


class MadeNode:
    """A node with its daemon."""

    def __init__(self, part: ClusterPart, log: MemoryLog, daemon: HttpDaemon) -> None:
        self.part = part
        self.log = log
        self.daemon = daemon

    async def wait(self, is_so: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not is_so():
                await asyncio.sleep(0.01)

    async def wait_owning(self) -> None:
        await self.wait(lambda: bool(self.part.forecasts.gate.is_owning[:SHARDS].all()))

    async def read_metric(self, name: str) -> float:
        text = (await self.daemon.get("/metrics")).data.decode()
        (line,) = [line for line in text.splitlines() if line.startswith(f"streamd_cluster_{name} ")]
        return float(line.rpartition(" ")[2])


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[MadeNode]:
    log = MemoryLog()
    part = make_cluster_part(SECTION, log)
    async with AsyncExitStack() as stack:
        settings = HttpDaemonSettings(cluster=part)
        daemon = await stack.enter_async_context(run_http_daemon(tmp_path, settings))
        stack.push_async_callback(part.close)
        yield MadeNode(part, log, daemon)


async def test_a_node_that_is_alone_serves_its_fleet(node: MadeNode) -> None:
    reply = await node.daemon.get("/readyz")
    assert (reply.status, reply.body["status"]) == (503, "joining")
    early = await node.daemon.post("/v1/samples", {"samples": make_rows("web-1", 1, range(1))})
    assert (early.status, early.body["code"]) == (503, "unavailable")
    assert "joins its cluster" in early.body["message"]
    await node.part.join()
    await node.wait_owning()
    assert (await node.daemon.get("/readyz")).body == {"status": "ready"}
    await node.daemon.accept(make_rows("web-1", 1, range(NEED)))
    await node.wait(lambda: node.daemon.service.state.board.last_serial > 0)
    latest = await node.daemon.get("/v1/forecasts/web-1")
    assert latest.body["type"] == "forecast"
    status = (await node.daemon.status())["cluster"]
    assert (status["node"], status["phase"], status["unowned"], status["problems"]) == ("a", "serving", [], [])
    assert [shard["state"] for shard in status["here"]] == ["owning"] * SHARDS
    assert await node.read_metric("connected") == 1
    assert await node.read_metric("eligible") == 1
    assert await node.read_metric("shards_without_node") == 0


async def test_while_the_log_is_away_rows_wait_and_then_the_node_says_that_it_refuses(node: MadeNode) -> None:
    await node.part.join()
    await node.wait_owning()
    node.log.cut()
    refused = await node.daemon.post("/v1/samples", {"samples": make_rows("web-1", 1, range(NEED))})
    assert refused.status == 503
    assert int(refused.headers["Retry-After"]) >= 1
    reply = await node.daemon.get("/readyz")
    assert (reply.status, reply.body) == (503, {"status": "log_away"})
    assert await node.read_metric("connected") == 0
    assert await node.read_metric("waiting_bytes") > 0
    node.log.heal()
    await node.wait(lambda: "web-1" in node.daemon.service.state.directory.slots)
    assert await node.read_metric("waiting_bytes") == 0
    assert (await node.daemon.get("/readyz")).status == 200


async def test_a_node_that_starts_while_the_log_is_away_joins_later(node: MadeNode) -> None:
    node.log.cut()
    joining = asyncio.create_task(node.part.join())
    await asyncio.sleep(0)
    assert not joining.done()
    node.log.heal()
    await joining
    await node.wait_owning()


async def test_a_node_that_leaves_takes_nothing_and_frees_its_shards(node: MadeNode) -> None:
    await node.part.join()
    await node.wait_owning()
    await node.part.leave(10.0)
    assert node.part.node.list_held() == []
    refused = await node.daemon.post("/v1/samples", {"samples": make_rows("web-1", 1, range(1))})
    assert (refused.status, "is stopping" in refused.body["message"]) == (503, True)


async def test_leaving_ends_in_time_while_the_log_is_away(node: MadeNode) -> None:
    await node.part.join()
    await node.wait_owning()
    node.log.cut()
    await node.daemon.post("/v1/samples", {"samples": make_rows("web-1", 1, range(1))})
    began = time.monotonic()
    await node.part.leave(0.3)
    assert time.monotonic() - began < 5


async def test_a_full_disk_makes_the_node_give_up_its_shards(node: MadeNode) -> None:
    await node.part.join()
    await node.wait_owning()
    node.daemon.service.storage.problem = "no space"
    assert node.part.node.list_hindrances() == ("disk",)
    assert (await node.daemon.get("/readyz")).body["degraded"] == ["storage", "disk"]
    assert await node.read_metric("eligible") == 0


async def test_a_node_whose_shards_are_others_is_refused(node: MadeNode) -> None:
    await node.part.join()
    plans = {name: stream.plan for name, stream in node.log.broker.streams.items()}
    section = ClusterSection(
        nats="nats://made:4222", node="b", shards=SHARDS + 1, lease_seconds=0.5, shard_forecasts_mb=8
    )
    log = node.log.connect()
    other = make_cluster_part(section, log)
    other.make_links(node.daemon.service.state)
    other.open(node.daemon.service)
    with pytest.raises(ConfigError, match=r"\[cluster\] shards is 5, expected 4"):
        await other.join()
    await other.close()
    assert {name: stream.plan for name, stream in node.log.broker.streams.items()} == plans, "nothing was changed"


async def test_a_part_that_cannot_be_closed_keeps_no_other_one_open(node: MadeNode) -> None:
    await node.part.join()
    await node.wait_owning()

    async def fail() -> None:
        raise ZeroDivisionError("a defect")

    node.part._closers.push_async_callback(fail)
    with capture_logs() as logs:
        await node.part.close()
    assert [line["error"] for line in logs if line["event"] == "cluster_closed_with_error"] == [
        "ZeroDivisionError('a defect')"
    ]
    assert not node.log.is_connected
