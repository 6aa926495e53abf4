"""Runs work that may wait for a disk in a thread that delays neither the event loop nor the end of the process."""

import asyncio
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


async def run_in_background(make: Callable[[], T], release: Callable[[T], None] = lambda made: None) -> T:
    """Run `make` in a daemon thread; return its result, or raise its error.

    If the caller was cancelled in the meantime, the result is released. Use it only for work in Python: a thread that
    is inside of a foreign runtime when the process ends can abort the process.
    """
    loop = asyncio.get_running_loop()
    waiting: asyncio.Future[T] = loop.create_future()

    def resolve(made: T) -> None:
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
            _call_on_loop(loop, fail, exc)
        else:
            if not _call_on_loop(loop, resolve, made):
                release(made)

    threading.Thread(target=run, name="background", daemon=True).start()
    return await waiting


def _call_on_loop(loop: asyncio.AbstractEventLoop, function: Callable[[T], None], value: T) -> bool:
    """Call a function on the loop; returns `False` if the loop is closed."""
    try:
        loop.call_soon_threadsafe(function, value)
    except RuntimeError:
        return False
    return True
