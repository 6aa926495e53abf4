"""Daemons that are nodes of one cluster over a real server of NATS, each a process of its own."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.support.daemon_process import DaemonProcess
from tests.support.nats_servers import NatsServers

PATIENCE_SECONDS = 30.0

QUICK_NODE = {"STREAMD_REPLICAS": "1", "STREAMD_LEASE_SECONDS": "1.5", "STREAMD_REBALANCE_DELAY_SECONDS": "1"}
"""The settings of a node whose shards move at once."""


class NodeProcesses:
    """Nodes by name, each with a state folder of its name; `settings` are those of all."""

    def __init__(
        self, folder: Path, nats: NatsServers, shards: int, settings: Mapping[str, str], *arguments: str
    ) -> None:
        self.folder = folder
        self.nats = nats
        self.shards = shards
        self.nodes: dict[str, DaemonProcess] = {}
        self._settings = settings
        self._arguments = arguments

    def make_settings(self, name: str) -> dict[str, str]:
        return {
            **QUICK_NODE,
            **self._settings,
            "STREAMD_NATS": ",".join(self.nats.urls),
            "STREAMD_SHARDS": str(self.shards),
            "STREAMD_NODE": name,
        }

    def start(self, *names: str, **more: Mapping[str, str]) -> None:
        """Start nodes and wait until they are ready; `more` has settings of some of them, by name."""
        for name in names:
            settings = {**self.make_settings(name), **more.get(name, {})}
            self.nodes[name] = DaemonProcess.begin(self.folder / name, *self._arguments, env=settings)
        for name in names:
            node = self.nodes[name]
            node.port = node.wait_for("listening")["port"]
            node.wait_for("ready")

    def drop(self, name: str) -> DaemonProcess:
        """Return a node that ends, or has ended; it counts as a node no more."""
        return self.nodes.pop(name)

    def read_cluster(self, name: str) -> dict[str, Any]:
        """Return the entry `cluster` of a node's status."""
        status, body = self.nodes[name].get("/v1/status")
        assert status == 200, body
        cluster = body["cluster"]
        assert isinstance(cluster, dict)
        return cluster

    def count_owned(self) -> dict[str, int]:
        """Return how many shards each node owns, as it says itself."""
        return {
            name: sum(shard["state"] == "owning" for shard in self.read_cluster(name)["here"])
            for name in sorted(self.nodes)
        }

    def await_shared(self, *names: str) -> None:
        """Start those of some nodes that do not run, and wait until these, and no others, own equal shares."""
        self.start(*(name for name in names if name not in self.nodes))
        share = self.shards // len(names)
        wait_until(lambda: self.count_owned() == dict.fromkeys(sorted(names), share), f"{names} own {share} each")

    def end(self) -> None:
        for node in self.nodes.values():
            node.end()


def wait_until(is_so: Callable[[], bool], what: str, seconds: float = PATIENCE_SECONDS) -> None:
    """Ask until it is so; processes need real time."""
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, f"never came: {what}"
        time.sleep(0.05)
