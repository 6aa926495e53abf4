"""A memory-mapped file that holds one layout: opened under a lock, reserved on disk before it is written.

The kernel keeps what was written when the process dies, however it dies; `flush` is for the machine's death.
"""

import errno
import fcntl
import mmap
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from streamd.core.errors import StateError, StorageError
from streamd.core.layout import HEADER_BYTES, Arrays, Layout, read_header
from streamd.reading import refuse_irregular


class StateFile:
    """A layout's arrays in a file.

    Sparse: a slot takes disk space once it is reserved, so that a full disk is an error of `reserve` and never
    a bus error in the middle of a write. `fresh` is true where the file was made anew, as `anew` demands.
    """

    def __init__(self, path: Path, layout: Layout, *, anew: bool = False) -> None:
        self.path = path
        self.layout = layout
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o640)
        except OSError as exc:
            raise StateError(f"{path}: cannot be opened: {exc.strerror or exc}") from exc
        try:
            self._check_kind()
            self._lock()
            if anew:
                os.ftruncate(self._fd, 0)
            self.header, self.fresh = self._prepare()
            self._map: mmap.mmap | None = mmap.mmap(self._fd, layout.nbytes)
        except BaseException:
            os.close(self._fd)
            raise

    @property
    def identifier(self) -> str:
        """Of this file alone; a file that replaces it has another."""
        return str(self.header.get("identifier", ""))

    def arrays(self) -> Arrays:
        """Return the layout's arrays as views of the map."""
        assert self._map is not None, f"{self.path} is closed"
        return self.layout.arrays(self._map)

    def reserve(self, slot: int) -> None:
        """Make sure that the disk has room for this slot; raises `StorageError`."""
        for offset, size in self.layout.slot_extents(slot):
            try:
                os.posix_fallocate(self._fd, offset, size)
            except OSError as exc:
                # Some file systems cannot reserve; there a full disk ends in SIGBUS, as for any memory map.
                if exc.errno in (errno.EOPNOTSUPP, errno.EINVAL):
                    continue
                raise StorageError(f"{self.path}: no room for another server: {exc.strerror}") from exc

    def take_place(self, former: Path, *, keep: bool) -> None:
        """Move to where `former` is, which may be kept beside it as `.old`; killed in between, one of them is there."""
        aside = former.with_name(f"{former.name}.old")  # one is kept: the one before it is replaced
        try:
            if keep:
                aside.unlink(missing_ok=True)
                os.link(former, aside)
            self.path = self.path.replace(former)
        except OSError as exc:
            raise StateError(f"{former}: cannot be replaced: {exc.strerror or exc}") from exc

    def flush(self) -> None:
        """Write everything through to the disk; blocks, with the GIL released (`mmap.flush` would hold it)."""
        if self._map is not None:
            os.fdatasync(self._fd)

    def close(self) -> None:
        """Flush and let go; views that are still held keep the map alive. Twice is harmless."""
        if self._map is None:
            return
        self.flush()
        self._map = None
        # The map has a descriptor of its own, which would hold the lock for as long as any view is held.
        fcntl.flock(self._fd, fcntl.LOCK_UN)
        os.close(self._fd)

    def _check_kind(self) -> None:
        try:
            refuse_irregular(self._fd, self.path)
        except OSError as exc:
            raise StateError(f"{self.path}: cannot be opened: {exc.strerror or exc}") from exc

    def _lock(self) -> None:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            raise StateError(f"{self.path}: another process has it open; one state folder serves one daemon") from exc

    def _prepare(self) -> tuple[Mapping[str, Any], bool]:
        """Return the header and whether the file is new; a file of another layout is set aside."""
        size = os.fstat(self._fd).st_size
        header = read_header(os.pread(self._fd, HEADER_BYTES, 0)) if size >= HEADER_BYTES else None
        if header is not None and size == self.layout.nbytes and self._is_ours(header):
            return header, False
        if size:
            raise ForeignLayoutError(header)
        identifier = uuid.uuid4().hex
        try:
            os.ftruncate(self._fd, self.layout.nbytes)
            # The small columns and the header's page first: a header without its file's length never stands.
            os.pwrite(self._fd, self.layout.header(identifier=identifier), 0)
        except OSError as exc:
            raise StateError(f"{self.path}: cannot be made: {exc.strerror or exc}") from exc
        return {"identifier": identifier}, True

    def _is_ours(self, header: Mapping[str, Any]) -> bool:
        return all(header.get(key) == value for key, value in self.layout.identity.items())


class ForeignLayoutError(StateError):
    """The file holds another layout, which `header` tells (none: it is no state file of ours)."""

    def __init__(self, header: Mapping[str, Any] | None) -> None:
        super().__init__("the state file has another layout")
        self.header = header


def open_state_file(path: Path, layout: Layout) -> tuple[StateFile, Path | None]:
    """Open or make a state file.

    Where `path` holds another layout (another model contract or capacity) it is the second value, and the file is
    made anew beside it: once it holds what is carried over, `take_place` puts it there.
    """
    try:
        return StateFile(path, layout), None
    except ForeignLayoutError:
        return StateFile(path.with_name(f"{path.name}.new"), layout, anew=True), path
