"""One process of the daemon, as its supervisor sees it: started, told what to do, watched, and started again."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress

import msgspec
import structlog

from streamd.core.names import PART_FLAG
from streamd.server.workers.plan import PartPlan, encode_plan
from streamd.server.workers.states import DRAINED, OPENED, StateReceiver

log = structlog.get_logger(__name__)

FIRST_DELAY_SECONDS = 0.05
"""The time after which a process that ended is started again, for the first time."""

LAST_DELAY_SECONDS = 15.0
"""That time doubles up to this one while the process ends before it is ready."""

_SYSTEMD_VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")


class RestartDelays:
    """The time to wait before each start of a process that ends again and again."""

    def __init__(self) -> None:
        self._next_seconds = FIRST_DELAY_SECONDS

    def choose_delay(self, *, was_ready: bool) -> float:
        """Return the seconds to wait after a run in which the process became ready, or did not."""
        if was_ready:
            self._next_seconds = FIRST_DELAY_SECONDS
        delay, self._next_seconds = self._next_seconds, min(2 * self._next_seconds, LAST_DELAY_SECONDS)
        return delay


class Part:
    """One process; `make_plan` gives its plan at each start, `on_state` is called after each state that it reports."""

    def __init__(
        self,
        make_plan: Callable[[], PartPlan],
        on_state: Callable[["Part", Mapping[str, str]], None],
        watchdog_seconds: float | None = None,
    ) -> None:
        plan = make_plan()
        self.name, self.role, self.number = plan.name, plan.role, plan.number
        self.run_number = -1
        """Counts its starts."""
        self.is_ready = False
        """Whether it serves now."""
        self.was_ready = False
        """Whether it has served since the daemon started."""
        self.has_served = False
        """Whether it was ready in its last run, or is."""
        self.has_opened = False
        """Whether it has reported that the state is open."""
        self.fed = 0.0
        """When it last reported that it is alive (monotonic seconds)."""
        self.drained = asyncio.Event()
        """Set when nothing is left that it took, or it has ended."""
        self.ended = asyncio.Event()
        """Set while no process runs."""
        self.ended.set()
        self._make_plan = make_plan
        self._on_state = on_state
        self.watchdog_seconds = watchdog_seconds
        """The time within which it reports that it is alive; `None` if it is not watched."""
        self._process: asyncio.subprocess.Process | None = None
        self._early_commands: list[bytes] = []
        self._states = StateReceiver(os.path.join(plan.folder, f"{plan.role}{plan.number}.notify"), self._handle_state)

    async def run(self) -> int:
        """Start the process and wait until it ends; returns its exit status, negative if a signal ended it."""
        self.run_number += 1
        plan = msgspec.structs.replace(self._make_plan(), run=self.run_number)
        self._early_commands = []
        self.drained.clear()
        self.ended.clear()
        self.has_served = False
        self.fed = time.monotonic()
        try:
            self._process = await asyncio.create_subprocess_exec(
                *make_command(plan),
                stdin=subprocess.PIPE,
                env=self._make_environment(),
                pass_fds=plan.descriptors,
                start_new_session=True,  # a terminal signals the supervisor alone, which knows the order of a stop
            )
            for line in self._early_commands:
                self._write(line)
            log.debug("part_started", part=self.name, pid=self._process.pid)
            return await self._process.wait()
        finally:
            if self._process is not None and self._process.returncode is None:
                self.kill()
            self._states.receive_rest()
            self._process = None
            self.is_ready = False
            self.drained.set()
            self.ended.set()

    @property
    def pid(self) -> int | None:
        """The identifier of the process, `None` while none runs."""
        return None if self._process is None else self._process.pid

    def command(self, name: str, argument: str = "") -> None:
        """Send a command; a no-op if no process runs."""
        line = f"{name} {argument}\n".encode()
        if self._process is None:
            self._early_commands.append(line)  # for the one that is being started; else nobody reads it
        else:
            self._write(line)

    def _write(self, line: bytes) -> None:
        if self._process is not None and self._process.stdin is not None:
            with suppress(ConnectionError, RuntimeError):  # it is ending
                self._process.stdin.write(line)

    def kill(self) -> None:
        """End the process at once."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.kill()

    def close(self) -> None:
        """Receive no more states."""
        self._states.close()

    def _make_environment(self) -> dict[str, str]:
        environment = {name: value for name, value in os.environ.items() if name not in _SYSTEMD_VARIABLES}
        environment["NOTIFY_SOCKET"] = self._states.path
        if self.watchdog_seconds is not None:
            environment["WATCHDOG_USEC"] = str(round(self.watchdog_seconds * 1e6))
        return environment

    def _handle_state(self, state: Mapping[str, str]) -> None:
        self.fed = time.monotonic()
        if "READY" in state:
            self.is_ready = self.was_ready = self.has_served = True
        if "RELOADING" in state:
            self.is_ready = False
        if OPENED in state:
            self.has_opened = True
        if DRAINED in state:
            self.drained.set()
        self._on_state(self, state)


def make_command(plan: PartPlan) -> list[str]:
    """Return the command of a part: that of this process, with the plan."""
    return [sys.executable, *sys.orig_argv[1:], PART_FLAG, encode_plan(plan)]
