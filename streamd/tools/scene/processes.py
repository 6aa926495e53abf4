"""The processes of a scene: each has its own session and a log, and is ended in every case.

Knows nothing about the programs that it runs.
"""

import os
import random
import shutil
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from streamd.tools.loadtest.child import HOST
from streamd.tools.loadtest.errors import ReplayError

LOG_TAIL_LINES = 12
STOP_SECONDS = 10.0
EPHEMERAL_PORTS = Path("/proc/sys/net/ipv4/ip_local_port_range")
LOWEST_PORT = 20_000


class SceneError(ReplayError):
    """The scene cannot go on."""


class SceneProcess:
    """A program that runs until it is stopped, and is killed with its children if this process ends before it."""

    def __init__(
        self, name: str, command: Sequence[str], folder: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        self._command = list(command)
        self._folder = folder
        self._environment = {**os.environ, **(environment or {})}
        self._process: subprocess.Popen[bytes] | None = None
        self._has_group = False

    @property
    def is_running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the program; its output is appended to the log. Raises `SceneError`."""
        # If the scene itself is killed, the kernel kills the program: nothing else could stop it then.
        tether = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []
        try:
            with self.log.open("ab") as log:
                self._process = subprocess.Popen(
                    [*tether, *self._command],
                    cwd=self._folder,
                    env=self._environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            self._has_group = True
        except OSError as error:
            raise SceneError(f"{self.name} does not start: {error}") from error

    def kill(self) -> None:
        """Kill the program at once, with its children, and wait for its end."""
        if self._process is None or not self._has_group:
            return
        with suppress(ProcessLookupError, PermissionError):  # The whole group has ended already.
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._has_group = False  # Another process may get its number now.

    def request_stop(self) -> None:
        """Ask the program to end, and do not wait."""
        if self.is_running:
            assert self._process is not None
            self._process.terminate()

    def stop(self, seconds: float = STOP_SECONDS) -> None:
        """Ask the program to end, and kill what is left of it and its children after `seconds`."""
        self.request_stop()
        if self._process is not None:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(seconds)
        self.kill()

    def check_running(self) -> None:
        """Raise `SceneError` with the end of the log if the program has ended."""
        if not self.is_running:
            assert self._process is not None
            raise SceneError(f"{self.name} ended with {self._process.returncode}\n{self.read_log_tail()}")

    def read_log(self) -> str:
        """Return the whole log."""
        return self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""

    def read_log_tail(self) -> str:
        """Return the end of the log, indented."""
        lines = self.read_log().splitlines()[-LOG_TAIL_LINES:]
        return "\n".join([f"the end of {self.log}:", *(f"  {line[:300]}" for line in lines)])


def stop_processes(processes: Sequence[SceneProcess]) -> None:
    """Stop programs side by side."""
    for process in processes:
        process.request_stop()
    for process in processes:
        process.stop()


def find_lasting_port() -> int:
    """Return a free port that no outgoing connection gets, so that it stays free while its program is away.

    An ephemeral port would not work: a client that keeps connecting to a port without a listener may get the same port
    for its own side, and is then connected to itself. Raises `SceneError`.
    """
    highest = int(EPHEMERAL_PORTS.read_text().split()[0]) if EPHEMERAL_PORTS.exists() else 32_768
    ports = list(range(LOWEST_PORT, highest))
    random.shuffle(ports)
    for port in ports:
        with suppress(OSError), socket.socket() as probe:
            probe.bind((HOST, port))
            return port
    raise SceneError(f"no free port from {LOWEST_PORT} to {highest}")
