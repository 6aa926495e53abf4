"""Runs the daemon of a scene: its settings, its start, its end by SIGKILL, and its counts."""

import asyncio
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from streamd.tools.loadtest.child import HOST
from streamd.tools.loadtest.daemon import DaemonClient
from streamd.tools.loadtest.errors import UnreachableError
from streamd.tools.scene.metrics import fetch_json
from streamd.tools.scene.processes import SceneError, SceneProcess
from streamd.tools.scene.rows import SceneRow, read_rows

READY_SECONDS = 60.0
START_POLL_SECONDS = 0.1

SETTINGS = """\
[server]
host = "{host}"
port = {port}
[state]
state_dir = "{folder}/state"
max_servers = 64
[windows]
min_context_rows = {min_rows}
[engine]
engines = "{engines}"
backend = "onnxruntime-cpu"
lanes = 1
buckets = [1, 8]
warmup_seconds = 0.2
[mapping.glances]
server = ["server", "hostname"]
[log]
log_format = "console"
"""


class SceneDaemon:
    """A `streamd serve` process with a short step."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        folder: Path,
        port: int,
        *,
        engines: Path,
        min_context_rows: int,
        more_settings: str = "",
    ) -> None:
        config = folder / "config.toml"
        config.write_text(
            SETTINGS.format(host=HOST, port=port, folder=folder, engines=engines, min_rows=min_context_rows)
            + more_settings
        )
        self.url = f"http://{HOST}:{port}"
        self.process = SceneProcess(
            "streamd", [sys.executable, "-m", "streamd", "serve", "--config", str(config)], folder
        )
        self.client = DaemonClient(session, self.url)
        self._session = session
        self._counts: Counter[str] = Counter()

    async def start(self) -> float:
        """Start the daemon and wait until it is ready; returns the seconds that it took. Raises `SceneError`."""
        began = time.monotonic()
        self.process.start()
        while time.monotonic() < began + READY_SECONDS:
            self.process.check_running()
            if await self._is_ready():
                return time.monotonic() - began
            await asyncio.sleep(START_POLL_SECONDS)
        raise SceneError(f"the daemon was not ready after {READY_SECONDS:g} s\n{self.process.read_log_tail()}")

    async def kill(self) -> None:
        """Collect the counts of the daemon, then kill it as `kill -9` does."""
        await self.collect_counts()
        self.process.kill()

    async def fetch_rows(self, server: str) -> dict[int, SceneRow]:
        """Return the rows of a server by step, or an empty table if it has none. Raises `UnreachableError`."""
        known = {each.server: each for each in await self.client.fetch_servers()}
        if server not in known or not known[server].have:
            return {}
        return read_rows(await self.client.fetch_window(server))

    async def collect_counts(self) -> None:
        """Add the counts of this process of the daemon; it is called once before the process ends."""
        status = msgspec.convert(await fetch_json(self._session, f"{self.url}/v1/status"), _CountedStatus)
        for protocol, counts in status.agents.get("protocols", {}).items():
            for name, value in _flatten(counts):
                self._counts[f"{protocol} {name}"] += value

    def list_counts(self) -> dict[str, dict[str, int]]:
        """Return the counts up to the last `collect_counts`, by protocol."""
        found: dict[str, dict[str, int]] = {}
        for key, value in sorted(self._counts.items()):
            protocol, name = key.split(" ", 1)
            found.setdefault(protocol, {})[name] = value
        return found

    async def _is_ready(self) -> bool:
        try:
            await fetch_json(self._session, f"{self.url}/readyz")
        except UnreachableError:
            return False
        return True


class _CountedStatus(msgspec.Struct):
    agents: dict[str, Any] = {}


def _flatten(counts: dict[str, Any]) -> list[tuple[str, int]]:
    """Return counts with those of a nested table as `name of key`."""
    flat: list[tuple[str, int]] = []
    for name, value in counts.items():
        if isinstance(value, dict):
            flat += [(f"{name} {key}", count) for key, count in value.items()]
        else:
            flat.append((name, value))
    return flat
