"""Runs the daemon as a process and returns its exit status, with no other thread left running.

A thread that runs native code while the interpreter shuts down can end the process by SIGABRT instead of with its exit
status. So this module waits for every thread; if one does not end, it ends the process without that shutdown.
"""

import asyncio
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import structlog

from streamd.core.errors import ConfigError, StreamdError
from streamd.server.config import Config

log = structlog.get_logger(__name__)

LEAVE_SECONDS = 5.0
"""How long to wait for the tasks that are still loading something, and again for the threads that are left."""


ReadConfig = Callable[[], Config]
"""Reads the settings, at start and again on SIGHUP; raises `ConfigError`."""


class Runnable(Protocol):
    """A daemon, or a process of one."""

    async def run(self) -> int:
        """Run until a signal comes; return the exit status. Raises `StreamdError` if it cannot start."""
        ...


def watch_signals(on_stop: Callable[[int], object], on_hangup: Callable[[], object]) -> None:
    """Call `on_stop` with the number of a SIGTERM or SIGINT, and `on_hangup` on SIGHUP, on the event loop."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_stop, number)
    loop.add_signal_handler(signal.SIGHUP, on_hangup)


async def run_daemon(daemon: Runnable) -> int:
    """Run a daemon until a signal stops it; returns its exit status, after which only this thread is left.

    If another thread does not end, this function ends the process with that status.
    """
    threads = ThreadPoolExecutor(thread_name_prefix="streamd")
    asyncio.get_running_loop().set_default_executor(threads)
    status = await _run_to_status(daemon)
    await _finish_tasks()
    threads.shutdown(wait=False, cancel_futures=True)
    if left := _join_threads():
        log.warning("threads_left", threads=left)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


async def _run_to_status(daemon: Runnable) -> int:
    try:
        return await daemon.run()
    except StreamdError as exc:
        print(f"streamd: {exc}", file=sys.stderr)  # noqa: T201 - the reason, for the user or the supervisor that started it
        # As the command does for settings that cannot be read: a supervisor need not try them again.
        return 2 if isinstance(exc, ConfigError) else 1
    except Exception as exc:
        log.exception("failed", error=repr(exc))
    return 1


async def _finish_tasks() -> None:
    """Wait for the tasks that are left: those that close what a thread is still opening; all others were cancelled."""
    if tasks := asyncio.all_tasks() - {asyncio.current_task()}:
        await asyncio.wait(tasks, timeout=LEAVE_SECONDS)


def _join_threads() -> list[str]:
    """Wait for every other thread; returns the names of the threads that still run."""
    deadline = time.monotonic() + LEAVE_SECONDS
    # A dummy thread is one that native code created; it cannot be joined.
    joinable = (each for each in threading.enumerate() if not isinstance(each, threading._DummyThread))
    others = [each for each in joinable if each is not threading.current_thread()]
    for thread in others:
        thread.join(max(deadline - time.monotonic(), 0.0))
    return [thread.name for thread in others if thread.is_alive()]
