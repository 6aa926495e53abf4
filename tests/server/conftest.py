"""Daemons as processes; most tests share one that is ready."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon_process import DaemonProcess
from tests.support.notify_states import NotifyReceiver
from tests.support.served_versions import make_both
from tests.support.version_calls import StartDaemon


@pytest.fixture
def start() -> Iterator[StartDaemon]:
    """Starts daemons that end with the test."""
    started: list[DaemonProcess] = []

    def start_one(state_dir: Path, *arguments: str, **env: str) -> DaemonProcess:
        started.append(DaemonProcess.start(state_dir, *arguments, env=env))
        return started[-1]

    yield start_one
    for daemon in started:
        daemon.end()


@pytest.fixture(scope="module")
def shared_state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shared-state")


@pytest.fixture(scope="module")
def shared(shared_state: Path) -> Iterator[DaemonProcess]:
    """A daemon that is ready; tests leave it as they found it, except for servers of their own names."""
    daemon = DaemonProcess.start(shared_state)
    daemon.wait_for("ready")
    yield daemon
    daemon.end()


@pytest.fixture
def engines(tmp_path: Path) -> Path:
    """The folder of two versions, `CALENDAR` and `WINDOW`."""
    return make_both(tmp_path / "engines")


@pytest.fixture
def notify_socket() -> Iterator[NotifyReceiver]:
    """A socket that receives as systemd does; its address is the value of `NOTIFY_SOCKET`."""
    receiver = NotifyReceiver()
    yield receiver
    receiver.close()
