"""A memory-mapped file with one layout: opened under a lock, and reserved on disk before it is written.

Knows the file and its space, not the meaning of the arrays. If the process dies in any way, the kernel still writes its
changes to disk; `flush` is for a crash of the machine.

A write to a mapped page for which the disk has no space ends the process by SIGBUS. To prevent it:
- The pieces in which a slot lies are reserved as a whole before the slot is used. The kernel may cache a piece as one
  page (a large folio), which needs the space of all of it as soon as one byte is written.
- If there is no space for a piece, the slot is reserved in its own pages, and they are made writable at once
  (MADV_POPULATE_WRITE): that call returns an error in place of the signal. The map is marked as read at random
  (MADV_RANDOM), so that the kernel caches single pages. `reserve_whole_pieces` tries the piece again, since another
  process that reads the file (a backup) may bring it into the cache as a whole.
- If there is no space for the pieces at start, the file is dropped from the cache before it is mapped.
- On btrfs the file is written in place (NOCOW), because a copy-on-write file needs new space for each page that is
  written again.

If the disk refuses a page, the kernel reports it once and takes the page for written: a later flush would succeed
without it. So a flush after one that failed marks all pages as changed first, by the same MADV_POPULATE_WRITE.
"""

import contextlib
import errno
import fcntl
import mmap
import os
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from streamd.core.errors import StateError, StorageError
from streamd.core.state.layout import HEADER_BYTES, Layout, NamedArrays, parse_header
from streamd.regular_files import open_regular, require_regular, sync_folder
from streamd.runtime.state.btrfs import is_btrfs, switch_off_copies

PIECE_BYTES = 2 * 2**20
"""The largest piece of a file that Linux caches as a whole."""

BTRFS_SPARE_BYTES = 32 * 2**20
"""Free space below which a state on btrfs is not written: btrfs needs new space for each page, and waits for it."""

MADV_POPULATE_WRITE = 23
"""The number in Linux; Python's mmap module has no name for it."""


class StateFile:
    """A layout's arrays in a file.

    The file is sparse: a slot takes disk space when it is reserved, so that a full disk is an error of `reserve` and
    never a bus error in the middle of a write. `is_new` is true if the file was created; `recreate` empties it first.
    With `is_shared`, another process of this daemon has it locked, and reserves and flushes what both write.
    """

    def __init__(self, path: Path, layout: Layout, *, recreate: bool = False, is_shared: bool = False) -> None:
        self.path = path
        self.layout = layout
        self._is_shared = is_shared
        self._temporary_path = path if recreate else None
        self._is_flush_incomplete = False  # a flush failed, and none has succeeded since
        self._touched_pieces: set[int] = set()  # numbers of pieces in which a slot was reserved
        self._whole_pieces: set[int] = set()  # numbers of pieces that are reserved as a whole
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o640)
        except OSError as exc:
            raise StateError(f"{path}: cannot be opened: {exc.strerror or exc}") from exc
        try:
            self._check_kind()
            if not is_shared:
                self._lock()
            if recreate:
                os.ftruncate(self._fd, 0)
            self.header, self.is_new = self._read_shared() if is_shared else self._prepare()
            self.needs_spare_space = is_btrfs(self._fd)
            if not (is_shared or self.is_new) and not self._reserve_all_pieces():
                self._drop_from_cache()
            self._map: mmap.mmap | None = mmap.mmap(self._fd, layout.nbytes)
            self._map.madvise(mmap.MADV_RANDOM)
        except BaseException:
            os.close(self._fd)
            raise

    @property
    def identifier(self) -> str:
        """The identifier of this file; a file that replaces it has another."""
        return str(self.header.get("identifier", ""))

    def map_arrays(self) -> NamedArrays:
        """Return the layout's arrays as views of the map; they keep it alive after `close`."""
        assert self._map is not None, f"{self.path} is closed"
        return self.layout.make_views(self._map)

    def reserve(self, slot: int) -> None:
        """Make sure that a slot can be written; raises `StorageError` if the disk has no space for it."""
        try:
            for offset, size in self.layout.list_slot_extents(slot, page_bytes=mmap.PAGESIZE):
                pieces = range(offset // PIECE_BYTES, (offset + size - 1) // PIECE_BYTES + 1)
                if not self._whole_pieces.issuperset(pieces):
                    self._touched_pieces.update(piece for piece in pieces if not self._reserve_piece(piece))
                if not self._whole_pieces.issuperset(pieces):
                    self._allocate(offset, size)
                    self._make_writable(offset, size)
        except OSError as exc:
            raise StorageError(f"{self.path}: no space for another server: {_describe_os_error(exc)}") from exc

    def _reserve_piece(self, piece: int) -> bool:
        """Reserve a piece as a whole; returns `False` if it cannot be."""
        start = piece * PIECE_BYTES
        with contextlib.suppress(OSError):
            if self._allocate(start, min(PIECE_BYTES, self.layout.nbytes - start)):
                self._whole_pieces.add(piece)
        return piece in self._whole_pieces

    def reserve_again(self, first: int, count: int) -> None:
        """Make sure that `count` slots that are in use can be written; raises `StorageError`.

        They were reserved once, but a file that was copied, or made by a former version, may lack some of the space.
        """
        for offset, size in self.layout.list_slot_extents(first, count, mmap.PAGESIZE):
            try:
                self._allocate(offset, size)
            except OSError:
                # A full XFS refuses even space that the file has already. Whether it has, only its pages show.
                try:
                    self._make_writable(offset, size)
                except OSError as exc:
                    raise StorageError(
                        f"{self.path}: no space for the servers it holds: {_describe_os_error(exc)}"
                    ) from exc

    def _allocate(self, offset: int, size: int) -> bool:
        """Reserve space; returns `False` if the file system cannot reserve, raises `OSError` if the disk is full."""
        try:
            os.posix_fallocate(self._fd, offset, size)
        except OSError as exc:
            if exc.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                raise
            return False
        return True

    def _make_writable(self, offset: int, size: int) -> None:
        assert self._map is not None, f"{self.path} is closed"
        try:
            self._map.madvise(MADV_POPULATE_WRITE, offset, size)
        except OSError as exc:
            if exc.errno != errno.EINVAL:  # EINVAL: a kernel before Linux 5.14, which lacks the call
                raise

    def reserve_whole_pieces(self) -> None:
        """Try again to reserve the pieces for which there was no space when a slot in them was reserved.

        Call it on the thread that writes the arrays: if the file system cannot reserve, the C library reads and writes
        single bytes of the file instead.
        """
        while self._touched_pieces and self._reserve_piece(next(iter(self._touched_pieces))):
            self._touched_pieces -= self._whole_pieces

    def _reserve_all_pieces(self) -> bool:
        """Reserve every piece that holds data as a whole; returns `False` if the disk has no space."""
        try:
            for data, hole in self._find_data():
                edge = min(-(-hole // PIECE_BYTES) * PIECE_BYTES, self.layout.nbytes)
                # Only the edges of the data: for the whole range, XFS would need as much free space for a moment.
                for start, end in ((data // PIECE_BYTES * PIECE_BYTES, data), (hole, edge)):
                    if start < end:
                        os.posix_fallocate(self._fd, start, end - start)
        except OSError as exc:
            return exc.errno in (errno.EOPNOTSUPP, errno.EINVAL)
        return True

    def find_shortage(self) -> StorageError | None:
        """Return an error if the disk is too full for any write, else `None`.

        Only a file system that needs new space for each write can have a shortage; on others, reserved pages are always
        writable.
        """
        if not self.needs_spare_space:
            return None
        found = os.statvfs(self._fd)
        free = found.f_bavail * found.f_frsize
        if free >= BTRFS_SPARE_BYTES:
            return None
        return StorageError(f"{self.path}: {free} bytes are free, btrfs needs {BTRFS_SPARE_BYTES} to write safely")

    def _drop_from_cache(self) -> None:
        """Drop the file from the page cache, which another reader may have filled with large pieces of it."""
        with contextlib.suppress(OSError):
            os.fdatasync(self._fd)
            os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def replace_former(self, former: Path, aside: Path | None) -> None:
        """Move this file to the path of `former`, which is renamed to `aside`, or removed if that is `None`.

        If the process is killed in between, one of them is at that path. A file that exists as `aside` is replaced.
        """
        try:
            self.flush()  # else a power loss could leave the name of the new file without its content
            if aside is not None:
                aside.unlink(missing_ok=True)
                os.link(former, aside)
            self.path = self.path.replace(former)
            sync_folder(former.parent)
        except OSError as exc:
            raise StateError(f"{former}: cannot be replaced: {exc.strerror or exc}") from exc

    def flush(self) -> None:
        """Write everything through to the disk; blocks, with the GIL released (`mmap.flush` would hold it).

        After an `OSError`, the next flush writes all pages again.
        """
        if self._map is None:
            return
        is_again, self._is_flush_incomplete = self._is_flush_incomplete, True
        if is_again:
            self._mark_changed()
        os.fdatasync(self._fd)
        self._is_flush_incomplete = False

    def _mark_changed(self) -> None:
        """Mark every page that holds data as changed, whatever the kernel takes for written."""
        for start, end in self._find_data():
            # In pieces: the call holds the GIL.
            for offset in range(start // PIECE_BYTES * PIECE_BYTES, end, PIECE_BYTES):
                self._make_writable(offset, min(PIECE_BYTES, self.layout.nbytes - offset))

    def _find_data(self) -> Iterator[tuple[int, int]]:
        """Yield a start and an end of data in every piece that has any; raises `OSError`."""
        end = 0
        while True:
            try:
                start = os.lseek(self._fd, -(-end // PIECE_BYTES) * PIECE_BYTES, os.SEEK_DATA)
            except OSError as exc:
                if exc.errno == errno.ENXIO:  # no data from here on
                    return
                raise
            end = os.lseek(self._fd, start, os.SEEK_HOLE)
            yield start, end

    def close(self) -> None:
        """Flush and close the file; views that are still held keep the map alive. A second call is a no-op.

        Raises `OSError` if it cannot be flushed; it is closed then too.
        """
        if self._map is None:
            return
        try:
            if not self._is_shared:
                self.flush()
        finally:
            self._map = None
            # The map has a descriptor of its own, which would hold the lock as long as a view is held.
            fcntl.flock(self._fd, fcntl.LOCK_UN)
            os.close(self._fd)

    def discard(self) -> None:
        """Close the file, and remove it if it was to replace a former file and has not done so; raises `OSError`."""
        try:
            self.close()
        finally:
            if self._temporary_path and self.path == self._temporary_path:
                self.path.unlink(missing_ok=True)

    def _check_kind(self) -> None:
        try:
            require_regular(self._fd, self.path)
        except OSError as exc:
            raise StateError(f"{self.path}: cannot be opened: {exc.strerror or exc}") from exc

    def _lock(self) -> None:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise StateError(f"{self.path}: another process has it open; one state folder serves one daemon") from exc

    def _read_shared(self) -> tuple[Mapping[str, Any], bool]:
        """Return the header of a file that another process has made; raises `ForeignLayoutError`."""
        header = parse_header(os.pread(self._fd, HEADER_BYTES, 0))
        if header is None or os.fstat(self._fd).st_size != self.layout.nbytes or not self._has_our_layout(header):
            raise ForeignLayoutError(header)
        return header, False

    def _prepare(self) -> tuple[Mapping[str, Any], bool]:
        """Return the header, and whether the file is new; raises `ForeignLayoutError` if it has another layout."""
        size = os.fstat(self._fd).st_size
        header = parse_header(os.pread(self._fd, HEADER_BYTES, 0)) if size >= HEADER_BYTES else None
        if header is not None and size in self.layout.earlier_sizes and self._has_our_layout(header):
            size = self._lengthen()
        if header is not None and size == self.layout.nbytes and self._has_our_layout(header):
            return header, False
        if size and (header is not None or any(self._find_data())):
            raise ForeignLayoutError(header)
        identifier = uuid.uuid4().hex
        switch_off_copies(self._fd)
        try:
            # The length is set first: a file with a header always has its whole length, and what a process leaves that
            # was killed in between is a file without any data.
            os.ftruncate(self._fd, self.layout.nbytes)
            os.pwrite(self._fd, self.layout.make_header(identifier=identifier, sealed=True), 0)
        except OSError as exc:
            raise StateError(f"{self.path}: cannot be made: {exc.strerror or exc}") from exc
        return {"identifier": identifier, "sealed": True}, True

    def _lengthen(self) -> int:
        """Add the columns that a former version of the layout lacks; returns the new size."""
        try:
            os.ftruncate(self._fd, self.layout.nbytes)
        except OSError as exc:
            raise StateError(f"{self.path}: cannot be lengthened: {exc.strerror or exc}") from exc
        return self.layout.nbytes

    def _has_our_layout(self, header: Mapping[str, Any]) -> bool:
        return all(header.get(key) == value for key, value in self.layout.identity.items())


def _describe_os_error(exc: OSError) -> str:
    """Return the text of an error; EFAULT, from making pages writable, means that a write would end by SIGBUS."""
    return os.strerror(errno.ENOSPC) if exc.errno == errno.EFAULT else str(exc.strerror)


class ForeignLayoutError(StateError):
    """The file has another layout: that of `header`, or `None` if it is no state file of streamd."""

    def __init__(self, header: Mapping[str, Any] | None) -> None:
        super().__init__("the state file has another layout")
        self.header = header


def open_state_file(path: Path, layout: Layout) -> tuple[StateFile, Path | None]:
    """Open or create a state file; returns it, and the path of a former file or `None`.

    If the file at `path` has another layout (another model contract or capacity), a new file is created beside it, and
    `path` is returned as the former file. Once its content is carried over, `replace_former` moves the new file there.
    """
    beside = path.with_name(f"{path.name}.new")
    try:
        file = StateFile(path, layout)
    except ForeignLayoutError:
        return StateFile(beside, layout, recreate=True), path
    _remove_leftover(beside)
    return file, None


def _remove_leftover(path: Path) -> None:
    """Remove the new file of a process that was killed before it moved the file; one that is in use stays."""
    with contextlib.suppress(OSError), open_regular(path) as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()
