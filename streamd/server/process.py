"""The daemon as a process: from its start to an exit status, with no thread left behind.

A thread that still runs native code while the interpreter is taken down ends the process by SIGABRT, whatever its
status should have been. So every thread is waited for, and a process in which one does not end leaves without that.
"""

import asyncio
import os
import sys
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor

import structlog

from streamd.core.errors import StreamdError
from streamd.server.daemon import Daemon

log = structlog.get_logger(__name__)

LEAVE_SECONDS = 5.0
"""How long each is waited for: what is still being loaded, and the threads that are left."""


async def run_daemon(daemon: Daemon) -> int:
    """Run a daemon until it is told to stop; returns its exit status, after which only this thread is left.

    Where another thread does not end, the process ends here, with that status.
    """
    threads = ThreadPoolExecutor(thread_name_prefix="streamd")
    asyncio.get_running_loop().set_default_executor(threads)
    status = await _status_of(daemon)
    await _finish_tasks()
    threads.shutdown(wait=False, cancel_futures=True)
    if left := _join_threads():
        log.warning("threads_left", threads=left)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


async def _status_of(daemon: Daemon) -> int:
    try:
        return await daemon.run()
    except StreamdError as exc:
        print(f"streamd: {exc}", file=sys.stderr)  # noqa: T201 - the last word, for whoever started it
    except Exception:
        traceback.print_exc()
    return 1


async def _finish_tasks() -> None:
    """Wait for the tasks that are left: all were cancelled but those that close what a thread is still making."""
    if tasks := asyncio.all_tasks() - {asyncio.current_task()}:
        await asyncio.wait(tasks, timeout=LEAVE_SECONDS)


def _join_threads() -> list[str]:
    """Wait for every other thread; returns the names of those that still run."""
    until = time.monotonic() + LEAVE_SECONDS
    ours = (each for each in threading.enumerate() if not isinstance(each, threading._DummyThread))
    others = [each for each in ours if each is not threading.current_thread()]
    for thread in others:
        thread.join(max(until - time.monotonic(), 0.0))
    return [thread.name for thread in others if thread.is_alive()]
