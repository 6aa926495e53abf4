"""Shared parts of the benchmarks: a daemon in a process of its own, its CPU seconds and memory, and tables."""

import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

ROOT = Path(__file__).resolve().parent.parent
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")


class DaemonProcess:
    """A running daemon in a process of its own."""

    def __init__(self, process: "subprocess.Popen[bytes]", port: int) -> None:
        self.process = process
        self.port = port

    @property
    def url(self) -> str:
        """The address on which the daemon listens."""
        return f"http://127.0.0.1:{self.port}"

    def read_cpu_seconds(self) -> float:
        """Return the user and system seconds of the process so far (granularity: a clock tick)."""
        return read_cpu_seconds(self.process.pid)

    def read_memory_bytes(self) -> dict[str, int]:
        """Return the resident bytes: `anonymous` (heap) and `mapped` (files, the window store among them)."""
        rollup = Path(f"/proc/{self.process.pid}/smaps_rollup").read_text(encoding="ascii")
        figures = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in rollup.splitlines()[1:] if "kB" in line}
        return {"anonymous": figures["Anonymous"], "mapped": figures["Rss"] - figures["Anonymous"]}

    async def fetch_status(self, session: aiohttp.ClientSession) -> dict[str, Any]:
        """Read `/v1/status`."""
        async with session.get(f"{self.url}/v1/status") as answer:
            status: dict[str, Any] = await answer.json()
            return status


def read_cpu_seconds(pid: int) -> float:
    """Return the user and system seconds of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / CLOCK_TICKS


@asynccontextmanager
async def running_daemon(module: str = "streamd", /, **settings: object) -> AsyncIterator[DaemonProcess]:
    """Start a daemon on the embedded default model, with these settings over its defaults; stop it at the end.

    `module` is the program, which has the command line of `streamd`.
    """
    port = find_free_port()
    with tempfile.TemporaryDirectory(prefix="streamd-bench-") as folder:
        environ = {**os.environ, **{f"STREAMD_{key.upper()}": str(value) for key, value in settings.items()}}
        command = [sys.executable, "-m", module, "serve", "--config", str(ROOT / "config.toml")]
        command += ["--port", str(port), "--state-dir", folder, "--log-level", "warning"]
        process = start_process(command, environ)
        try:
            daemon = DaemonProcess(process, port)
            async with aiohttp.ClientSession() as session:
                await wait_ready(daemon, session)
            yield daemon
        finally:
            process.terminate()
            process.wait(30)


def start_process(command: list[str], environ: dict[str, str]) -> "subprocess.Popen[bytes]":
    """Start a process in the folder of the repository."""
    return subprocess.Popen(command, env=environ, cwd=ROOT)


async def wait_ready(daemon: DaemonProcess, session: aiohttp.ClientSession) -> None:
    """Wait until a daemon is ready; raises `RuntimeError` if it ends before."""
    while True:
        if daemon.process.poll() is not None:
            raise RuntimeError(f"the daemon ended with {daemon.process.returncode} before it was ready")
        try:
            async with session.get(f"{daemon.url}/readyz") as answer:
                if answer.status == 200:
                    return
        except aiohttp.ClientConnectionError:
            pass
        await asyncio.sleep(0.1)


def find_free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def print_table(title: str, head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print rows in columns: the first one aligned to the left, the others to the right."""
    cells = [[str(cell) for cell in row] for row in (head, *rows)]
    widths = [max(len(row[place]) for row in cells) for place in range(len(head))]
    print(f"\n{title}")
    for row in cells:
        print(
            "  "
            + "  ".join(
                cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
            )
        )


def describe_machine() -> dict[str, object]:
    """Describe the machine that runs the benchmark."""
    model = "unknown"
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return {"cpu": model, "cores": len(os.sched_getaffinity(0)), "python": sys.version.split()[0]}


def write_result(name: str, result: dict[str, Any]) -> Path:
    """Write a result as JSON to `benchmarks/results`; returns its path."""
    path = ROOT / "benchmarks" / "results" / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return path
