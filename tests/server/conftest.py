"""Daemons as processes; most tests share one that is ready."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.daemon_process import DaemonProcess

Start = Callable[..., DaemonProcess]


@pytest.fixture
def start() -> Iterator[Start]:
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
    """A daemon that is ready; tests leave it as they found it, but for servers of their own names."""
    daemon = DaemonProcess.start(shared_state)
    daemon.wait_for("ready")
    yield daemon
    daemon.end()
