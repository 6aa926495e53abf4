"""Keeps the points of rows that may still change in a log on disk, so that half-filled rows survive `kill -9`.

The log is a folder of segments, and a segment is a sequence of records. The kernel keeps what was written when the
process dies. A segment is deleted once no row that may still change needs its points. Knows nothing of series and
rules: a record is a kind and bytes.
"""

import contextlib
import errno
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import structlog

from streamd.core.errors import StateError, StorageError
from streamd.regular_files import open_regular

log = structlog.get_logger(__name__)

_HEAD = struct.Struct("<4sIII")
"""The head of a record: magic, kind, number of bytes, checksum."""

_MAGIC = b"pts1"

MAX_SEGMENT_BYTES = 64 * 2**20
"""The size after which a segment is followed by a new one."""

MAX_RECORD_BYTES = 2**28
"""The largest size of a record; a longer one means that the file is damaged."""


class PointLog:
    """An append-only log in a folder; `now` is epoch seconds everywhere.

    A new segment begins every `segment_seconds`; one whose last record is older than `retention_seconds` is deleted.
    Raises `StateError` if the folder cannot be used.
    """

    def __init__(self, folder: Path, *, segment_seconds: float, retention_seconds: float) -> None:
        self.segment = 0
        """The number of the current segment. A segment must be readable alone, so a new one needs the series again."""
        self._folder = folder
        self._segment_seconds = segment_seconds
        self._retention_seconds = retention_seconds
        self._file: int | None = None
        self._size = 0
        self._began = 0.0
        try:
            self.segment = max((_parse_number(path) for path in self._list_segments()), default=0)
        except OSError as exc:
            raise StateError(f"{folder}: cannot be used: {exc.strerror or exc}") from exc

    def read_records(self) -> Iterator[tuple[int, int, bytes]]:
        """Yield all records, oldest first: segment, kind and bytes.

        A record that is cut off or damaged ends its segment. One that is cut off was never acknowledged; damage is
        logged.
        """
        for path in self._list_segments():
            try:
                with open_regular(path) as file:
                    yield from _parse_records(path, file)
            except OSError as exc:
                log.warning("point_log_unreadable", file=str(path), reason=exc.strerror or str(exc))

    def keep_from(self, segment: int, now: float) -> None:
        """Delete the segments before this one, and set the age of the others to 0.

        So the time in which the daemon was away does not count as age.
        """
        for path in self._list_segments():
            try:
                if _parse_number(path) < segment:
                    path.unlink()
                else:
                    os.utime(path, (now, now))
            except OSError as exc:
                log.warning("point_log_not_deleted", file=str(path), reason=exc.strerror or str(exc))

    def begin_segment_if_due(self, now: float) -> bool:
        """Begin a new segment if the current one is old or long, and delete those that are no longer needed.

        Returns whether one began. Raises `StorageError` if the disk does not allow it.
        """
        if self._file is not None and self._size < MAX_SEGMENT_BYTES and 0 <= now - self._began < self._segment_seconds:
            return False
        path = self._folder / f"points-{self.segment + 1:012d}.log"
        try:
            self._folder.mkdir(exist_ok=True)  # a log without records needs no folder
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
        except OSError as exc:
            if exc.errno == errno.EEXIST:
                self.segment += 1  # not ours; the next call takes the number behind it
            raise _make_storage_error(self._folder, exc) from exc
        if self._file is not None:
            with contextlib.suppress(OSError):
                os.utime(self._file, (now, now))  # the caller's clock, which does not step as that of the kernel may
            os.close(self._file)
        self._file, self._size, self._began = file, 0, now
        self.segment += 1
        self._delete_old(now)
        return True

    def append(self, records: list[tuple[int, bytes]]) -> None:
        """Write records, each a kind and bytes, all or none; raises `StorageError` if the disk is full."""
        assert self._file is not None, "begin_segment_if_due comes first"
        data = b"".join(
            part
            for kind, record in records
            for part in (_HEAD.pack(_MAGIC, kind, len(record), zlib.crc32(record)), record)
        )
        try:
            written = os.pwrite(self._file, data, self._size)
            while written < len(data):  # a full disk may write a part before it refuses the rest
                written += os.pwrite(self._file, data[written:], self._size + written)
        except OSError as exc:
            os.ftruncate(self._file, self._size)
            raise _make_storage_error(self._folder, exc) from exc
        self._size += len(data)

    def append_if_open(self, kind: int, record: bytes) -> None:
        """Write a record to the current segment, if there is one and the disk is not full."""
        if self._file is not None:
            with contextlib.suppress(StorageError):
                self.append([(kind, record)])

    def flush(self) -> None:
        """Write everything through to the disk; blocks, and may be called in a thread."""
        if self._file is None:
            return
        try:
            file = os.dup(self._file)  # the loop may begin the next segment meanwhile
        except OSError as exc:
            if exc.errno == errno.EBADF:
                return  # the file was closed in between
            raise
        try:
            os.fdatasync(file)
        finally:
            os.close(file)

    def close(self) -> None:
        """Close the segment."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def count_bytes(self) -> int:
        """Return the size of all segments."""
        return sum(path.stat().st_size for path in self._list_segments())

    def _list_segments(self) -> list[Path]:
        return sorted(path for path in self._folder.glob("points-*.log") if _parse_number(path) > 0)

    def _delete_old(self, now: float) -> None:
        for path in self._list_segments():
            try:
                if _parse_number(path) < self.segment and now - path.stat().st_mtime > self._retention_seconds:
                    path.unlink()
            except OSError as exc:
                log.warning("point_log_not_deleted", file=str(path), reason=exc.strerror or str(exc))


def _parse_records(path: Path, file: BinaryIO) -> Iterator[tuple[int, int, bytes]]:
    """Yield the records of a segment, one in memory at a time: the file may be of any size, if it is not ours."""
    number, at = _parse_number(path), 0
    while len(head := file.read(_HEAD.size)) == _HEAD.size:  # a kill may cut it off
        magic, kind, size, check = _HEAD.unpack(head)
        if magic != _MAGIC or size > MAX_RECORD_BYTES:
            log.warning("point_log_damaged", file=str(path), offset=at)
            return
        record = file.read(size)
        if len(record) < size:
            return
        if zlib.crc32(record) != check:
            log.warning("point_log_damaged", file=str(path), offset=at)
            return
        yield number, kind, record
        at += _HEAD.size + size


def _parse_number(path: Path) -> int:
    digits = path.stem.removeprefix("points-")
    return int(digits) if digits.isdecimal() else 0


def _make_storage_error(folder: Path, exc: OSError) -> StorageError:
    return StorageError(f"{folder}: the points cannot be stored: {exc.strerror or exc}")
