"""Files that are read again when they change. Waits for nothing: a thread calls it, at its own interval."""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from streamd.core.errors import ConfigError

T = TypeVar("T")

SETTLED_SECONDS = 1.0
"""A file that changed more recently is read again at the next check.

Its next change might get the same time: the clocks of file systems advance in steps of some milliseconds.
"""

FileStamp = tuple[int, ...] | None
"""The inode, size, times, mode and owner of a file; `None` if there is no such file."""


@dataclass(frozen=True)
class Reread(Generic[T]):
    """The outcome of reading changed files: the value, or the reason why there is no value."""

    value: T | None = None
    error: str = ""


class WatchedFiles(Generic[T]):
    """Files from which one value is read, at construction and after each change; `read` raises `ConfigError`.

    `name` is the one of the log and the metrics. The constructor raises what `read` raises: a daemon does not start
    with files that it cannot use.
    """

    def __init__(
        self, name: str, paths: Sequence[Path], read: Callable[[], T], clock: Callable[[], float] = time.time
    ) -> None:
        self.name = name
        self._paths = paths
        self._read = read
        self._clock = clock
        self._seen = self._take_stamps()
        self.first = read()
        self._last = Reread(self.first)

    def check(self, *, is_requested: bool = False) -> Reread[T] | None:
        """Read the files again if they changed; return `None` if they give what they gave before.

        If it `is_requested`, they are read whether or not they seem to have changed, and an error is returned again.
        """
        stamps = self._take_stamps()
        if stamps is not None and stamps == self._seen and not is_requested:
            return None
        self._seen = stamps
        outcome = self._read_outcome()
        if outcome == self._last and not (is_requested and outcome.error):
            return None
        self._last = outcome
        return outcome

    def _read_outcome(self) -> Reread[T]:
        try:
            return Reread(self._read())
        except ConfigError as exc:
            return Reread(error=str(exc))

    def _take_stamps(self) -> "list[FileStamp] | None":
        """Return the stamps of the files, or `None` if one changed so recently that it may change within its stamp."""
        stamps: list[FileStamp] = []
        settled_before_ns = (self._clock() - SETTLED_SECONDS) * 1e9
        for path in self._paths:
            try:
                status = path.stat()
            except OSError:
                stamps.append(None)
                continue
            if max(status.st_mtime_ns, status.st_ctime_ns) > settled_before_ns:
                return None
            stamps.append(_make_stamp(status))
        return stamps


def _make_stamp(status: os.stat_result) -> FileStamp:
    times = (status.st_mtime_ns, status.st_ctime_ns)
    return (status.st_dev, status.st_ino, status.st_size, *times, status.st_mode, status.st_uid)
