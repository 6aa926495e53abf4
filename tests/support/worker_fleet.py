"""A fleet that sends whole rows to a daemon of several processes, while these are killed, and remembers each ack."""

import http.client
import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support import daemon_parts
from tests.support.daemon_process import DaemonProcess

STEP_SECONDS = 300
StartProcesses = Callable[..., DaemonProcess]
"""Starts a daemon of several processes, with settings as variables."""

WORKERS = 2
ADMIN_TOKEN = "admin-of-the-shared-daemon"


def find_parts(daemon: DaemonProcess) -> dict[str, int]:
    """Return the pids of the processes of a daemon, by name."""
    return daemon_parts.find_parts(daemon.process.pid)


def wait_for_part(daemon: DaemonProcess, name: str, other_than: int = 0, seconds: float = 20.0) -> int:
    """Wait until a process of this name runs that is another one than `other_than`; returns its pid."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pid = find_parts(daemon).get(name, 0)
        if pid not in (0, other_than):
            return pid
        time.sleep(0.02)
    raise AssertionError(f"no new {name} in {seconds} s")


class FleetSender:
    """Sends a row of each server in each body, one step after the other, in a thread; sends a refused body again."""

    def __init__(self, port: int, features: list[str], servers: int, first_step: int, prefix: str = "fleet") -> None:
        self.acked = first_step - 1
        """The newest step of which all rows were acknowledged."""
        self.refused = 0
        """The bodies that got no ack."""
        self.names = [f"{prefix}-{number}" for number in range(servers)]
        self._port = port
        self._features = features
        self.first_step = first_step
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "FleetSender":
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._is_over.set()
        self._thread.join()

    def make_row(self, number: int, step: int) -> list[float]:
        """Make the values of a row; each is exact in float32 and tells its server, step and feature."""
        return [number * 64 + (step - self.first_step) / 8 + place for place in range(len(self._features))]

    def _run(self) -> None:
        while not self._is_over.is_set():
            if self._send(self.acked + 1):
                self.acked += 1
            else:
                self.refused += 1
                time.sleep(0.02)

    def _make_samples(self, step: int) -> dict[str, Any]:
        return {
            "samples": [
                {
                    "server": name,
                    "time": step * STEP_SECONDS + 1,
                    "values": dict(zip(self._features, self.make_row(number, step), strict=True)),
                }
                for number, name in enumerate(self.names)
            ]
        }

    def _make_columns(self, step: int) -> dict[str, Any]:
        rows = [self.make_row(number, step) for number in range(len(self.names))]
        time_of_all = step * STEP_SECONDS + 1
        return {"columns": {"servers": self.names, "features": self._features, "time": time_of_all, "values": rows}}

    def _send(self, step: int) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)
        try:
            body = json.dumps(self._make_columns(step) if step % 2 else self._make_samples(step))
            connection.request("POST", "/v1/samples", body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            message = json.loads(answer.read())
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()
        if answer.status != 200:
            assert answer.status == 503, f"{answer.status}: {message}"
            return False
        retryable = {"unavailable", "too_busy"}
        assert all(error["code"] in retryable for error in message["errors"]), message["errors"][:3]
        return bool(message["accepted"] == len(self.names))

    def find_wrong_rows(self, daemon: DaemonProcess) -> list[str]:
        """Return what is wrong in the windows, for each acknowledged row that a window should have."""
        found = []
        for number, name in enumerate(self.names):
            status, window = daemon.get(f"/v1/servers/{name}")
            assert status == 200, window
            newest = window["origin"] // STEP_SECONDS - 1
            if newest < self.acked:
                found.append(f"{name}: newest row {newest}, acknowledged {self.acked}")
                continue
            oldest = max(self.first_step, newest - len(window["values"]) + 1)
            for step in range(oldest, self.acked + 1):
                row: Any = window["values"][step - newest - 1]
                if row != self.make_row(number, step):
                    found.append(f"{name}: step {step} is {row[:3]}")
            if window["have"] != newest - oldest + 1:
                found.append(f"{name}: has {window['have']} rows, expected {newest - oldest + 1}")
        return found


def kill_part(daemon: DaemonProcess, name: str) -> None:
    """Kill a process of a daemon, and wait until another one has its place."""
    pid = find_parts(daemon)[name]
    os.kill(pid, 9)
    wait_for_part(daemon, name, other_than=pid)


def is_alive(pid: int) -> bool:
    """Whether a process runs: one that has ended may wait for its parent."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    """Wait until a condition holds."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it takes too long"
        time.sleep(0.02)


def wait_ready(daemon: DaemonProcess) -> None:
    """Wait until a daemon is ready, with all its workers."""

    def is_ready() -> bool:
        try:
            return daemon.get("/readyz") == (200, {"status": "ready"})
        except OSError:
            return False

    wait_until(is_ready)
