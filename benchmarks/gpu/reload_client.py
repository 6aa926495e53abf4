"""Changes the version of a daemon over HTTP and waits for what follows; and what the daemon weighs."""

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


@dataclass
class Client:
    """What is asked of the daemon during the replay."""

    session: aiohttp.ClientSession
    daemon: Daemon
    token: str

    async def status(self) -> dict[str, Any]:
        """Its `/v1/status`."""
        async with self.session.get(f"{self.daemon.url}/v1/status") as answer:
            told: dict[str, Any] = await answer.json()
            return told

    async def until_serving(self, version: str) -> float:
        """Wait until its status names this version; returns when."""
        while (await self.status())["engine"] != version:
            await asyncio.sleep(POLL_SECONDS)
        return time.monotonic()

    async def until_one_is_loaded(self, let_go: int) -> None:
        """Wait until the version before is not kept warm any more, and so many were let go of since the start."""
        async with asyncio.timeout(RETIRE_SECONDS):
            while (await self.status())["previous"] is not None:
                await asyncio.sleep(5 * POLL_SECONDS)
            while self.daemon.log_path.read_bytes().count(b'"engine_let_go"') < let_go:
                await asyncio.sleep(5 * POLL_SECONDS)

    async def change(self, kind: str, version: str) -> dict[str, Any]:
        """Promote or roll back; returns the answer. Raises RuntimeError where it is refused."""
        body: dict[str, str] = {"who": "benchmark", "why": "reload under load"}
        if kind == "promote":
            body["version"] = version
        heads = {"Authorization": f"Bearer {self.token}"}
        url = f"{self.daemon.url}/v1/engines/{kind}"
        async with self.session.post(url, json=body, headers=heads) as answer:
            if answer.status != 200:
                raise RuntimeError(f"{kind} {version}: {answer.status}: {await answer.text()}")
            told: dict[str, Any] = await answer.json()
        if told["engine"] != version:
            raise RuntimeError(f"{kind}: {told['engine']} serves, expected {version}")
        return told


def memory_of(pid: int) -> dict[str, Any]:
    """Resident MiB of a process, and the used MiB of each GPU where there is one."""
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


# ---------------------------------------------------------------- the changes
