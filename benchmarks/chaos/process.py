"""The daemon of a chaos run: started, killed, stopped and started again on the same port and state, as by systemd."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import aiohttp

from benchmarks.chaos.journal import Journal
from benchmarks.chaos.model import NEED
from benchmarks.harness import ROOT, find_free_port

START_SECONDS = 60.0
RESTART_PAUSE_SECONDS = 0.2
STOP_SECONDS = 30.0
FAKETIME_LIBRARIES = ("/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1", "/usr/lib/faketime/libfaketimeMT.so.1")
ADMIN_TOKEN = "chaos-admin-token"  # noqa: S105 - the daemon of this run is the only one that knows it

SETTINGS = {
    "MAX_SERVERS": "256",
    "MIN_CONTEXT_ROWS": str(NEED),
    "LATE_TOLERANCE_STEPS": "8",
    "ROW_GRACE_SECONDS": "1.0",
    "WARMUP_SECONDS": "0.05",
    "LANE_HANG_SECONDS": "1.0",
    "KEEP_WARM_SECONDS": "1.0",
    "SEND_TIMEOUT_SECONDS": "5.0",
    "DRAIN_SECONDS": "5.0",
    "FLUSH_INTERVAL_SECONDS": "2.0",
    "SCORED_SERVERS": "8",
    "LOG_FORMAT": "json",
    "LOG_LEVEL": "info",
    "ADMIN_TOKEN": ADMIN_TOKEN,
}
"""The settings of the daemon: small bounds and short times, so that each is reached."""


def find_faketime() -> str | None:
    """Return the path of libfaketime, `None` if it is not installed."""
    return next((path for path in FAKETIME_LIBRARIES if Path(path).exists()), None)


def make_environ(settings: Mapping[str, str], clock: Path | None) -> dict[str, str]:
    """Return the environment of a daemon: settings of no other one, and a wall clock that `write_clock` changes."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("STREAMD_", "NOTIFY_"))}
    environ = {**clean, **{f"STREAMD_{key}": value for key, value in settings.items()}}
    if clock is not None and (library := find_faketime()) is not None:
        environ |= {"LD_PRELOAD": library, "FAKETIME_TIMESTAMP_FILE": str(clock)}
        environ |= {"FAKETIME_CACHE_DURATION": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    return environ


def write_clock(clock: Path, setting: str) -> None:
    """Let a wall clock be wrong: `+3600` is an hour ahead, a date and a time stand still."""
    fresh = clock.with_suffix(".new")
    fresh.write_text(f"{setting}\n", encoding="ascii")
    os.replace(fresh, clock)


class ChaosProcess:
    """The daemon; `folder` gets its log, `state_dir` its state."""

    def __init__(self, folder: Path, state_dir: Path, engines: Path, orders: Path, journal: Journal) -> None:
        self.port = find_free_port()
        self.lives = 0
        """How often it was started."""
        self.began = time.monotonic()
        """When the present life began."""
        self.clock = folder / "clock"
        """The file of libfaketime with the offset of the daemon's clock."""
        self.log = folder / "daemon.log"
        self.settings = dict(SETTINGS)
        self.headers: dict[str, str] = {}
        """Headers that let a call read the state of the daemon."""
        self._state_dir = state_dir
        self._engines = engines
        self._orders = orders
        self._journal = journal
        self._process: subprocess.Popen[bytes] | None = None
        self.clock.write_text("+0\n", encoding="ascii")

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int | None:
        """The process that runs, `None` if there is none."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    async def start(self) -> None:
        """Start it, again and again until it is ready; raises `TimeoutError` after `START_SECONDS`."""
        async with asyncio.timeout(START_SECONDS):
            while True:
                self._spawn()
                if await self._wait_ready():
                    self._journal.write("life", number=self.lives, pid=self.pid)
                    return
                assert self._process is not None
                self._journal.write("start_failed", status=self._process.returncode)
                await asyncio.sleep(RESTART_PAUSE_SECONDS)

    def kill(self) -> None:
        """Kill it."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    async def stop(self) -> int:
        """Let it drain; returns its exit status, or kills it and raises `TimeoutError` after `STOP_SECONDS`."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(STOP_SECONDS):
                while self._process.poll() is None:
                    await asyncio.sleep(0.02)
        except TimeoutError:
            self.kill()
            raise
        return self._process.returncode

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    def shift_clock(self, seconds: int) -> None:
        """Let its clock differ from that of the machine by so many seconds, from now on."""
        write_clock(self.clock, f"{seconds:+d}")

    def _spawn(self) -> None:
        self.lives += 1
        self.began = time.monotonic()
        environ = make_environ(self.settings, self.clock) | {"CHAOS_ORDERS": str(self._orders)}
        command = [sys.executable, "-m", "benchmarks.chaos.child", "serve", "--port", str(self.port)]
        command += ["--state-dir", str(self._state_dir), "--engines", str(self._engines)]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(command, cwd=ROOT, env=environ, stdout=log, stderr=log)

    async def is_ready_now(self) -> bool:
        """Whether it says that it is ready, with all its workers."""
        try:
            async with (
                aiohttp.ClientSession(headers=self.headers) as session,
                session.get(f"{self.url}/readyz") as response,
            ):
                return response.status == 200 and "workers" not in (await response.json()).get("degraded", ())
        except (aiohttp.ClientError, OSError):
            return False

    async def _wait_ready(self) -> bool:
        """Wait until it is ready; returns false if it ends before."""
        while self.pid is not None:
            if await self.is_ready_now():
                return True
            await asyncio.sleep(0.05)
        return False


class SmallDisk:
    """A file system of a few megabytes for the state, which a file fills; needs root."""

    SIZE = "24m"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.is_mounted = False

    def mount(self) -> bool:
        """Mount it; returns false if this machine does not allow that."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if os.geteuid() != 0 or shutil.which("mount") is None:
            return False
        command = ["mount", "-t", "tmpfs", "-o", f"size={self.SIZE}", "none", str(self.folder)]
        self.is_mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
        return self.is_mounted

    def fill(self) -> None:
        """Use all free space."""
        with (self.folder / "ballast").open("ab", buffering=0) as file:
            for size in (2**20, 4096, 1):
                while True:
                    try:
                        file.write(bytes(size))
                    except OSError:
                        break

    def free(self) -> None:
        """Free that space again."""
        (self.folder / "ballast").unlink(missing_ok=True)

    def unmount(self) -> None:
        """Unmount it, if it is mounted."""
        if self.is_mounted:
            subprocess.run(["umount", "--lazy", str(self.folder)], check=False)
            self.is_mounted = False
