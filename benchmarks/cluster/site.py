"""A whole cluster on one machine: a network, servers of NATS, nodes, and a watch on the leases."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from benchmarks.chaos.process import SmallDisk
from benchmarks.cluster.nats_cluster import NatsCluster
from benchmarks.cluster.network import LoopbackNetwork, Network, open_network
from benchmarks.cluster.nodes import ClusterDaemon
from streamd.cluster.log import Entry
from streamd.cluster.nats.log import NatsLog
from streamd.cluster.nats.settings import NatsSettings
from streamd.core.cluster.lease_actions import Lease
from streamd.core.cluster.shards import ClusterNames

T = TypeVar("T")

OWNED_SECONDS = 120.0
POLL_SECONDS = 0.1


class LeaseWatch:
    """Which node has which shard, as the table of leases says."""

    def __init__(self) -> None:
        self.owners: dict[int, str] = {}
        self.fences: dict[int, int] = {}

    def see(self, key: str, entry: Entry | None) -> None:
        """Take a change of the table."""
        if entry is None or not key.startswith("shard."):
            return
        shard = int(key.removeprefix("shard."))
        self.owners[shard] = msgspec.msgpack.decode(entry.value, type=Lease).node
        self.fences[shard] = entry.revision

    def list_shards(self, node: str) -> list[int]:
        """Return the shards of a node."""
        return sorted(shard for shard, owner in self.owners.items() if owner == node)


class Site:
    """The parts of a cluster; `nodes` are started by the caller."""

    def __init__(
        self,
        folder: Path,
        *,
        nodes: int,
        nats: int,
        shards: int,
        settings: dict[str, str],
        module: str = "streamd",
        environ: Mapping[str, str] | None = None,
        on_loopback: bool = False,
    ) -> None:
        self.network: Network = LoopbackNetwork() if on_loopback else open_network()
        self.shards = shards
        self.names = ClusterNames("streamd")
        self.nats = NatsCluster([self.network.add_host(f"nats-{number}") for number in range(1, nats + 1)], folder)
        settings = {
            "NATS": self.nats.urls,
            "SHARDS": str(shards),
            "REPLICAS": str(min(nats, 3)),
            "INSECURE": "true",  # the addresses are those of this machine's own bridges
            **settings,
        }
        names = [f"node-{number}" for number in range(1, nodes + 1)]
        self.nodes = [
            ClusterDaemon(self.network.add_host(name), folder, dict(settings), module, environ) for name in names
        ]
        self.disks: list[SmallDisk] = []
        self.log = NatsLog(NatsSettings(urls=tuple(self.nats.urls.split(",")), name="observer"), replicas=min(nats, 3))
        self.leases = LeaseWatch()

    def find_node(self, name: str) -> ClusterDaemon:
        """Return a node by its name."""
        return next(node for node in self.nodes if node.name == name)

    def cut(self, node: ClusterDaemon, *, from_nats_only: bool = False) -> None:
        """Cut a node off from all, or from NATS alone; where the network cannot, stop its process instead."""
        if self.network.can_cut:
            self.network.cut(node.host, from_nats_only=from_nats_only)
        else:
            node.program.pause()

    def join(self, node: ClusterDaemon) -> None:
        """Undo a `cut`."""
        if self.network.can_cut:
            self.network.join(node.host)
        else:
            node.program.resume()

    async def start_nats(self) -> None:
        """Start the servers of NATS, and connect to them."""
        await self.nats.start()
        await self.log.start()

    async def start_nodes(self) -> None:
        """Start all nodes at once, and wait until each shard has one."""
        for node in self.nodes:
            node.start()
        await asyncio.gather(*(node.wait_ready() for node in self.nodes))
        await self.log.table(self.names.bucket("leases")).watch(self.leases.see)
        await self.wait_owned()

    async def wait_owned(self, names: set[str] | None = None) -> float:
        """Wait until each shard has a node (of these names), and each of these nodes has its share.

        Returns the seconds. Raises `TimeoutError` after `OWNED_SECONDS`.
        """
        began = time.monotonic()
        names = names or {node.name for node in self.nodes if node.program.pid is not None}
        least = self.shards // len(names)
        try:
            async with asyncio.timeout(OWNED_SECONDS):
                while len(self.leases.owners) < self.shards or not (
                    set(self.leases.owners.values()) == names
                    and all(len(self.leases.list_shards(name)) >= least for name in names)
                ):
                    await asyncio.sleep(POLL_SECONDS)
        except TimeoutError as exc:
            counts = {name: len(self.leases.list_shards(name)) for name in {*names, *self.leases.owners.values()}}
            raise TimeoutError(f"the shards are not balanced after {OWNED_SECONDS:g} s: {counts}") from exc
        return time.monotonic() - began

    async def close(self) -> None:
        """End every process, and remove the network."""
        await self.log.close()
        for node in self.nodes:
            await node.close()
        self.nats.kill()
        for disk in self.disks:
            disk.unmount()
        self.network.close()


@asynccontextmanager
async def running_site(site: Site) -> AsyncIterator[Site]:
    """Start a site, and close it at the end whatever happens."""
    try:
        await site.start_nats()
        await site.start_nodes()
        yield site
    finally:
        await site.close()


async def stop_by_signal(work: Coroutine[Any, Any, T]) -> T:
    """Return what a coroutine returns; an interrupt or SIGTERM cancels it, and it then closes what it opened."""
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    return await work
