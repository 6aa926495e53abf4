"""Changes files and folders atomically, and locks repositories and versions between processes.

The locks are the kernel's (`flock`): a lock ends with its process, however that ends, so none is ever stale. This
module knows names of files, not their content.
"""

import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

from streamd.core.errors import RepositoryError
from streamd.regular_files import require_regular, sync_folder

LOCK_NAME = ".promoted.lock"
REMOVING_PREFIX = ".removing-"
"""The beginning of the name of a folder that is being removed; no version's name begins with a dot."""

BUILDING_PREFIX = ".building-"
"""The beginning of the name of a version that is being built; the process that builds it holds it (`VersionHold`)."""

NO_FOLDER = "no such folder of engine versions; --engines or `engines` in [engine] names it"
"""The error of a repository that is not there."""


class VersionHold:
    """A shared lock on a version's folder; while it is open, `gc` does not remove the version.

    A process that loads from the folder holds it (a daemon reads it again when it rebuilds a lane). Any number of
    processes may hold the same version. Raises `RepositoryError` if the folder cannot be opened or was just removed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd: int | None = None
        try:
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as exc:
            raise RepositoryError(f"{path}: cannot be held: {exc.strerror or exc}") from exc
        # This waits only for a claim, which lasts for one renaming. On a file system without locks it fails, and so
        # does each claim: there `gc` removes no version.
        with suppress(OSError):
            fcntl.flock(fd, fcntl.LOCK_SH)
        if not _is_same_folder(path, fd):
            os.close(fd)
            raise RepositoryError(f"{path}: was removed just now; choose again")
        self._fd = fd

    def __enter__(self) -> "VersionHold":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the lock; a second call does nothing."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


@contextmanager
def claim_folder(path: Path) -> Iterator[bool]:
    """Claim a folder for its removal, and yield whether it is free; until the end no process can hold a free one."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        yield False
        return
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            is_free = False  # it is held, or the file system has no locks
        else:
            is_free = True
        yield is_free
    finally:
        os.close(fd)


def is_held(path: Path) -> bool:
    """Whether a process holds this folder; true on a file system without locks."""
    with claim_folder(path) as is_free:
        return not is_free


@contextmanager
def lock_repository(root: Path) -> Iterator[None]:
    """Lock out all other processes that change which version serves; raises `RepositoryError` at once if one does."""
    if not root.is_dir():
        raise RepositoryError(f"{root}: {NO_FOLDER}")
    lock = root / LOCK_NAME
    try:
        fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
    except OSError as exc:
        raise RepositoryError(f"{root}: cannot be changed: {lock.name}: {exc.strerror or exc}") from exc
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            raise RepositoryError(
                f"{root}: another promote, rollback or gc is in progress; try again when it has ended"
            ) from exc
        yield
    finally:
        os.close(fd)


def replace_file(path: Path, content: bytes) -> None:
    """Replace a file atomically; the content is on the disk when this returns. Raises `RepositoryError`.

    If the process is killed at any moment, the file is the old one or the new one. One writer at a time
    (`lock_repository`).
    """
    fresh = path.with_name(f".{path.name}.new")  # always this name, so that a killed writer's file is overwritten
    try:
        _write(fresh, content)
        os.replace(fresh, path)
        sync_folder(path.parent)
    except OSError as exc:
        with suppress(OSError):
            fresh.unlink(missing_ok=True)
        raise RepositoryError(f"{path}: cannot be written: {exc.strerror or exc}") from exc


def copy_file(given: Path, path: Path) -> None:
    """Replace `path` by a copy of `given`, as `replace_file` does, for files of any size; raises `RepositoryError`."""
    fresh = path.with_name(f".{path.name}.new")
    try:
        fresh.unlink(missing_ok=True)
        shutil.copyfile(given, fresh)
        sync_file(fresh)
        os.replace(fresh, path)
        sync_folder(path.parent)
    except OSError as exc:
        with suppress(OSError):
            fresh.unlink(missing_ok=True)
        raise RepositoryError(f"{path}: cannot be copied from {given}: {exc.strerror or exc}") from exc


def sync_file(path: Path) -> None:
    """Write a file through to the disk; raises `OSError`."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def set_aside(path: Path) -> Path:
    """Rename a folder that is to be removed to a name that is no version's, and return its path; raises `OSError`.

    So the version disappears at once. If the process is killed after this, the next `gc` removes the remains.
    """
    doomed = path.with_name(f"{REMOVING_PREFIX}{path.name.lstrip('.')}-{secrets.token_hex(4)}")
    os.rename(path, doomed)
    sync_folder(path.parent)
    return doomed


def measure_size(path: Path) -> int:
    """Return the size in bytes of all files under a folder; links are not followed."""
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            with suppress(FileNotFoundError):
                total += os.lstat(os.path.join(folder, name)).st_size
    return total


def _is_same_folder(path: Path, fd: int) -> bool:
    """Whether a path still leads to the folder that was opened."""
    with suppress(OSError):
        return os.path.samestat(os.stat(path), os.fstat(fd))
    return False


def _write(path: Path, content: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
    try:
        require_regular(fd, path)  # a pipe that has a reader can be opened, and would swallow the content
        os.ftruncate(fd, 0)
        rest = memoryview(content)
        while rest:
            rest = rest[os.write(fd, rest) :]
        os.fsync(fd)
    finally:
        os.close(fd)
