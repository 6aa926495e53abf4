"""Starts daemons as forks of a process that has imported them, one such process for each process of pytest.

What they do from then on is what a new interpreter does; tests of what is imported, and when, start a new one.
"""

import array
import atexit
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import IO, Protocol

ROOT = Path(__file__).parents[2]
START_ONLY = ("PYTHON", "LD_", "OPENBLAS_", "OMP_", "SSL_", "LISTEN_", "MALLOC_")
"""The variables that only a start reads begin so: a process that differs in one is started, and not forked."""


class StartedProcess(Protocol):
    """What tests do with a process: a part of `subprocess.Popen`."""

    @property
    def pid(self) -> int: ...

    def poll(self) -> int | None: ...

    def wait(self, timeout: float | None = None) -> int: ...

    def send_signal(self, sig: int) -> None: ...

    def terminate(self) -> None: ...

    def kill(self) -> None: ...


class ForkedProcess:
    """A process that the fork server forked, used like `subprocess.Popen`."""

    def __init__(self, report: IO[bytes]) -> None:
        """`report` gives the process id, and the exit status when the process has ended."""
        self._report = report
        self.pid = int(report.readline())
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Return the exit status, or `None` while the process runs."""
        return self._read_status(0.0)

    def wait(self, timeout: float | None = None) -> int:
        """Wait until the process has ended, and return its exit status; raises `subprocess.TimeoutExpired`."""
        status = self._read_status(timeout)
        if status is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0.0)
        return status

    def send_signal(self, sig: int) -> None:
        """Send a signal; no-op if the process has ended."""
        if self.poll() is None:
            with suppress(ProcessLookupError):  # it has ended, and its status is on the way
                os.kill(self.pid, sig)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def _read_status(self, seconds: float | None) -> int | None:
        if self.returncode is None and select.select([self._report], [], [], seconds)[0]:
            self.returncode = int(self._report.readline() or -signal.SIGKILL)  # the fork server has been killed
            self._report.close()
        return self.returncode


class ForkServerClient:
    """The connection with the fork server of this process."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            command = [sys.executable, "-m", "tests.support.fork_server", str(theirs.fileno())]
            environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}  # else numpy starts a thread
            self._process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()]
            )
        self._lock = threading.Lock()

    def fork(
        self, arguments: Sequence[str], environment: Mapping[str, str], folder: Path, output: int, errors: int
    ) -> ForkedProcess:
        """Fork a program with these arguments of Python, whose output and errors go to these descriptors."""
        request = {"arguments": list(arguments), "environment": dict(environment), "folder": str(folder)}
        reading, writing = os.pipe()
        try:
            descriptors = array.array("i", [output, errors, writing])
            with self._lock:
                self._socket.sendmsg(
                    [json.dumps(request).encode()], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)]
                )
        finally:
            os.close(writing)
        return ForkedProcess(os.fdopen(reading, "rb", buffering=0))

    def close(self) -> None:
        """End the fork server, and what it forked that still runs."""
        self._socket.close()
        self._process.wait()


@cache
def get_fork_server() -> ForkServerClient:
    """Return the fork server of this process, which starts with the first call."""
    client = ForkServerClient()
    atexit.register(client.close)
    return client


def start_python(
    arguments: Sequence[str], environment: Mapping[str, str], *, output: int, errors: int, cwd: Path | None = None
) -> StartedProcess:
    """Start Python with these arguments (`-m MODULE ...` or `-c CODE ...`), as a fork if the environment permits it.

    Its output and errors go to these descriptors.
    """
    if has_same_start(environment):
        return get_fork_server().fork(arguments, environment, cwd or Path.cwd(), output, errors)
    command = [sys.executable, *arguments]
    return subprocess.Popen(command, env=environment, cwd=cwd, stdout=output, stderr=errors)


def has_same_start(environment: Mapping[str, str]) -> bool:
    """Whether an interpreter of this environment starts as one of this process's own environment does."""
    names = {name for name in {*environment, *os.environ} if name.startswith(START_ONLY)}
    return all(environment.get(name) == os.environ.get(name) for name in names)
