"""Daemons and clients of the GPU benchmarks as processes: the folder of a version to serve, and the use of cores."""

import json
import os
import re
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
PART = re.compile(r'"role":"(engine|worker)","number":(\d+)')
"""A process among several in its plan, which is one of its arguments."""


def copy_version(suite: Suite, version: EngineVersion, root: Path) -> Path:
    """Copy a version with its plans into another folder of versions, where it may be damaged."""
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
    """A `streamd serve` in a process of its own, with its log. With the backend `fake` its lanes cost nothing.

    It is that of the checkout in the environment's `BENCH_TREE`, by default this one.
    """

    def __init__(
        self, folder: Path, engines: Path, engine: str, *, module: str = "streamd", **settings: object
    ) -> None:
        if settings.get("backend") == "fake":
            module, settings["backend"] = "benchmarks.gpu.instant_serve", "onnxruntime-cpu"
        self.port = find_free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log_path = folder / "daemon.log"
        tree = Path(os.environ.get("BENCH_TREE", ROOT))
        own = {"engines": engines, "engine": engine, "log_level": "info", "log_format": "json", **settings}
        environ = {**os.environ, **{f"STREAMD_{key.upper()}": str(value) for key, value in own.items()}}
        environ["PYTHONPATH"] = os.pathsep.join([str(tree), *filter(None, [os.environ.get("PYTHONPATH")])])
        command = [sys.executable, "-m", module, "serve", "--config", str(tree / "config.toml")]
        command += ["--port", str(self.port), "--state-dir", str(folder / "state")]
        self._log = self.log_path.open("wb")
        self.began = time.monotonic()
        self.process = subprocess.Popen(command, env=environ, cwd=tree, stdout=self._log, stderr=subprocess.STDOUT)

    @property
    def pid(self) -> int:
        """The process id."""
        return self.process.pid

    def get(self, path: str) -> tuple[int, Any]:
        """Read a route; returns the status and the decoded body, or status 0 if nothing answers."""
        try:
            with urllib.request.urlopen(self.url + path, timeout=10) as answer:
                return answer.status, _decode(answer.read())
        except urllib.error.HTTPError as error:
            return error.code, _decode(error.read())
        except (urllib.error.URLError, OSError):
            return 0, None

    def wait_ready(self, timeout_seconds: float = 180.0) -> float:
        """Wait until the daemon is ready; returns seconds since its start. Raises `RuntimeError` with its log."""
        while time.monotonic() - self.began < timeout_seconds:
            if self.process.poll() is not None:
                raise RuntimeError(f"the daemon ended with {self.process.returncode}: {self.read_log_tail()}")
            if self.get("/readyz")[0] == 200:
                return time.monotonic() - self.began
            time.sleep(0.1)
        raise RuntimeError(f"the daemon was not ready within {timeout_seconds:g} s: {self.read_log_tail()}")

    def read_log_tail(self, lines: int = 12) -> str:
        """Return the end of the log."""
        return "\n".join(self.log_path.read_text(errors="replace").splitlines()[-lines:])

    def close(self) -> int:
        """Stop the daemon; returns its exit status."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(40)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._log.close()
        return self.process.returncode


def _decode(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return body.decode(errors="replace")


@contextmanager
def run_daemon(folder: Path, engines: Path, engine: str, **settings: Any) -> Iterator[Daemon]:
    """Start a daemon, which may not be ready yet; stop it at the end."""
    daemon = Daemon(folder, engines, engine, **settings)
    try:
        yield daemon
    finally:
        daemon.close()


# ---------------------------------------------------------------- the use of cores
class CpuWatch:
    """A thread that samples the busy shares each second: of a core by threads and processes, of its time by a lane.

    Of a daemon of several processes, "daemon loop" is the busiest of their loops, "daemon whole" is all of them, and
    "loop engine" and "loop worker 0" are single ones. `seconds` has the epoch time at which each of the samples ended.
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
        """Stop sampling."""
        self._stop.set()
        self._thread.join()

    def busy(self, began: float, ended: float) -> dict[str, float]:
        """Compute the median share of the samples within these two epoch times; 0 if there is no sample."""
        within = [began + SAMPLE_SECONDS <= at <= ended for at in self.seconds]
        return {name: _compute_median(list(compress(shares, within))) for name, shares in self.shares.items()}

    def _append_shares(self, used: dict[str, float]) -> None:
        loops = {name: share for name, share in used.items() if name.startswith("loop")}
        clients = [share for name, share in used.items() if name.startswith("client")]
        shares = {
            "daemon loop": max(loops.values(), default=0.0),
            "daemon whole": sum(share for name, share in used.items() if name.startswith("whole")),
            "busiest client": max(clients, default=0.0),
            "lanes": used.get("lane", 0.0),
            **(loops if len(loops) > 1 else {}),
        }
        for name, share in shares.items():
            missed = [0.0] * (len(self.seconds) - len(self.shares.setdefault(name, [])))
            self.shares[name] += [*missed, share]

    def _run(self) -> None:
        before, at = self._read_seconds(), time.monotonic()
        while not self._stop.wait(SAMPLE_SECONDS):
            now, then = self._read_seconds(), time.monotonic()
            took = then - at
            used = {key: (now[key] - before[key]) / took for key in now if key in before}
            self._append_shares(used)
            self.seconds.append(time.time())
            before, at = now, then

    def _read_seconds(self) -> dict[str, float]:
        clients = (self.client_pid, *list_children(self.client_pid))
        paths = {f"client {pid}": Path(f"/proc/{pid}/stat") for pid in clients}
        for pid in (self.daemon.pid, *list_children(self.daemon.pid)):
            part = read_part(pid)
            paths[f"loop {part}"] = Path(f"/proc/{pid}/task/{pid}/stat")
            paths[f"whole {part}"] = Path(f"/proc/{pid}/stat")
        found = {name: seconds for name, path in paths.items() if (seconds := _read_stat_seconds(path)) is not None}
        status = self.daemon.get("/v1/status")[1]
        if isinstance(status, dict) and status["lanes"]:
            found["lane"] = sum(lane["busy_seconds"] for lane in status["lanes"]) / len(status["lanes"])
        return found


def read_part(pid: int) -> str:
    """Return what a process of a daemon is: "engine" or "worker 0" of several, else "daemon"."""
    try:
        arguments = Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "daemon"
    found = PART.search(arguments)
    if found is None:
        return "daemon"
    return found[1] if found[1] == "engine" else f"worker {found[2]}"


def list_children(pid: int) -> list[int]:
    """List the processes that a process has started, and those that they have started."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            child = int(path.parent.name)
            found += [child, *list_children(child)]
    return found


def _read_stat_seconds(path: Path) -> float | None:
    """Read the user and system seconds of a process or thread; `None` if it has ended."""
    try:
        fields = path.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return (int(fields[11]) + int(fields[12])) / CLOCK_TICKS


def _compute_median(shares: list[float]) -> float:
    return round(statistics.median(shares), 3) if shares else 0.0
