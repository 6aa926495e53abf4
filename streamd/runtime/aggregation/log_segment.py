"""One file of a log, to which records are appended, and whose bytes are on the disk after a flush."""

import contextlib
import os
from pathlib import Path

from streamd.regular_files import sync_folder

_PIECE_BYTES = 2**20


class LogSegment:
    """A new file, open for appending; raises `OSError`, as do all its methods.

    One thread appends while another flushes. If the disk refuses a page, the kernel reports it once and takes the page
    for written: so a flush after one that failed writes again what was not flushed before.
    """

    def __init__(self, path: Path) -> None:
        self.size = 0
        """The number of bytes that were appended."""
        self._path = path
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
        self._flushed = 0  # the bytes at the beginning that are on the disk
        self._is_flush_incomplete = False

    def append(self, data: bytes) -> None:
        """Write bytes, all or none."""
        try:
            written = 0
            while written < len(data):  # a full disk may write a part before it refuses the rest
                written += os.pwrite(self._fd, data[written:], self.size + written)
        except OSError:
            os.ftruncate(self._fd, self.size)
            raise
        self.size += len(data)

    def flush(self) -> None:
        """Write what was appended before the call through to the disk; blocks."""
        size = self.size
        if size == self._flushed:
            return
        is_again, self._is_flush_incomplete = self._is_flush_incomplete, True
        if is_again:
            self._write_again(size)
        os.fdatasync(self._fd)
        if self._flushed == 0:
            for folder in (self._path.parent, self._path.parent.parent):  # the names of the file and of its folder
                sync_folder(folder)
        self._flushed, self._is_flush_incomplete = size, False

    def _write_again(self, size: int) -> None:
        for offset in range(self._flushed, size, _PIECE_BYTES):
            piece = os.pread(self._fd, min(_PIECE_BYTES, size - offset), offset)
            if os.pwrite(self._fd, piece, offset) != len(piece):
                raise OSError(f"only a part of {len(piece)} bytes was written")

    def set_age(self, now: float) -> None:
        """Set the time of the last change, in epoch seconds."""
        with contextlib.suppress(OSError):
            os.utime(self._fd, (now, now))

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)
