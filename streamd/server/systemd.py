"""Reports the daemon's state to systemd by the datagrams of sd_notify(3): ready, reloading, alive, still starting.

Implemented here because the protocol is one datagram, and the bindings need the headers of libsystemd to install.
"""

import asyncio
import os
import resource
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

import structlog

log = structlog.get_logger(__name__)

EXTEND_CHECK_SECONDS = 5.0
"""The interval at which a slow start is checked for work."""

EXTENSION_SECONDS = 60.0
"""The time that systemd waits on after each check that found work."""

MAX_EXTENDED_SECONDS = 3_600.0
"""No start is extended for longer: a thread that loops without end works as well."""

BUSY_SHARE = 0.01
"""A process that used this share of one core has worked; its timers alone use far less."""


class Notifier:
    """Sends states to the socket that systemd gave; a no-op without one."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        path = environ.get("NOTIFY_SOCKET", "")
        # A leading @ stands for the leading zero byte of the abstract namespace.
        self._address = "\0" + path[1:] if path.startswith("@") else path
        self.watchdog_seconds = _read_watchdog_seconds(environ)
        """The interval within which systemd expects a `WATCHDOG=1`; `None` if it does not watch."""

    def notify(self, **states: str) -> None:
        """Send states such as `READY="1"`; an error of the socket is ignored, since the daemon serves without it."""
        if not self._address:
            return
        datagram = "\n".join(f"{name}={value}" for name, value in states.items()).encode()
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as sender:
            try:
                sender.sendto(datagram, self._address)
            except OSError:
                return

    def notify_reloading(self) -> None:
        """Report the begin of a reload; under `Type=notify-reload` systemd waits for the next `READY=1`."""
        self.notify(RELOADING="1", MONOTONIC_USEC=str(time.monotonic_ns() // 1_000))

    def notify_stopping(self, within_seconds: float) -> None:
        """Report the begin of a stop that takes at most this long, whatever `TimeoutStopSec=` says."""
        self.notify(STOPPING="1", EXTEND_TIMEOUT_USEC=_format_microseconds(within_seconds))

    def extend_timeout(self, seconds: float) -> None:
        """Let systemd wait for so many more seconds from now on, if its own timeout would end before."""
        self.notify(EXTEND_TIMEOUT_USEC=_format_microseconds(seconds))


# ---------------------------------------------------------------- watchdog
async def feed_watchdog(notifier: Notifier, find_stall: Callable[[], str]) -> None:
    """Feed systemd's watchdog at half its interval, as long as `find_stall` returns no reason; ends without a watchdog.

    Called on the event loop: a loop that hangs feeds nothing either. systemd then ends the daemon and starts it anew.
    """
    interval = notifier.watchdog_seconds
    was_stuck = False
    while interval is not None:
        if not (reason := find_stall()):
            notifier.notify(WATCHDOG="1")
        elif not was_stuck:
            log.error("watchdog_starves", reason=reason, seconds=interval)
            notifier.notify(STATUS=f"stuck: {reason}")
        was_stuck = bool(reason)
        await asyncio.sleep(interval / 2)


# ---------------------------------------------------------------- slow starts
@dataclass(frozen=True, slots=True)
class ProcessWork:
    """The work of this process since its start."""

    cpu_seconds: float
    disk_blocks: int
    """Blocks that were read from disks and written to them."""

    def exceeds(self, before: "ProcessWork", seconds: float) -> bool:
        """Whether the process worked in the `seconds` since `before`: it used a core, or moved blocks."""
        is_busy = self.cpu_seconds - before.cpu_seconds > BUSY_SHARE * seconds
        return is_busy or self.disk_blocks != before.disk_blocks


def measure_work() -> ProcessWork:
    """Measure the work of this process with all its threads."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return ProcessWork(usage.ru_utime + usage.ru_stime, usage.ru_inblock + usage.ru_oublock)


@asynccontextmanager
async def extending_start(
    notifier: Notifier,
    *,
    measure: Callable[[], ProcessWork] = measure_work,
    check_seconds: float = EXTEND_CHECK_SECONDS,
) -> AsyncIterator[None]:
    """Extend the start timeout while the block runs and the process works, for `MAX_EXTENDED_SECONDS` at most.

    Opening a large state may rightly take longer than any timeout in a unit. A start that hangs, as on a disk that does
    not answer, does no work, and systemd ends it in its own time.
    """
    extending = asyncio.create_task(_extend_regularly(notifier, measure, check_seconds))
    try:
        yield
    finally:
        extending.cancel()
        await asyncio.gather(extending, return_exceptions=True)


async def _extend_regularly(notifier: Notifier, measure: Callable[[], ProcessWork], check_seconds: float) -> None:
    before, extended = measure(), 0.0
    while extended < MAX_EXTENDED_SECONDS:
        await asyncio.sleep(check_seconds)
        extended += check_seconds
        now = measure()
        if now.exceeds(before, check_seconds):
            notifier.extend_timeout(EXTENSION_SECONDS)
        before = now


def _format_microseconds(seconds: float) -> str:
    return str(round(seconds * 1e6))


def _read_watchdog_seconds(environ: Mapping[str, str]) -> float | None:
    pid = environ.get("WATCHDOG_PID")
    if pid is not None and pid != str(os.getpid()):
        return None
    text = environ.get("WATCHDOG_USEC", "")
    return int(text) / 1e6 if text.isascii() and text.isdigit() and int(text) else None
