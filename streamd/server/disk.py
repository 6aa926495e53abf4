"""Runs work that reads or writes files in a thread, bounded in time, because a file system may hang.

The event loop waits for the result and never opens a file itself.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from streamd.core.errors import RepositoryError
from streamd.runtime.background import run_in_background

T = TypeVar("T")


async def run_disk_work(
    what: str, seconds: float, work: Callable[[], T], release: Callable[[T], None] = lambda made: None
) -> T:
    """Run `work` in a background thread and return its result.

    Raises what `work` raises, and `RepositoryError` naming `what` if it takes longer than `seconds`. In that case its
    thread is left behind, and `release` is called with the result if there is one later.
    """
    return await bound_disk_work(what, seconds, run_in_background(work, release))


async def bound_disk_work(what: str, seconds: float, work: Awaitable[T]) -> T:
    """Return the result of `work`, which waits for a disk.

    Raises what `work` raises, and `RepositoryError` naming `what` if it takes longer than `seconds`.
    """
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            return await work
    except TimeoutError as exc:
        if not limit.expired():  # the work itself raised it
            raise
        raise RepositoryError(
            f"{what}: not done within {seconds:g} s: its file system may hang; try again once it answers, or raise "
            "read_timeout_seconds"
        ) from exc
