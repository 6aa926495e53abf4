"""Tests `streamd/server/workers/supervisor.py`: what systemd and the one who starts a daemon see of its processes."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from signal import SIGHUP, SIGKILL, SIGSTOP, SIGTERM

import pytest

from tests.support.daemon_process import DaemonProcess, make_small_settings, run_command
from tests.support.notify_states import NotifyReceiver, receive_state
from tests.support.worker_fleet import StartProcesses, find_parts, wait_for_part


def receive_until(receiver: NotifyReceiver, field: bytes) -> list[bytes]:
    for _ in range(200):  # the watchdog is fed twice a second
        if field in (state := receive_state(receiver)):
            return state
    raise AssertionError(f"no {field!r}")


def test_systemd_is_notified_once_for_all_processes_and_one_that_hangs_is_started_again(
    start_processes: StartProcesses, notify_socket: NotifyReceiver
) -> None:
    daemon = start_processes(NOTIFY_SOCKET=notify_socket.getsockname(), WATCHDOG_USEC="1000000")
    assert receive_until(notify_socket, b"READY=1") == [b"READY=1"]
    assert receive_until(notify_socket, b"WATCHDOG=1") == [b"WATCHDOG=1"]
    daemon.signal(SIGHUP)
    receive_until(notify_socket, b"RELOADING=1")
    receive_until(notify_socket, b"READY=1")
    hanging = find_parts(daemon)["worker 1"]
    os.kill(hanging, SIGSTOP)
    assert wait_for_part(daemon, "worker 1", other_than=hanging)
    receive_until(notify_socket, b"WATCHDOG=1")
    daemon.signal(SIGTERM)
    receive_until(notify_socket, b"STOPPING=1")
    assert daemon.process.wait(30) == 0


@pytest.fixture
def occupied() -> Iterator[int]:
    """A port that another program listens on."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield other.getsockname()[1]


def test_a_port_in_use_is_the_error_of_a_start(tmp_path: Path, occupied: int) -> None:
    ended = run_command("serve", "--port", str(occupied), cwd=tmp_path, STREAMD_WORKERS="2")
    assert ended.returncode == 1
    assert "cannot listen on 127.0.0.1" in ended.stderr


def test_a_second_daemon_does_not_join_the_port_of_the_first(processes: DaemonProcess, tmp_path: Path) -> None:
    ended = run_command("serve", "--port", str(processes.port), cwd=tmp_path, STREAMD_WORKERS="2")
    assert ended.returncode == 1
    assert "cannot listen" in ended.stderr


def test_settings_that_a_process_refuses_end_all(tmp_path: Path) -> None:
    daemon = DaemonProcess.begin(tmp_path / "state", env={"STREAMD_WORKERS": "2", "STREAMD_HOST": "0.0.0.0"})
    lines = [line for line in daemon.log if line.startswith(b"streamd: ")]
    assert daemon.process.wait() == 2
    assert lines
    assert b"every caller would be served" in lines[0]
    daemon.log.close()


def test_one_state_folder_serves_one_daemon(processes: DaemonProcess, tmp_path: Path) -> None:
    folder = str(processes.state_dir)
    settings = {**make_small_settings(), "STREAMD_WORKERS": "2"}
    ended = run_command("serve", "--port", "0", "--state-dir", folder, cwd=tmp_path, **settings)
    assert ended.returncode == 1
    assert folder in ended.stderr
    assert processes.get("/readyz") == (200, {"status": "ready"})


def test_a_process_that_is_killed_before_it_was_ready_is_started_again(tmp_path: Path) -> None:
    daemon = DaemonProcess.begin(tmp_path / "state", env={"STREAMD_WORKERS": "2"})
    daemon.port = daemon.wait_for("listening")["port"]
    os.kill(wait_for_part(daemon, "worker 0"), SIGKILL)
    daemon.wait_for("all_ready")
    assert [line["part"] for line in daemon.lines if line["event"] == "part_ended"] == ["worker 0"]
    daemon.signal(SIGTERM)
    assert daemon.wait() == 0
    daemon.log.close()
