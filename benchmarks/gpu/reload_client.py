"""A client that changes the version of a daemon over HTTP, and the daemon's memory."""

import asyncio
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks.gpu.processes import Daemon

POLL_SECONDS = 0.02
CALL_SECONDS = 180.0
RETIRE_SECONDS = 30.0
RELEASED_EVENT = b'"engine_released"'
"""The event in the daemon's log once a version is released (`streamd/runtime/versions/manager.py`)."""


@dataclass
class ReloadClient:
    """A client for the changes during the load test."""

    session: aiohttp.ClientSession
    daemon: Daemon
    token: str

    async def fetch_status(self) -> dict[str, Any]:
        """Read `/v1/status`."""
        async with self.session.get(f"{self.daemon.url}/v1/status") as answer:
            status: dict[str, Any] = await answer.json()
            return status

    async def wait_serving(self, version: str) -> float:
        """Wait until the status names this version; returns the monotonic time."""
        while (await self.fetch_status())["engine"] != version:
            await asyncio.sleep(POLL_SECONDS)
        return time.monotonic()

    async def wait_one_loaded(self, released: int) -> None:
        """Wait until no previous version is kept warm, and so many versions were released since the start."""
        async with asyncio.timeout(RETIRE_SECONDS):
            while (await self.fetch_status())["previous"] is not None:
                await asyncio.sleep(5 * POLL_SECONDS)
            while self.daemon.log_path.read_bytes().count(RELEASED_EVENT) < released:
                await asyncio.sleep(5 * POLL_SECONDS)

    async def change_version(self, kind: str, version: str) -> dict[str, Any]:
        """Promote or roll back; returns the answer. Raises `RuntimeError` if it is refused."""
        body: dict[str, str] = {"who": "benchmark", "why": "reload under load"}
        if kind == "promote":
            body["version"] = version
        headers = {"Authorization": f"Bearer {self.token}"}
        url = f"{self.daemon.url}/v1/engines/{kind}"
        async with self.session.post(url, json=body, headers=headers) as response:
            if response.status != 200:
                raise RuntimeError(f"{kind} {version}: {response.status}: {await response.text()}")
            answer: dict[str, Any] = await response.json()
        if answer["engine"] != version:
            raise RuntimeError(f"{kind}: {answer['engine']} serves, expected {version}")
        return answer


def read_memory(pid: int) -> dict[str, Any]:
    """Read the resident MiB of a process, and the used MiB of each GPU; no GPU gives an empty list."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    fields = {line.split(":")[0]: int(line.split()[1]) / 1024 for line in lines if line.endswith(" kB")}
    found: dict[str, Any] = {
        "resident_mib": round(fields["VmRSS"], 1),
        "anonymous_mib": round(fields["RssAnon"], 1),
        "device_mib": [],
    }
    if shutil.which("nvidia-smi") is not None:
        command = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
        answer = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
        if answer.returncode == 0:
            found["device_mib"] = [int(line) for line in answer.stdout.split()]
    return found
