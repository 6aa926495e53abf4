"""Daemons of several processes. A start takes seconds, so tests that leave the daemon as it was share one."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon_process import DaemonProcess
from tests.support.worker_fleet import ADMIN_TOKEN, WORKERS, StartProcesses, find_parts, is_alive, wait_ready


class RunningDaemons:
    """Starts daemons that are ready; the log of each is read all the time, and all their processes end."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._started: list[tuple[DaemonProcess, threading.Thread]] = []

    def start(self, **env: str) -> DaemonProcess:
        """Start a daemon with settings as variables."""
        settings = {"STREAMD_WORKERS": str(WORKERS), "STREAMD_MAX_AHEAD_SECONDS": "1e9", **env}
        daemon = DaemonProcess.begin(self._folder / "state", env=settings)
        try:
            daemon.port = daemon.wait_for("listening")["port"]
            daemon.wait_for("all_ready")
        except BaseException:
            daemon.end()
            raise
        reader = threading.Thread(target=lambda: daemon.lines.extend({"line": line} for line in daemon.log))
        reader.start()
        self._started.append((daemon, reader))
        return daemon

    def end(self) -> None:
        """End all of them."""
        for daemon, reader in self._started:
            parts = find_parts(daemon)
            daemon.process.terminate()
            daemon.process.wait(30)
            reader.join()
            daemon.log.close()
            assert not any(map(is_alive, parts.values())), "every process has ended"


@pytest.fixture
def start_processes(tmp_path: Path) -> Iterator[StartProcesses]:
    """Starts a daemon of several processes that is ready; all its processes end after the test."""
    daemons = RunningDaemons(tmp_path)
    yield daemons.start
    daemons.end()


@pytest.fixture(scope="package")
def shared_daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    """A daemon of several processes for all tests; each of them has servers of its own."""
    daemons = RunningDaemons(tmp_path_factory.mktemp("processes"))
    yield daemons.start(STREAMD_ADMIN_TOKEN=ADMIN_TOKEN)
    daemons.end()


@pytest.fixture
def processes(shared_daemon: DaemonProcess) -> DaemonProcess:
    """The shared daemon, when all its processes are there."""
    wait_ready(shared_daemon)
    return shared_daemon
