"""The state folder as a whole: locked by one daemon, and marked with the boot of the machine that writes in it.

The mark says whether the files are as the last process left them. The kernel keeps every write if a process dies, but
not if the machine does: then pages of the files may be older than others.
"""

import contextlib
import fcntl
import itertools
import os
from pathlib import Path

import structlog

from streamd.core.errors import StateError
from streamd.regular_files import read_regular, require_regular, sync_folder

log = structlog.get_logger(__name__)

STATE_LOCK_NAME = "lock"

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

CLEAN = b"clean"
"""The mark of a folder whose files were closed and written to the disk."""

_MARK_BYTES = 64
"""Every mark has this length, so that another one needs no space on a full disk."""


class StateFolder:
    """A locked state folder; raises `StateError` if it cannot be used, or another process has it open.

    `is_torn` is true if the files may have pages of different ages: the machine went down while they were open, they
    were copied meanwhile, or there is no mark. Call `mark_in_use` before the files are changed; if they are torn, after
    they were rebuilt and flushed.
    """

    def __init__(self, path: Path, boot_id: Path = BOOT_ID) -> None:
        self.path = path
        self._boot = _read_boot(boot_id)
        lock = path / STATE_LOCK_NAME
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._fd: int | None = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o640)
        except OSError as exc:
            raise StateError(f"{lock}: cannot be opened: {exc.strerror or exc}") from exc
        try:
            require_regular(self._fd, lock)
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            mark = os.pread(self._fd, _MARK_BYTES, 0).rstrip(b"\n")
        except BlockingIOError as exc:
            os.close(self._fd)
            raise StateError(f"{path}: another process has it open; one state folder serves one daemon") from exc
        except OSError as exc:
            os.close(self._fd)
            raise StateError(f"{lock}: cannot be used: {exc.strerror or exc}") from exc
        self._is_new = not mark
        self.was_clean = mark == CLEAN
        """Whether the former process closed the files."""
        self.is_torn = not self.was_clean and (not self._boot or mark != self._boot)

    def mark_in_use(self) -> None:
        """Mark the folder with this boot, on the disk; if that fails, the next start takes its files for torn."""
        self._write_mark(self._boot)

    def mark_clean(self) -> None:
        """Mark that all files were closed and flushed."""
        self._write_mark(CLEAN)

    @property
    def is_closed(self) -> bool:
        """Whether the folder was released."""
        return self._fd is None

    def close(self) -> None:
        """Release the folder. A second call is a no-op."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _write_mark(self, mark: bytes) -> None:
        assert self._fd is not None, f"{self.path} is closed"
        try:
            os.pwrite(self._fd, mark.ljust(_MARK_BYTES, b"\n"), 0)
            os.fdatasync(self._fd)
            if self._is_new:
                sync_folder(self.path)
                self._is_new = False
        except OSError as exc:
            # Whatever the file has then is not the mark of a folder in order, or it is that of this boot.
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, 0)
            log.warning("state_not_marked", folder=str(self.path), reason=exc.strerror or str(exc))


class SharedFolder:
    """A state folder that another process of this daemon has locked."""

    is_torn = False
    was_clean = False
    is_closed = True

    def mark_in_use(self) -> None:
        """Do nothing: the other process marks it."""

    def mark_clean(self) -> None:
        """Do nothing: the other process marks it."""

    def close(self) -> None:
        """Do nothing: the other process releases it."""


def find_free_name(path: Path) -> Path:
    """Return a path beside a file that does not exist."""
    names = (path.with_name(f"{path.name}.{number}.old") for number in itertools.count(1))
    return next(name for name in names if not name.exists())


def _read_boot(path: Path) -> bytes:
    """Return the identifier of this boot; empty if the system has none."""
    try:
        return read_regular(path).strip()[:_MARK_BYTES]
    except OSError:
        return b""
