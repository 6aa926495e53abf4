"""The load of the benchmark: a daemon whose lanes cost nothing, and the process that sends its rows."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness import ROOT, find_free_port, read_cpu_seconds

RULES = """
[alerts]
max_forecast_age_seconds = inf

[alerts.rules.disk_fills]
target = "disk_usage"
above = 30.0
severity = "critical"

[alerts.rules.memory_fills]
target = "mem_used"
above = 99.9
within = "4h"

[alerts.rules.cpu_busy]
target = "cpu_user"
above = 60.0
"""
FILL_ROWS = 48
READY_SECONDS = 60.0
FILL_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class FleetSize:
    """How many servers there are, and how many rows a second they send."""

    servers: int
    rate: float


@dataclass(frozen=True, slots=True)
class LoadedDaemon:
    """A daemon under load."""

    url: str
    pid: int

    def read_usage(self) -> tuple[float, float, int]:
        """Return the CPU seconds of the loop's thread and of the process so far, and the rows that were closed."""
        with urllib.request.urlopen(f"{self.url}/v1/status", timeout=10) as answer:
            closed: int = json.load(answer)["rows"]["closed"]
        loop = Path(f"/proc/{self.pid}/task/{self.pid}/schedstat").read_text().split()[0]  # exact to a nanosecond
        return int(loop) / 1e9, read_cpu_seconds(self.pid), closed


@contextmanager
def run_load(size: FleetSize) -> Iterator[LoadedDaemon]:
    """Start the daemon and the sender; yields once all windows are full enough."""
    with tempfile.TemporaryDirectory(prefix="streamd-page-") as name:
        folder, port = Path(name), find_free_port()
        (folder / "config.toml").write_text(RULES)
        environment = {
            **os.environ,
            "STREAMD_ENGINES": str(ROOT / "engines"),
            "STREAMD_MAX_SERVERS": str(size.servers),
            "STREAMD_MIN_CONTEXT_ROWS": str(FILL_ROWS),
            "STREAMD_MAX_AHEAD_SECONDS": "1e9",
        }
        command = [sys.executable, "-m", "benchmarks.gpu.instant_serve", "serve", "--config", f"{folder}/config.toml"]
        command += ["--port", str(port), "--state-dir", f"{folder}/state", "--log-level", "warning"]
        daemon = subprocess.Popen(command, cwd=ROOT, env=environment)
        url = f"http://127.0.0.1:{port}"
        sender = None
        try:
            _wait_ready(url, daemon)
            command = [sys.executable, "-m", "benchmarks.page.sender", url, "--servers", str(size.servers)]
            command += ["--rate", str(size.rate), "--fill-rows", str(FILL_ROWS)]
            sender = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)
            assert sender.stdout is not None
            if sender.stdout.readline() != b"filled\n":
                raise RuntimeError("the sender ended before it had filled the windows")
            yield LoadedDaemon(url, daemon.pid)
            if sender.poll() is not None:
                raise RuntimeError("the sender ended before the measurement did")
        finally:
            for process in filter(None, (sender, daemon)):
                process.send_signal(signal.SIGTERM)
                process.wait(60)


def _wait_ready(url: str, daemon: "subprocess.Popen[bytes]") -> None:
    until = time.monotonic() + READY_SECONDS
    while time.monotonic() < until:
        if daemon.poll() is not None:
            raise RuntimeError(f"the daemon ended with {daemon.returncode} before it was ready")
        try:
            with urllib.request.urlopen(f"{url}/readyz", timeout=2) as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError(f"the daemon was not ready after {READY_SECONDS:g} s")
