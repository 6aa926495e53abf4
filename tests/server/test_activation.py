"""Tests `streamd/server/daemon.py` as systemd starts it with a socket: a restart refuses no connection."""

import http.client
import socket
import subprocess
import sys
import threading
from pathlib import Path

from tests.support.daemon_process import DaemonProcess, make_environment, make_small_settings

LAUNCHER = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1", LISTEN_FDNAMES="http")
os.execv(sys.argv[2], sys.argv[2:])
"""
"""Starts a program as systemd does: the socket is descriptor 3, and the variables name the process."""


def start_activated(listening: socket.socket, state_dir: Path) -> DaemonProcess:
    number = listening.fileno()
    command = [sys.executable, "-m", "streamd", "serve", "--state-dir", str(state_dir), "--port", "1"]
    process = subprocess.Popen(
        [sys.executable, "-S", "-c", LAUNCHER, str(number), *command],
        env=make_environment(make_small_settings()),
        stderr=subprocess.PIPE,
        pass_fds=[number],
    )
    assert process.stderr is not None
    return DaemonProcess(process, process.stderr)


def ask_until(stopped: threading.Event, port: int, answers: list[object]) -> None:
    """Call the daemon over a new connection each time, and record each status or error."""
    while not stopped.is_set():
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60.0)
        try:
            connection.request("GET", "/healthz")
            answers.append(connection.getresponse().status)
        except OSError as exc:
            answers.append(exc)
        finally:
            connection.close()


def test_a_restart_with_an_inherited_socket_answers_every_connection(tmp_path: Path) -> None:
    stopped, answers = threading.Event(), list[object]()
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listening:
        port = listening.getsockname()[1]
        started = [first := start_activated(listening, tmp_path / "state")]
        caller = threading.Thread(target=ask_until, args=(stopped, port, answers), daemon=True)
        caller.start()  # its first connection waits until the daemon listens
        try:
            event = first.wait_for("listening")
            assert (event["port"], event["inherited"]) == (port, True)
            first.wait_for("ready")
            first.process.terminate()
            assert first.wait() == 0
            started.append(second := start_activated(listening, tmp_path / "state"))
            before = len(answers)
            second.wait_for("ready")
            stopped.set()
            caller.join(60.0)
            second.process.terminate()
            assert second.wait() == 0
        finally:
            stopped.set()
            for each in started:
                each.end()
    assert before > 10
    assert len(answers) > before
    assert set(answers) == {200}
