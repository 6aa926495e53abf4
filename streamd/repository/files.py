"""Changes on disk that are whole or not there at all, and the locks of those who make them.

Locks are the kernel's (`flock`): they go with their holder, however it dies, and no stale one is ever left.
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
from streamd.regular_files import require_regular

LOCK_NAME = ".promoted.lock"
REMOVING_PREFIX = ".removing-"
"""Begins the name of what is being removed: no version's name begins with a dot."""

BUILDING_PREFIX = ".building-"
"""Begins the name of a version that is being built; whoever builds it holds it (`VersionHold`)."""


class VersionHold:
    """Says that a version is being used, for as long as this is open: `gc` leaves a held version alone.

    Held by whoever loads from the folder (a daemon reads it again when it rebuilds a lane). Any number may hold
    the same version. `close` twice is harmless.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd: int | None = None
        try:
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as exc:
            raise RepositoryError(f"{path}: cannot be held: {exc.strerror or exc}") from exc
        # Waits only for a claim, which lasts for one renaming; where locks do not work, nothing is ever claimed.
        with suppress(OSError):
            fcntl.flock(fd, fcntl.LOCK_SH)
        if not _leads_to(path, fd):
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
        """Let go."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


@contextmanager
def claim_folder(path: Path) -> Iterator[bool]:
    """Claim a folder for its removal; yields whether it is free, and until the end nobody gets hold of it."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        yield False
        return
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            free = False  # held, or nobody can tell: locks do not work there
        else:
            free = True
        yield free
    finally:
        os.close(fd)


def is_held(path: Path) -> bool:
    """Whether someone holds this folder; where locks do not work, yes."""
    with claim_folder(path) as free:
        return not free


@contextmanager
def lock_repository(root: Path) -> Iterator[None]:
    """Be the only one that changes what this folder of versions serves; raises `RepositoryError` at once if not."""
    if not root.is_dir():
        raise RepositoryError(f"{root}: no such folder of engine versions")
    place = root / LOCK_NAME
    try:
        fd = os.open(place, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
    except OSError as exc:
        raise RepositoryError(f"{root}: cannot be changed: {place.name}: {exc.strerror or exc}") from exc
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            raise RepositoryError(
                f"{root}: another promote, rollback or gc is under way; try again when it has ended"
            ) from exc
        yield
    finally:
        os.close(fd)


def replace_file(path: Path, content: bytes) -> None:
    """Put `content` in the file's place, all or nothing, on the disk when this returns; raises `RepositoryError`.

    Killed at any moment, the file is the old one or the new one. One writer at a time (`lock_repository`).
    """
    fresh = path.with_name(f".{path.name}.new")  # one name: what a killed writer left is written over
    try:
        _write(fresh, content)
        os.replace(fresh, path)
        sync_folder(path.parent)
    except OSError as exc:
        with suppress(OSError):
            fresh.unlink(missing_ok=True)
        raise RepositoryError(f"{path}: cannot be written: {exc.strerror or exc}") from exc


def copy_file(given: Path, path: Path) -> None:
    """Put a copy of a file, of whatever size, in `path`'s place, as `replace_file` does; raises `RepositoryError`."""
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
    """Write a file through to the disk, whoever wrote it; raises `OSError`."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_folder(path: Path) -> None:
    """Write a folder's names through to the disk; raises `OSError`."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def set_aside(path: Path) -> Path:
    """Give a folder that is to be removed a name that is no version's, and return it; raises `OSError`.

    So it goes as a whole: killed after this, the next `gc` removes what is left.
    """
    doomed = path.with_name(f"{REMOVING_PREFIX}{path.name.lstrip('.')}-{secrets.token_hex(4)}")
    os.rename(path, doomed)
    sync_folder(path.parent)
    return doomed


def measure_size(path: Path) -> int:
    """The bytes of all regular files under a folder; links are not followed."""
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            with suppress(FileNotFoundError):
                total += os.lstat(os.path.join(folder, name)).st_size
    return total


def _leads_to(path: Path, fd: int) -> bool:
    with suppress(OSError):
        return os.path.samestat(os.stat(path), os.fstat(fd))
    return False


def _write(path: Path, content: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
    try:
        require_regular(fd, path)  # a pipe with a reader would swallow it; one without is refused when it is opened
        os.ftruncate(fd, 0)
        rest = memoryview(content)
        while rest:
            rest = rest[os.write(fd, rest) :]
        os.fsync(fd)
    finally:
        os.close(fd)
