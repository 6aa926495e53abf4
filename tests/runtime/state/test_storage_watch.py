"""Tests `streamd/runtime/state/storage_watch.py`: a disk that cannot be written is reported until it can be."""

import errno
import os
import signal
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from streamd.core.errors import StateError, StorageError
from streamd.runtime.state.state import WindowLimits
from streamd.runtime.state.storage_watch import MIN_FREE_BYTES, StorageWatch
from tests.support.daemon_process import NEED, SMALL, DaemonProcess, make_whole_rows
from tests.support.loop_mounts import mounted
from tests.support.state_files import opened
from tests.support.tiny_version import SHIPPED_CONTRACT


class WatchRig:
    """A watch whose flushes fail on request, with a clock that a test moves."""

    def __init__(self, folder: Path) -> None:
        self.now = 100.0
        self.error: OSError | None = None
        self.shortage: StorageError | None = None
        self.watch = StorageWatch(folder, self.flush, lambda: self.shortage, clock=lambda: self.now)

    def flush(self) -> None:
        self.now += 0.5
        if self.error is not None:
            raise self.error


async def test_a_failed_flush_is_reported_until_one_succeeds(tmp_path: Path) -> None:
    rig = WatchRig(tmp_path)
    rig.now += 30.0
    rig.error = OSError(errno.EIO, os.strerror(errno.EIO))
    await rig.watch.flush_once()
    await rig.watch.check_once()
    assert rig.watch.problem == "the state cannot be written to the disk: Input/output error"
    assert rig.watch.unsynced_seconds == 30.5
    rig.error = None
    await rig.watch.flush_once()
    await rig.watch.check_once()
    assert rig.watch.describe() == {"problem": None, "unsynced_seconds": 0.5, "flush_seconds": 0.5}


@pytest.mark.parametrize(
    ("flags", "free", "expected"),
    [(0, MIN_FREE_BYTES, None), (0, MIN_FREE_BYTES - 1, "bytes are free"), (os.ST_RDONLY, 2**40, "is read-only")],
)
async def test_a_full_and_a_read_only_disk_are_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: int, free: int, expected: str | None
) -> None:
    found = SimpleNamespace(f_flag=flags, f_bavail=free, f_frsize=1)
    monkeypatch.setattr(os, "statvfs", lambda path: found)
    rig = WatchRig(tmp_path)
    await rig.watch.check_once()
    assert (rig.watch.problem is None) if expected is None else expected in str(rig.watch.problem)


async def test_a_folder_that_is_gone_and_a_shortage_are_reported(tmp_path: Path) -> None:
    rig = WatchRig(tmp_path / "gone")
    await rig.watch.check_once()
    assert "No such file" in str(rig.watch.problem)
    rig = WatchRig(tmp_path)
    rig.shortage = StorageError("btrfs needs more")
    await rig.watch.check_once()
    assert rig.watch.problem == "btrfs needs more"


FEATURES = ("cpu_user", "cpu_system")
SMALL_LIMITS = WindowLimits(capacity=int(SMALL["STREAMD_MAX_SERVERS"]), need=NEED)


def send(daemon: DaemonProcess, server: str, step: int) -> list[str]:
    """Send one sample; returns the codes of its rejection."""
    rows = make_whole_rows(server, [step], FEATURES)
    status, answer = daemon.call("POST", "/v1/samples", {"samples": rows})
    assert status in (200, 503), answer
    return [error["code"] for error in answer["errors"]] if status == 200 else [answer["code"]]


WATCHFUL = """
import sys
from streamd.cli import main
from streamd.runtime.state import storage_watch
storage_watch.CHECK_SECONDS = 0.05
sys.exit(main())
"""
"""A daemon that checks its disk often."""


def start(folder: Path, **env: str) -> DaemonProcess:
    """Start a daemon and wait until it is ready."""
    daemon = DaemonProcess.begin(folder, env=env, program=("-c", WATCHFUL))
    daemon.port = daemon.wait_for("listening")["port"]
    daemon.wait_for("ready")
    return daemon


def test_a_daemon_on_a_full_disk_reports_it_serves_known_servers_and_recovers(tmp_path: Path) -> None:
    with mounted("ext4-4k", tmp_path) as mount:
        # As many slots as fit into several pieces: new servers need new space.
        daemon = start(mount.folder / "state", STREAMD_MAX_SERVERS="2000")
        try:
            assert send(daemon, "known", 0) == []
            assert daemon.get("/readyz") == (200, {"status": "ready"})
            mount.fill()
            assert "bytes are free" in daemon.wait_for("storage_degraded")["problem"]
            assert daemon.get("/readyz") == (200, {"status": "ready", "degraded": ["storage"]})
            assert "bytes are free" in daemon.get("/v1/status")[1]["state_folder"]["problem"]
            assert "streamd_storage_degraded 1" in daemon.get("/metrics")[1]
            new = [code for number in range(40) for code in send(daemon, f"new-{number}", 0)]
            assert set(new) == {"storage"}
            assert send(daemon, "known", 1) == []
            mount.free(32 * 2**20)
            daemon.wait_for("storage_recovered")
            assert daemon.get("/readyz") == (200, {"status": "ready"})
            assert send(daemon, "new-39", 0) == []
        finally:
            daemon.end()


def test_a_disk_that_turns_read_only_is_reported_and_what_was_flushed_is_there_after_it_is_mounted_again(
    tmp_path: Path,
) -> None:
    with mounted("ext4-4k", tmp_path) as mount:
        fails, folder = find_failure_switch(mount.folder), mount.folder / "state"
        daemon = start(folder, STREAMD_FSYNC_INTERVAL_MS="50")
        try:
            assert send(daemon, "known", 0) == []
            assert send(daemon, "known", 1) == []
            wait_for_flush(daemon)
            fails.write_text("an error that makes the file system read-only")
            daemon.wait_for("storage_degraded")
            assert daemon.get("/readyz")[1]["degraded"] == ["storage"]
            assert send(daemon, "known", 2) == ["storage"]
            assert daemon.process.poll() is None, "it goes on and serves what it has"
            assert daemon.get("/v1/servers?server=known")[0] == 200
            daemon.signal(signal.SIGTERM)
            assert daemon.wait() == 0
        finally:
            daemon.end()
        with pytest.raises(StateError, match="Read-only file system"), opened(folder, SHIPPED_CONTRACT, SMALL_LIMITS):
            pass
        mount.remount()
        with opened(folder, SHIPPED_CONTRACT, SMALL_LIMITS) as state:
            assert state.set_aside == []
            slot = state.directory.slots["known"]
            assert state.windows.get_latest_step(slot) == SHIPPED_CONTRACT.to_step(1_700_000_100) + 1


def find_failure_switch(folder: Path) -> Path:
    """Return the file of sysfs that gives a mounted ext4 an error, and let it react by turning read-only."""
    subprocess.run(["mount", "-o", "remount,errors=remount-ro", str(folder)], check=True)
    device = os.stat(folder).st_dev
    name = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}").resolve().name
    switch = Path(f"/sys/fs/ext4/{name}/trigger_fs_error")
    if not os.access(switch, os.W_OK):
        pytest.skip("this kernel cannot give an ext4 an error")
    return switch


def wait_for_flush(daemon: DaemonProcess) -> None:
    """Wait until a flush that began after this call has ended."""
    called_at = time.monotonic()
    while True:
        asked_at = time.monotonic()
        unsynced_seconds = daemon.get("/v1/status")[1]["state_folder"]["unsynced_seconds"]
        if unsynced_seconds + 0.001 < asked_at - called_at:
            return
