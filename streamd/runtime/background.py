"""Runs what may wait for a disk in a thread that holds up neither the event loop nor the process's end."""

import asyncio
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


async def run_in_background(make: Callable[[], T], release: Callable[[T], None] = lambda made: None) -> T:
    """Run `make` in a daemon thread and return what it returns, or raise what it raises.

    Where nobody waits for the result any more when it comes, it is released. Use it only for work in Python: a thread
    that is within a foreign runtime when the process ends can abort it.
    """
    loop = asyncio.get_running_loop()
    waiting: asyncio.Future[T] = loop.create_future()

    def give(made: T) -> None:
        if waiting.done():
            release(made)
        else:
            waiting.set_result(made)

    def fail(error: Exception) -> None:
        if not waiting.done():
            waiting.set_exception(error)

    def run() -> None:
        try:
            made = make()
        except Exception as exc:
            _call(loop, fail, exc)
        else:
            if not _call(loop, give, made):
                release(made)

    threading.Thread(target=run, name="background", daemon=True).start()
    return await waiting


def _call(loop: asyncio.AbstractEventLoop, function: Callable[[T], None], value: T) -> bool:
    """Call a function on the loop; false where the loop is closed."""
    try:
        loop.call_soon_threadsafe(function, value)
    except RuntimeError:
        return False
    return True
