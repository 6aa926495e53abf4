"""Servers of NATS with JetStream, one a host."""

import asyncio
import contextlib
import shutil
from pathlib import Path

import aiohttp

from benchmarks.cluster.network import Host
from benchmarks.cluster.programs import Program

CLIENT_PORT, ROUTE_PORT, HTTP_PORT = 4222, 6222, 8222
READY_SECONDS = 60.0
POLL_SECONDS = 0.1
MAX_FILE = "24G"
"""More than what is reserved for 32 shards, and their windows."""


class NatsCluster:
    """The servers, by the name of their host."""

    def __init__(self, hosts: list[Host], folder: Path) -> None:
        if shutil.which("nats-server") is None:
            raise FileNotFoundError("nats-server is not installed; Debian has it as the package nats-server")
        self.hosts = {host.name: host for host in hosts}
        self.programs = {host.name: Program(host, folder / f"{host.name}.log") for host in hosts}
        self._folder = folder

    @property
    def urls(self) -> str:
        """The URLs of all servers, separated by commas."""
        return ",".join(f"nats://{host.back}:{CLIENT_PORT}" for host in self.hosts.values())

    async def start(self, *names: str) -> None:
        """Start servers, all without any; wait until they have a leader. Raises `TimeoutError`."""
        for name in names or tuple(self.hosts):
            path = self._folder / f"{name}.conf"
            path.write_text(self._write_settings(self.hosts[name]), encoding="utf-8")
            self.programs[name].start(("nats-server", "-c", str(path)))
        async with asyncio.timeout(READY_SECONDS):
            while await self.find_leader() is None:
                await asyncio.sleep(POLL_SECONDS)

    def kill(self, *names: str) -> None:
        """Kill servers, all without any."""
        for name in names or tuple(self.hosts):
            self.programs[name].kill()

    async def find_leader(self) -> str | None:
        """Return the server that leads, by what the others say; `None` if there is none."""
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2.0)) as session:
            for name, host in self.hosts.items():
                if self.programs[name].pid is None:
                    continue
                with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError):
                    async with session.get(f"http://{host.back}:{HTTP_PORT}/jsz") as response:
                        found = await response.json()
                    if len(self.hosts) == 1:
                        return name
                    leader = found.get("meta_cluster", {}).get("leader")
                    if leader:
                        return str(leader)
        return None

    def _write_settings(self, host: Host) -> str:
        text = (
            f"server_name: {host.name}\nlisten: {host.back}:{CLIENT_PORT}\nhttp: {host.back}:{HTTP_PORT}\n"
            f'jetstream {{ store_dir: "{self._folder}/{host.name}", max_mem: 256M, max_file: {MAX_FILE} }}\n'
        )
        if len(self.hosts) > 1:
            routes = ", ".join(f"nats://{each.back}:{ROUTE_PORT}" for each in self.hosts.values())
            text += f"cluster {{ name: streamd, listen: {host.back}:{ROUTE_PORT}, routes: [{routes}] }}\n"
        return text
