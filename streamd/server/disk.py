"""What a change of versions reads and writes on the disk, bounded in time: a file system may hang."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

from streamd.core.errors import RepositoryError
from streamd.runtime.background import in_background

T = TypeVar("T")


async def run_disk_work(
    what: str, seconds: float, work: Callable[[], T], release: Callable[[T], None] = lambda made: None
) -> T:
    """Run work that reads or writes files beside the loop, and return its result.

    Raises what it raises, and `RepositoryError` naming `what` where it takes longer than `seconds`; its thread is left
    behind then, and what it may still return is released.
    """
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            return await in_background(work, release)
    except TimeoutError as exc:
        if not limit.expired():
            raise
        raise RepositoryError(
            f"{what}: not done within {seconds:g} s: its file system may hang; try again once it answers, or raise "
            "read_timeout_seconds"
        ) from exc
