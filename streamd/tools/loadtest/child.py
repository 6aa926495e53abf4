"""A daemon as a child process of the demo. Starts and stops it; knows nothing of replays."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from streamd.tools.loadtest.errors import ReplayError

READY_POLL_SECONDS = 0.1
LOG_LINES = 20
HOST = "127.0.0.1"


class ChildError(ReplayError):
    """The daemon did not start, or ended when it should not have."""


class ChildDaemon:
    """A `streamd serve` process with its state and its log in one folder."""

    def __init__(self, engines: Path, folder: Path, port: int, settings: Path | None = None) -> None:
        """Prepare a daemon with these engine versions; a file of `settings` has what it shall not have by default."""
        self.url = f"http://{HOST}:{port}"
        self.log = folder / "streamd.log"
        self._command = [sys.executable, "-m", "streamd", "serve", "--engines", str(engines)]
        self._command += [] if settings is None else ["--config", str(settings)]
        self._command += ["--host", HOST, "--port", str(port), "--state-dir", str(folder / "state")]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process id. Must have been started."""
        assert self._process is not None
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether the process was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the process in a session of its own, so that Ctrl-C here does not reach it."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def wait_ready(self, seconds: float) -> None:
        """Wait until `/readyz` answers 200. Raises `ChildError` with the end of the log."""
        give_up_at = time.monotonic() + seconds
        while time.monotonic() < give_up_at:
            assert self._process is not None
            status = self._process.poll()
            if status is not None:
                raise ChildError(f"the daemon ended with {status} before it was ready\n{self.read_log_tail()}")
            if self._is_ready():
                return
            time.sleep(READY_POLL_SECONDS)
        raise ChildError(f"the daemon was not ready after {seconds:g} s\n{self.read_log_tail()}")

    def stop(self, seconds: float = 15.0) -> int | None:
        """Ask the process to drain, and kill it after `seconds`. Returns its exit status, or `None` if it never ran."""
        if self._process is None:
            return None
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(seconds)
            except subprocess.TimeoutExpired:
                self._process.kill()
        return self._process.wait()

    def detach(self) -> None:
        """Leave the process running after this one ends."""
        if self._process is not None:
            # Popen warns when its object is destroyed while the child runs; here that is intended.
            self._process.returncode = 0
            self._process = None

    def read_log_tail(self) -> str:
        """Return the end of the log, indented."""
        lines = self.log.read_text(errors="replace").splitlines()[-LOG_LINES:] if self.log.exists() else []
        return "\n".join([f"the end of {self.log}:", *(f"  {line}" for line in lines)])

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/readyz", timeout=2.0) as response:
                return bool(response.status == 200)
        except OSError:  # The daemon does not listen yet, or answers 503 because it is not ready.
            return False


def find_free_port(preferred: int | None = None) -> int:
    """Return the `preferred` port if it is free, otherwise one that the system picks. Raises `ChildError`."""
    for port in (preferred, 0):
        if port is None:
            continue
        with contextlib.suppress(OSError), socket.socket() as probe:
            if os.name == "posix":
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((HOST, port))
            return int(probe.getsockname()[1])
    raise ChildError("no free port")
