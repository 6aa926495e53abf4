"""A memory-mapped file that holds one layout: opened under a lock, reserved on disk before it is written.

The kernel keeps what was written when the process dies, however it dies; `flush` is for the machine's death.

A write to a mapped page for which the disk has no room ends the process by SIGBUS. So that none ever comes:
- a slot is reserved in whole pages, and its pages are made writable (MADV_POPULATE_WRITE) before it is used: that call
  returns an error where the write itself would raise the signal;
- the map is read at random (MADV_RANDOM): the kernel then caches single pages. A larger piece (a large folio) needs
  disk space as a whole as soon as one byte of it is written, also for the slots in it that nobody has reserved;
- whoever else reads the file (a backup) may still bring it into the cache in large pieces. So `reserve_whole_pieces` reserves whole
  pieces around what is used while there is space (a few MiB a file in all), and where there is none at a start, the
  file is dropped from the cache before it is mapped;
- on btrfs the file is written in place (NOCOW): a copy-on-write file needs new space for each page it rewrites.
"""

import contextlib
import errno
import fcntl
import mmap
import os
import uuid
from array import array
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from streamd.core.errors import StateError, StorageError
from streamd.core.state.layout import HEADER_BYTES, Layout, NamedArrays, parse_header
from streamd.regular_files import open_regular, require_regular

PIECE_BYTES = 2 * 2**20
"""The largest piece of a file that Linux caches as one."""

BTRFS_SPARE_BYTES = 32 * 2**20
"""Free space below which nothing is written to a state on btrfs: it asks for space, and waits for it, at each page."""

MADV_POPULATE_WRITE = 23
"""Linux's number of it; Python's mmap module has no name for it."""

FS_IOC_GETFLAGS, FS_IOC_SETFLAGS, FS_NOCOW_FL = 0x80086601, 0x40086602, 0x00800000
"""How a file's attributes are read and set (`chattr +C` sets NOCOW), as 64-bit Linux numbers them."""

BTRFS_IOC_FS_INFO = 0x8400941F


class StateFile:
    """A layout's arrays in a file.

    Sparse: a slot takes disk space once it is reserved, so that a full disk is an error of `reserve` and never
    a bus error in the middle of a write. `is_new` is true where the file was made anew, as `recreate` demands.
    """

    def __init__(self, path: Path, layout: Layout, *, recreate: bool = False) -> None:
        self.path = path
        self.layout = layout
        self._stand_in = path if recreate else None
        self._touched_pieces: set[int] = set()  # pieces, by number, in which something was reserved
        self._whole_pieces: set[int] = set()  # pieces that are reserved as a whole
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o640)
        except OSError as exc:
            raise StateError(f"{path}: cannot be opened: {exc.strerror or exc}") from exc
        try:
            self._check_kind()
            self._lock()
            if recreate:
                os.ftruncate(self._fd, 0)
            self.header, self.is_new = self._prepare()
            self._needs_spare_space = is_btrfs(self._fd)
            if not self.is_new and not self._reserve_whole_pieces():
                self._drop_from_cache()
            self._map: mmap.mmap | None = mmap.mmap(self._fd, layout.nbytes)
            self._map.madvise(mmap.MADV_RANDOM)
        except BaseException:
            os.close(self._fd)
            raise

    @property
    def identifier(self) -> str:
        """Of this file alone; a file that replaces it has another."""
        return str(self.header.get("identifier", ""))

    def arrays(self) -> NamedArrays:
        """Return the layout's arrays as views of the map."""
        assert self._map is not None, f"{self.path} is closed"
        return self.layout.make_views(self._map)

    def reserve(self, slot: int) -> None:
        """Make sure that a slot can be written; raises `StorageError` where the disk has no room for it."""
        try:
            for offset, size in self.layout.list_slot_extents(slot, page_bytes=mmap.PAGESIZE):
                self._allocate(offset, size)
                self._make_writable(offset, size)
                self._touched_pieces.update(range(offset // PIECE_BYTES, (offset + size - 1) // PIECE_BYTES + 1))
            self._touched_pieces -= self._whole_pieces
        except OSError as exc:
            raise StorageError(f"{self.path}: no room for another server: {_describe_os_error(exc)}") from exc

    def reserve_again(self, first: int, count: int) -> None:
        """Make sure that `count` slots that are in use can be written; raises `StorageError`.

        They were reserved once, but a file that was copied, or that a former version made, may lack some of it.
        """
        for offset, size in self.layout.list_slot_extents(first, count, mmap.PAGESIZE):
            try:
                self._allocate(offset, size)
            except OSError:
                # A full XFS refuses even what it has already: only the pages themselves can tell.
                try:
                    self._make_writable(offset, size)
                except OSError as exc:
                    raise StorageError(
                        f"{self.path}: no room for the servers it holds: {_describe_os_error(exc)}"
                    ) from exc

    def _allocate(self, offset: int, size: int) -> None:
        try:
            os.posix_fallocate(self._fd, offset, size)
        except OSError as exc:
            # Some file systems cannot reserve; there the call that makes pages writable is all that is sure.
            if exc.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                raise

    def _make_writable(self, offset: int, size: int) -> None:
        assert self._map is not None, f"{self.path} is closed"
        try:
            self._map.madvise(MADV_POPULATE_WRITE, offset, size)
        except OSError as exc:
            if exc.errno != errno.EINVAL:  # a kernel before Linux 5.14, which does not know the call
                raise

    def reserve_whole_pieces(self) -> None:
        """Reserve as a whole the pieces in which slots were reserved; without room, the next call tries again.

        A call costs nothing where no server came since the last one. Not to be called from another thread: where a
        file system cannot reserve, the C library reads and writes single bytes of the file in place of it.
        """
        with contextlib.suppress(OSError):
            while self._touched_pieces:
                piece = next(iter(self._touched_pieces))
                start = piece * PIECE_BYTES
                self._allocate(start, min(PIECE_BYTES, self.layout.nbytes - start))
                self._touched_pieces.remove(piece)
                self._whole_pieces.add(piece)

    def _reserve_whole_pieces(self) -> bool:
        """Reserve every piece that holds data as a whole; returns False where the disk has no room."""
        position = 0
        try:
            while True:
                data = os.lseek(self._fd, position, os.SEEK_DATA)
                hole = os.lseek(self._fd, data, os.SEEK_HOLE)
                position = min(-(-hole // PIECE_BYTES) * PIECE_BYTES, self.layout.nbytes)
                # The edges alone: a large file as a whole would need as much free space on XFS for a moment.
                for start, end in ((data // PIECE_BYTES * PIECE_BYTES, data), (hole, position)):
                    if start < end:
                        os.posix_fallocate(self._fd, start, end - start)
        except OSError as exc:
            return exc.errno in (errno.ENXIO, errno.EOPNOTSUPP, errno.EINVAL)  # ENXIO: no data from here on

    def shortage(self) -> StorageError | None:
        """Return the error of a disk that is so full that nothing can be written, or None.

        Only on a file system that asks for space at each page that is written again; others are always writable
        where they are reserved.
        """
        if not self._needs_spare_space:
            return None
        found = os.statvfs(self._fd)
        free = found.f_bavail * found.f_frsize
        if free >= BTRFS_SPARE_BYTES:
            return None
        return StorageError(f"{self.path}: {free} bytes are free, btrfs needs {BTRFS_SPARE_BYTES} to write safely")

    def _drop_from_cache(self) -> None:
        """Drop the file from the page cache, where another reader may have put it in large pieces."""
        with contextlib.suppress(OSError):
            os.fdatasync(self._fd)
            os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def replace_former(self, former: Path, aside: Path | None) -> None:
        """Move to where `former` is, which is kept as `aside` unless that is None.

        Killed in between, one of them is there. A file that is called `aside` by then is replaced.
        """
        try:
            if aside is not None:
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

    def discard(self) -> None:
        """Close the file, and remove it where it was made to take a former file's place and has not done so."""
        self.close()
        if self._stand_in and self.path == self._stand_in:
            self.path.unlink(missing_ok=True)

    def _check_kind(self) -> None:
        try:
            require_regular(self._fd, self.path)
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
        header = parse_header(os.pread(self._fd, HEADER_BYTES, 0)) if size >= HEADER_BYTES else None
        if header is not None and size == self.layout.earlier_nbytes and self._has_our_layout(header):
            size = self._lengthen()
        if header is not None and size == self.layout.nbytes and self._has_our_layout(header):
            return header, False
        if size:
            raise ForeignLayoutError(header)
        identifier = uuid.uuid4().hex
        _write_in_place(self._fd)
        try:
            os.ftruncate(self._fd, self.layout.nbytes)
            # The small columns and the header's page first: a header without its file's length never stands.
            os.pwrite(self._fd, self.layout.make_header(identifier=identifier), 0)
        except OSError as exc:
            raise StateError(f"{self.path}: cannot be made: {exc.strerror or exc}") from exc
        return {"identifier": identifier}, True

    def _lengthen(self) -> int:
        """Add the columns that a former version did not have; returns the new size."""
        try:
            os.ftruncate(self._fd, self.layout.nbytes)
        except OSError as exc:
            raise StateError(f"{self.path}: cannot be lengthened: {exc.strerror or exc}") from exc
        return self.layout.nbytes

    def _has_our_layout(self, header: Mapping[str, Any]) -> bool:
        return all(header.get(key) == value for key, value in self.layout.identity.items())


def _write_in_place(fd: int) -> None:
    """Switch copy-on-write off for an empty file, where its file system does that (btrfs)."""
    flags = array("l", [0])  # the kernel reads and writes an int of it
    with contextlib.suppress(OSError):
        fcntl.ioctl(fd, FS_IOC_GETFLAGS, flags)
        flags[0] |= FS_NOCOW_FL
        fcntl.ioctl(fd, FS_IOC_SETFLAGS, flags)


def _describe_os_error(exc: OSError) -> str:
    """Say what an error means: making pages writable fails with EFAULT where writing them would end in SIGBUS."""
    return os.strerror(errno.ENOSPC) if exc.errno == errno.EFAULT else str(exc.strerror)


def is_btrfs(fd: int) -> bool:
    """Whether a file lies on btrfs: no other file system answers that file system's own call."""
    try:
        fcntl.ioctl(fd, BTRFS_IOC_FS_INFO, bytearray(1024))
    except OSError:
        return False
    return True


class ForeignLayoutError(StateError):
    """The file holds another layout, which `header` tells (none: it is no state file of ours)."""

    def __init__(self, header: Mapping[str, Any] | None) -> None:
        super().__init__("the state file has another layout")
        self.header = header


def open_state_file(path: Path, layout: Layout) -> tuple[StateFile, Path | None]:
    """Open or make a state file.

    Where `path` holds another layout (another model contract or capacity) it is the second value, and the file is
    made anew beside it: once it holds what is carried over, `replace_former` puts it there.
    """
    beside = path.with_name(f"{path.name}.new")
    try:
        file = StateFile(path, layout)
    except ForeignLayoutError:
        return StateFile(beside, layout, recreate=True), path
    _remove_left_behind(beside)
    return file, None


def _remove_left_behind(path: Path) -> None:
    """Remove a file that a process left when it was killed before the file took its place; one in use stays."""
    with contextlib.suppress(OSError), open_regular(path) as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()
