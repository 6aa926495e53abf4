"""A daemon that is a node of a cluster, on a host of its own."""

import asyncio
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks.chaos.process import SmallDisk, make_environ, write_clock
from benchmarks.cluster.network import Host
from benchmarks.cluster.programs import Program

PORT = 8002
READY_SECONDS = 90.0
POLL_SECONDS = 0.05


class ClusterDaemon:
    """One node; `program` runs `module`, which has the command line of `streamd`."""

    def __init__(
        self,
        host: Host,
        folder: Path,
        settings: dict[str, str],
        module: str = "streamd",
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.host = host
        self.name = host.name
        self.settings = settings
        self.program = Program(host, folder / f"{host.name}.log")
        self.state_dir = folder / f"{host.name}-state"
        self.has_false_clock = False
        """Whether its next start has a wall clock that `set_clock` changes."""
        self.disk: SmallDisk | None = None
        self._module = module
        self._environ = environ or {}
        self._session: aiohttp.ClientSession | None = None
        self._clock = folder / f"{host.name}.clock"
        self._clock.write_text("+0\n", encoding="ascii")

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://{self.host.front}:{PORT}"

    def start(self) -> None:
        """Start it; returns at once."""
        environ = make_environ(self.settings, self._clock if self.has_false_clock else None) | dict(self._environ)
        command = [sys.executable, "-m", self._module, "serve", "--host", self.host.front, "--port", str(PORT)]
        folder = self.state_dir if self.disk is None else self.disk.folder / "state"
        self.program.start([*command, "--state-dir", str(folder), "--node", self.name], environ)

    async def start_and_wait(self) -> None:
        """Start it and wait until it is ready; raises `TimeoutError`, or `RuntimeError` if it ends before."""
        self.start()
        await self.wait_ready()

    async def wait_ready(self) -> None:
        """Wait until it is ready; raises `TimeoutError`, or `RuntimeError` if it ends before."""
        async with asyncio.timeout(READY_SECONDS):
            while (await self.read("/readyz"))[0] != 200:
                if self.program.pid is None:
                    raise RuntimeError(f"{self.name} ended before it was ready: {self.program.read_last_line()}")
                await asyncio.sleep(POLL_SECONDS)

    async def read(self, path: str, seconds: float = 5.0) -> tuple[int, dict[str, Any]]:
        """Return the status and the JSON of a call; 0 and nothing if it is not reached."""
        if self._session is None:
            self._session = aiohttp.ClientSession()
        try:
            async with self._session.get(self.url + path, timeout=aiohttp.ClientTimeout(total=seconds)) as response:
                return response.status, await response.json()
        except (aiohttp.ClientError, OSError, TimeoutError):
            return 0, {}

    async def close(self) -> None:
        """Kill it, and close the connections to it."""
        self.program.kill()
        if self._session is not None:
            await self._session.close()

    def set_clock(self, setting: str) -> None:
        """Let its wall clock be wrong, as `write_clock` says."""
        write_clock(self._clock, setting)
