"""Daemons and clients of the GPU benchmarks as processes: a version's folder to serve, and who used which core."""

import json
import os
import shutil
import statistics
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import compress
from pathlib import Path
from typing import Any

from benchmarks.gpu.harness import ROOT, Suite
from benchmarks.harness import CLOCK_TICKS, find_free_port
from streamd.repository.versions import EngineVersion

SAMPLE_SECONDS = 1.0


def copy_version(suite: Suite, version: EngineVersion, root: Path) -> Path:
    """Copy a version with its plans into a folder of versions of its own, where it may be damaged."""
    folder = root / version.name
    folder.mkdir(parents=True)
    planned = suite.arguments.plans / version.name
    for source in (version.path, planned):
        if source.is_dir():
            for file in source.iterdir():
                if file.is_file() and not file.name.startswith("dynamic_"):
                    shutil.copy2(file, folder / file.name)
    return folder


class Daemon:
    """A `streamd serve` in a process of its own; its log is kept. With the backend `fake` its lanes cost nothing."""

    def __init__(self, folder: Path, engines: Path, engine: str, **settings: object) -> None:
        module = "streamd"
        if settings.get("backend") == "fake":
            module, settings["backend"] = "benchmarks.gpu.instant_serve", "onnxruntime-cpu"
        self.port = find_free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log_path = folder / "daemon.log"
        own = {"engines": engines, "engine": engine, "log_level": "info", "log_format": "json", **settings}
        environ = {**os.environ, **{f"STREAMD_{key.upper()}": str(value) for key, value in own.items()}}
        command = [sys.executable, "-m", module, "serve", "--config", str(ROOT / "config.toml")]
        command += ["--port", str(self.port), "--state-dir", str(folder / "state")]
        self._log = self.log_path.open("wb")
        self.began = time.monotonic()
        self.process = subprocess.Popen(command, env=environ, cwd=ROOT, stdout=self._log, stderr=subprocess.STDOUT)

    @property
    def pid(self) -> int:
        """Of the process."""
        return self.process.pid

    def get(self, path: str) -> tuple[int, Any]:
        """A route's status and its answer; status 0 where nothing answers."""
        try:
            with urllib.request.urlopen(self.url + path, timeout=10) as answer:
                return answer.status, _decoded(answer.read())
        except urllib.error.HTTPError as error:
            return error.code, _decoded(error.read())
        except (urllib.error.URLError, OSError):
            return 0, None

    def until_ready(self, timeout_seconds: float = 180.0) -> float:
        """Wait until it is able to answer; returns seconds since its start. Raises RuntimeError with its log."""
        while time.monotonic() - self.began < timeout_seconds:
            if self.process.poll() is not None:
                raise RuntimeError(f"the daemon ended with {self.process.returncode}: {self.log_tail()}")
            if self.get("/readyz")[0] == 200:
                return time.monotonic() - self.began
            time.sleep(0.1)
        raise RuntimeError(f"the daemon was not ready within {timeout_seconds:g} s: {self.log_tail()}")

    def log_tail(self, lines: int = 12) -> str:
        """The end of its log."""
        return "\n".join(self.log_path.read_text(errors="replace").splitlines()[-lines:])

    def close(self) -> int:
        """Stop it; returns its exit status."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(40)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._log.close()
        return self.process.returncode


def _decoded(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return body.decode(errors="replace")


@contextmanager
def serving(folder: Path, engines: Path, engine: str, **settings: object) -> Iterator[Daemon]:
    """A daemon that is stopped at the end; it may not be ready yet."""
    daemon = Daemon(folder, engines, engine, **settings)
    try:
        yield daemon
    finally:
        daemon.close()


# ---------------------------------------------------------------- who used which core
class CpuWatch:
    """Every second the share of a core that threads and processes used, and of its time that a lane was busy.

    `seconds` has the epoch time at which each of them ended.
    """

    def __init__(self, daemon: Daemon, client_pid: int) -> None:
        self.daemon = daemon
        self.client_pid = client_pid
        self.shares: dict[str, list[float]] = {
            name: [] for name in ("daemon loop", "daemon whole", "busiest client", "lanes")
        }
        self.seconds: list[float] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="cpu watch")
        self._thread.start()

    def close(self) -> None:
        """Stop."""
        self._stop.set()
        self._thread.join()

    def busy(self, began: float, ended: float) -> dict[str, float]:
        """The median share over the seconds that lie within these two times; 0 where there are none."""
        within = [began + SAMPLE_SECONDS <= at <= ended for at in self.seconds]
        return {name: _median(list(compress(shares, within))) for name, shares in self.shares.items()}

    def _run(self) -> None:
        before, at = self._seconds(), time.monotonic()
        while not self._stop.wait(SAMPLE_SECONDS):
            now, then = self._seconds(), time.monotonic()
            took = then - at
            used = {key: (now[key] - before[key]) / took for key in now if key in before}
            clients = [value for key, value in used.items() if key.startswith("client")]
            self.shares["daemon loop"].append(used.get("loop", 0.0))
            self.shares["daemon whole"].append(used.get("daemon", 0.0))
            self.shares["busiest client"].append(max(clients, default=0.0))
            self.shares["lanes"].append(used.get("lane", 0.0))
            self.seconds.append(time.time())
            before, at = now, then

    def _seconds(self) -> dict[str, float]:
        paths = {
            "loop": Path(f"/proc/{self.daemon.pid}/task/{self.daemon.pid}/stat"),
            "daemon": Path(f"/proc/{self.daemon.pid}/stat"),
            **{f"client {pid}": Path(f"/proc/{pid}/stat") for pid in (self.client_pid, *children(self.client_pid))},
        }
        found = {name: seconds for name, path in paths.items() if (seconds := _stat_seconds(path)) is not None}
        status = self.daemon.get("/v1/status")[1]
        if isinstance(status, dict) and status["lanes"]:
            found["lane"] = sum(lane["busy_seconds"] for lane in status["lanes"]) / len(status["lanes"])
        return found


def children(pid: int) -> list[int]:
    """The processes that a process has started and their own."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            child = int(path.parent.name)
            found += [child, *children(child)]
    return found


def _stat_seconds(path: Path) -> float | None:
    """User and system seconds of a process or thread; none where it has ended."""
    try:
        fields = path.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return (int(fields[11]) + int(fields[12])) / CLOCK_TICKS


def _median(shares: list[float]) -> float:
    return round(statistics.median(shares), 3) if shares else 0.0
