"""A program on a host: started, killed, stopped, paused. It ends when the process that started it does."""

import asyncio
import os
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.cluster.network import Host
from benchmarks.harness import ROOT, read_cpu_seconds

STOP_SECONDS = 60.0
POLL_SECONDS = 0.05


class Program:
    """One program, which may be started again; its output is appended to `log`."""

    def __init__(self, host: Host, log: Path) -> None:
        self.host = host
        self.log = log
        self.cores: Sequence[int] = ()
        """The cores that it may use; all that the one who starts it may, if empty."""
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The process that runs, `None` if there is none."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    def start(self, command: Sequence[str], environ: Mapping[str, str] | None = None) -> None:
        """Start it on its host."""
        guard = ("setpriv", "--pdeathsig", "KILL") if shutil.which("setpriv") else ()
        if self.cores:
            guard = (*guard, "taskset", "--cpu-list", ",".join(map(str, self.cores)))
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*guard, *self.host.prefix, *command],
                cwd=ROOT,
                env=dict(environ or os.environ),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # an interrupt from the terminal reaches only the one who started it
            )

    def read_last_line(self) -> str:
        """Return the last line of its output, at most 500 characters."""
        lines = self.log.read_text(errors="replace").splitlines()
        return lines[-1][:500] if lines else ""

    def kill(self) -> None:
        """Kill it, if it runs."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    async def stop(self) -> int:
        """Let it end; returns its exit status. Kills it and raises `TimeoutError` after `STOP_SECONDS`."""
        assert self._process is not None
        self._process.terminate()
        try:
            async with asyncio.timeout(STOP_SECONDS):
                while self._process.poll() is None:
                    await asyncio.sleep(POLL_SECONDS)
        except TimeoutError:
            self.kill()
            raise
        return self._process.returncode

    def pause(self) -> None:
        """Stop its process, which knows nothing of it."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a paused process go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def read_cpu_seconds(self) -> float:
        """Return the CPU seconds of the process that runs."""
        assert self.pid is not None
        return read_cpu_seconds(self.pid)
