"""A daemon as its users start it: a process with a log, signals and a port."""

import http.client
import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from tests.support.forked_processes import StartedProcess, start_python
from tests.support.tiny_version import get_tiny_engines

ROOT = Path(__file__).parents[2]
NEED = 6

SMALL = {
    "STREAMD_PORT": "0",
    "STREAMD_MAX_SERVERS": "256",
    "STREAMD_MIN_CONTEXT_ROWS": str(NEED),
    "STREAMD_WARMUP_SECONDS": "0.05",
    "STREAMD_LANES": "1",
    "STREAMD_BUCKETS": "1,8",
    "STREAMD_BACKEND": "onnxruntime-cpu",
    "STREAMD_LOG_FORMAT": "json",
}
"""The settings of a daemon that is ready at once, but for its engine versions."""


def make_small_settings() -> dict[str, str]:
    """Return the settings of a daemon that is ready at once, with the tiny version."""
    return {**SMALL, "STREAMD_ENGINES": str(get_tiny_engines())}


def make_environment(more: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of this process without settings of a daemon, and with `more`."""
    ours = ("STREAMD_", "NOTIFY_SOCKET", "WATCHDOG_")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return {**clean, **more}


def run_command(*arguments: str, cwd: Path, **env: str) -> "subprocess.CompletedProcess[str]":
    """Run `streamd` with these arguments until it ends."""
    return run_python("-m", "streamd", *arguments, cwd=cwd, **env)


def run_python(*command: str, cwd: Path, **env: str) -> "subprocess.CompletedProcess[str]":
    """Run Python with these arguments (`-m MODULE ...` or `-c CODE ...`) until it ends."""
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        process = start_python(command, make_environment(env), cwd=cwd, output=output.fileno(), errors=errors.fileno())
        status = process.wait()
        texts = [os.pread(each.fileno(), 2**24, 0).decode() for each in (output, errors)]
    return subprocess.CompletedProcess(command, status, *texts)


@dataclass
class DaemonProcess:
    """One daemon and the lines of its log that were read."""

    process: StartedProcess
    log: IO[bytes]
    """What it writes to standard error."""
    port: int = 0
    state_dir: Path | None = None
    lines: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def start(cls, state_dir: Path, *arguments: str, env: Mapping[str, str] | None = None) -> "DaemonProcess":
        """Start a daemon and wait until it listens; it may not be ready yet."""
        daemon = cls.begin(state_dir, *arguments, env=env)
        daemon.port = daemon.wait_for("listening")["port"]
        return daemon

    @classmethod
    def begin(
        cls,
        state_dir: Path,
        *arguments: str,
        env: Mapping[str, str] | None = None,
        program: Sequence[str] = ("-m", "streamd"),
    ) -> "DaemonProcess":
        """Start a daemon without waiting until it listens; `program` is the argument of Python."""
        command = [*program, "serve", "--state-dir", str(state_dir), *arguments]
        reading, writing = os.pipe()
        log = os.fdopen(reading, "rb")
        try:
            process = start_python(
                command, make_environment({**make_small_settings(), **(env or {})}), output=1, errors=writing
            )
        except BaseException:
            log.close()
            raise
        finally:
            os.close(writing)
        return cls(process, log, state_dir=state_dir)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def wait_for(self, event: str) -> dict[str, Any]:
        """Read the log until this event and return its line."""
        for line in self.log:
            entry = read_event(line)
            self.lines.append(entry)
            if entry["event"] == event:
                return entry
        raise AssertionError(f"the daemon ended without {event!r}: {self.lines}")

    def get(self, path: str) -> tuple[int, Any]:
        return self.call("GET", path)

    def call(self, method: str, path: str, message: Any = None, **headers: str) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port)
        try:
            body = None if message is None else json.dumps(message)
            connection.request(method, path, body, headers | ({"Content-Type": "application/json"} if body else {}))
            response = connection.getresponse()
            data = response.read()
        finally:
            connection.close()
        is_json = response.headers.get_content_type() == "application/json"
        return response.status, json.loads(data) if is_json else data.decode()

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self) -> int:
        """Read the log to its end, wait for the process, and return its exit status."""
        self.lines += [read_event(line) for line in self.log]
        return self.process.wait()

    def end(self) -> None:
        """Kill the process if it still runs, and release its pipe."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.log.close()


def read_event(line: bytes) -> dict[str, Any]:
    """Return a line of the log; the error shows what a daemon wrote to standard error beside it."""
    try:
        entry = json.loads(line)
    except ValueError as exc:
        raise AssertionError(f"the daemon wrote {line!r}, expected an event") from exc
    assert isinstance(entry, dict)
    return entry


def make_whole_rows(server: str, steps: Sequence[int], features: Sequence[str]) -> list[dict[str, Any]]:
    """Make whole rows of one server, as samples; all values differ and are exact in float32."""
    number = sum(server.encode())
    return [
        {
            "server": server,
            "time": 1_700_000_100 + 300 * step,
            "values": {name: number + step / 8 + place for place, name in enumerate(features)},
        }
        for step in steps
    ]
