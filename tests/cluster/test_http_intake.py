"""Tests `streamd/cluster/rows/cluster_ingest.py` behind HTTP: agents send to a node of a cluster as to one host."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from streamd.cluster.rows.cluster_ingest import ClusterTakers, make_takers
from streamd.cluster.rows.row_publisher import RowPublisher
from streamd.rule_sets import load_rule_set
from streamd.runtime.service import Service
from tests.support.http_harness import HttpDaemon, HttpDaemonSettings, at, make_rows, make_sample, run_http_daemon
from tests.support.made_log import MemoryLog, make_memory_log
from tests.support.shard_rig import NAMES

LINE = b"mem,host=web used_percent=1 %d" % (at(0) * 10**9)


class HttpNode:
    """A daemon whose samples go to a made log."""

    def __init__(self, buffer_bytes: int) -> None:
        self.log: MemoryLog = make_memory_log(NAMES, 2)
        self.daemon: HttpDaemon
        self._buffer_bytes = buffer_bytes
        self.publisher: RowPublisher

    def make_takers(self, service: Service) -> ClusterTakers:
        self.publisher = RowPublisher(
            self.log, NAMES, run="run", buffer_bytes=self._buffer_bytes, publish_timeout_seconds=0.05
        )
        return make_takers(service, self.publisher, 2)

    @property
    def messages(self) -> int:
        return sum(self.log.broker.get_stream(NAMES.rows_stream(shard)).state.messages for shard in (0, 1))


@asynccontextmanager
async def run_node(folder: Path, buffer_bytes: int = 2**20) -> AsyncIterator[HttpNode]:
    node = HttpNode(buffer_bytes)
    async with AsyncExitStack() as stack:
        setup = HttpDaemonSettings(make_takers=node.make_takers, rule_sets=[load_rule_set("telegraf")])
        node.daemon = await stack.enter_async_context(run_http_daemon(folder, setup))
        yield node
        await node.publisher.close()


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[HttpNode]:
    async with run_node(tmp_path) as node:
        yield node


async def test_bodies_and_frames_are_answered_as_on_one_host(node: HttpNode) -> None:
    reply = await node.daemon.post("/v1/samples", {"samples": [make_sample("web", 0), make_sample("", 0)]})
    assert (reply.status, reply.body["accepted"], reply.body["errors"][0]["code"]) == (200, 1, "invalid_server")
    async with node.daemon.socket("/v1/ingest") as socket:
        for number in range(3):
            await socket.send({"samples": [make_sample("web", number)], "id": number})
        acks = [await socket.receive() for _ in range(3)]
        assert [(ack["type"], ack["id"], ack["accepted"]) for ack in acks] == [("ack", n, 1) for n in range(3)]
        ack = await socket.ask({"samples": make_rows("db", 1, range(30)), "id": "many"})
        assert (ack["accepted"], ack["rejected"]) == (30, 0)
    assert node.messages >= 3
    assert (await node.daemon.status())["servers"] == 0, "the owner has the windows"


async def test_senders_get_503_and_when_to_come_back_while_the_log_is_away(tmp_path: Path) -> None:
    async with run_node(tmp_path, buffer_bytes=200) as node:
        node.log.broker.set_away(True)
        late = await node.daemon.post("/v1/samples", {"samples": make_rows("web", 1, range(9))})
        assert (late.status, late.code, late.headers["Retry-After"]) == (503, "unavailable", "1")
        full = await node.daemon.post("/v1/samples", {"samples": [make_sample("web", 0)]})
        assert (full.status, full.headers["Retry-After"]) == (503, "1")
        assert "buffer_mb" in full.body["message"]
        points = await node.daemon.post_bytes("/api/v2/write", LINE)
        assert (points.status, points.headers["Retry-After"]) == (503, "1")
        async with node.daemon.socket("/v1/ingest") as socket:
            refusal = await socket.ask({"samples": [make_sample("web", 0)]})
            assert (refusal["type"], refusal["code"]) == ("error", "unavailable")
        node.log.broker.set_away(False)
        await asyncio.wait_for(node.publisher.wait_empty(), 10.0)
        again = await node.daemon.post("/v1/samples", {"samples": [make_sample("web", 0)]})
        assert (again.status, node.messages) == (200, 2)


async def test_points_of_other_protocols_go_to_the_log(node: HttpNode) -> None:
    reply = await node.daemon.post_bytes("/api/v2/write", LINE)
    assert (reply.status, node.messages) == (204, 1)
