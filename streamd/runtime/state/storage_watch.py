"""Writes the state through to the disk at intervals, and watches whether its file system can be written.

A full or read-only disk does not end the daemon: servers that it knows are in memory and go on, new ones and the points
of other agents are refused. So it is reported, and checked again until it is over.
"""

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import structlog

from streamd.core.errors import StorageError
from streamd.runtime.background import run_in_background

log = structlog.get_logger(__name__)

CHECK_SECONDS = 2.0
"""The interval of checks."""

STATFS_SECONDS = 10.0
"""A file system that does not answer for this time is reported."""

MIN_FREE_BYTES = 4 * 2**20
"""Free space below which the disk counts as full: the slots of new servers are reserved in pieces of 2 MB."""


class StorageWatch:
    """The condition of the state folder; `problem` is `None` while it can be written.

    `flush` blocks until everything is on the disk. `find_shortage` returns why not even known servers can be written.
    """

    def __init__(
        self,
        folder: Path,
        flush: Callable[[], None],
        find_shortage: Callable[[], StorageError | None],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.problem: str | None = None
        self.flush_seconds = 0.0
        """The time that the last flush took."""
        self._folder = folder
        self._flush = flush
        self._find_shortage = find_shortage
        self._clock = clock
        self._flushed_at = clock()  # when the last flush that ended without an error began
        self._flush_problem: str | None = None
        self.on_flush: Callable[[StorageError | None], None] = lambda error: None
        """Called after each flush, with its error if it failed."""

    @property
    def unsynced_seconds(self) -> float:
        """The age of the oldest change that may not be on the disk."""
        return self._clock() - self._flushed_at

    def describe(self) -> dict[str, Any]:
        """Return the entry `state_folder` of `/v1/status`."""
        return {
            "problem": self.problem,
            "unsynced_seconds": round(self.unsynced_seconds, 3),
            "flush_seconds": round(self.flush_seconds, 6),
        }

    async def flush_regularly(self, interval_seconds: float, prepare: Callable[[], None]) -> None:
        """Flush until cancelled; `prepare` is called on the loop before each flush."""
        while True:
            await asyncio.sleep(interval_seconds)
            prepare()
            await self.flush_once()

    async def flush_once(self) -> None:
        """Write everything through to the disk, in a thread; an error is reported as the `problem`."""
        began = self._clock()
        try:
            await run_in_background(self._flush)
        except OSError as exc:
            log.error("flush_failed", folder=str(self._folder), error=exc.strerror or str(exc))
            self._flush_problem = f"the state cannot be written to the disk: {exc.strerror or exc}"
            self.on_flush(StorageError(self._flush_problem))
        else:
            self._flush_problem, self._flushed_at = None, began
            self.on_flush(None)
        self.flush_seconds = self._clock() - began

    async def check_regularly(self) -> None:
        """Check until cancelled."""
        while True:
            await self.check_once()
            await asyncio.sleep(CHECK_SECONDS)

    async def check_once(self) -> None:
        """Check the file system, in a thread, because it may hang."""
        try:
            async with asyncio.timeout(STATFS_SECONDS):
                found = await run_in_background(lambda: find_problem(self._folder))
        except TimeoutError:
            found = f"{self._folder}: its file system does not answer"
        shortage = self._find_shortage()
        self._note(found or (str(shortage) if shortage is not None else None) or self._flush_problem)

    def _note(self, problem: str | None) -> None:
        before, self.problem = self.problem, problem
        if problem is not None and before is None:
            log.error("storage_degraded", problem=problem)
        elif problem is None and before is not None:
            log.info("storage_recovered", problem=before)


def find_problem(folder: Path) -> str | None:
    """Return why a folder cannot be written, `None` if it can."""
    try:
        found = os.statvfs(folder)
    except OSError as exc:
        return f"{folder}: {exc.strerror or exc}"
    if found.f_flag & os.ST_RDONLY:
        return f"{folder}: its file system is read-only"
    free = found.f_bavail * found.f_frsize
    if free < MIN_FREE_BYTES:
        return f"{folder}: {free} bytes are free, new servers and points need {MIN_FREE_BYTES}"
    return None
