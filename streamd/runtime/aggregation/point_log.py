"""Keeps the points of rows that may still change in a log on disk, so that half-filled rows survive `kill -9`.

The log is a folder of segments, and a segment is a sequence of records. The kernel keeps what was written when the
process dies. A segment is deleted once no row that may still change needs its points. Knows nothing of series and
rules: a record is a kind and bytes.
"""

import contextlib
import errno
import os
import struct
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import structlog

from streamd.core.errors import StateError, StorageError
from streamd.regular_files import open_regular
from streamd.runtime.aggregation.log_segment import LogSegment

log = structlog.get_logger(__name__)

_HEAD = struct.Struct("<4sIIII")
"""The head of a record: magic, kind, number of bytes, checksum of these three, checksum of the head and the record."""

_MAGIC = b"pts2"

_FORMER_HEAD = struct.Struct("<4sIII")
"""The head of a record of an earlier version: magic, kind, number of bytes, checksum of the record."""

_FORMER_MAGIC = b"pts1"

MAX_SEGMENT_BYTES = 64 * 2**20
"""The size after which a segment is followed by a new one."""

MAX_ENDED_SEGMENTS = 8
"""The segments that are held open after their end because no flush succeeds."""

MAX_RECORD_BYTES = 2**28
"""The largest size of a record; a longer one means that the file is damaged."""

MAX_SEARCHED_BYTES = 4 * MAX_SEGMENT_BYTES
"""The bytes of a damaged segment that are searched for the next record: the file may be of any size."""

_PIECE_BYTES = 2**16


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
        self._current: LogSegment | None = None
        self._ended: list[LogSegment] = []  # that were not flushed since their end
        self._flushing = threading.Lock()  # a flush in a thread may last beyond `close`
        self._began = 0.0
        self.damaged_bytes = 0
        """Bytes of the log that were skipped by `read_records` because no record that is whole is there."""
        try:
            self.segment = max((_parse_number(path) for path in self._list_segments()), default=0)
        except OSError as exc:
            raise StateError(f"{folder}: cannot be used: {exc.strerror or exc}") from exc

    def read_records(self) -> Iterator[tuple[int, int, bytes]]:
        """Yield all records, oldest first: segment, kind and bytes.

        A damaged record is skipped, and reading goes on at the next one that is whole. What is skipped is logged, and
        counted in `damaged_bytes`; of a record that a kill cut off, and that was never acknowledged, only the former.
        """
        for path in self._list_segments():
            try:
                with open_regular(path) as file:
                    yield from self._read_segment(path, _RecordReader(file))
            except OSError as exc:
                log.warning("point_log_unreadable", file=str(path), reason=exc.strerror or str(exc))

    def _read_segment(self, path: Path, reader: "_RecordReader") -> Iterator[tuple[int, int, bytes]]:
        number, is_damaged = _parse_number(path), False
        while True:
            found = reader.read_record()
            if found is not None:
                is_damaged = False
                yield number, *found
                continue
            at, is_cut_off = reader.offset, reader.is_cut_off and not is_damaged
            skipped = reader.find_next()
            if not skipped:
                return
            is_damaged = not is_cut_off
            if is_cut_off:
                log.info("point_log_cut_off", file=str(path), offset=at, skipped_bytes=skipped)
            else:
                log.warning("point_log_damaged", file=str(path), offset=at, skipped_bytes=skipped)
                self.damaged_bytes += skipped

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
        current = self._current
        if current is not None and current.size < MAX_SEGMENT_BYTES and 0 <= now - self._began < self._segment_seconds:
            return False
        path = self._folder / f"points-{self.segment + 1:012d}.log"
        try:
            self._folder.mkdir(exist_ok=True)  # a log without records needs no folder
            following = LogSegment(path)
        except OSError as exc:
            if exc.errno == errno.EEXIST:
                self.segment += 1  # not ours; the next call takes the number behind it
            raise _make_storage_error(self._folder, exc) from exc
        if current is not None:
            current.set_age(now)  # by the caller's clock, which does not step as that of the kernel may
            self._ended.append(current)
        self._current, self._began = following, now
        self.segment += 1
        if len(self._ended) > MAX_ENDED_SEGMENTS:
            self._ended.pop(1).close()  # neither the first nor the last: a thread may flush those
        self._delete_old(now)
        return True

    def append(self, records: list[tuple[int, bytes]]) -> None:
        """Write records, each a kind and bytes, all or none; raises `StorageError` if the disk is full."""
        assert self._current is not None, "begin_segment_if_due comes first"
        try:
            self._current.append(
                b"".join(part for kind, record in records for part in (_pack_head(kind, record), record))
            )
        except OSError as exc:
            raise _make_storage_error(self._folder, exc) from exc

    def append_if_open(self, kind: int, record: bytes) -> None:
        """Write a record to the current segment, if there is one and the disk is not full."""
        if self._current is not None:
            with contextlib.suppress(StorageError):
                self.append([(kind, record)])

    def flush(self) -> None:
        """Write everything through to the disk; blocks, and may be called in a thread. Raises `OSError`."""
        with self._flushing:
            # First the current one: if it ends meanwhile, what was appended since is among the others.
            if (current := self._current) is not None:
                current.flush()
            while self._ended:
                self._ended[0].flush()
                self._ended.pop(0).close()

    def close(self) -> None:
        """Flush and close the segments; what cannot be flushed is logged."""
        try:
            self.flush()
        except OSError as exc:
            log.error("state_not_flushed", file=str(self._folder), error=exc.strerror or str(exc))
        with self._flushing:
            for segment in (*self._ended, *([self._current] if self._current is not None else [])):
                segment.close()
            self._ended, self._current = [], None

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


class _RecordReader:
    """Reads the records of a segment, one in memory at a time."""

    def __init__(self, file: BinaryIO) -> None:
        self.offset = 0
        """Where the next record is expected."""
        self.is_cut_off = False
        """Whether the file ended within the record that `read_record` did not find, and its head is whole."""
        self._file = file
        self._searched = 0

    def read_record(self) -> tuple[int, bytes] | None:
        """Return the kind and the bytes of the record at `offset`, and go behind it; `None` if it is not whole."""
        self._file.seek(self.offset)
        head = self._file.read(_HEAD.size)
        former = head[: _FORMER_HEAD.size]
        self.is_cut_off = False
        if head.startswith(_MAGIC) and len(head) == _HEAD.size:
            _, kind, size, head_check, check = _HEAD.unpack(head)
            start, head_bytes = head_check, _HEAD.size
            is_head = head_check == zlib.crc32(head[:12])
        elif head.startswith(_FORMER_MAGIC) and len(former) == _FORMER_HEAD.size:
            _, kind, size, check = _FORMER_HEAD.unpack(former)
            start, head_bytes = 0, _FORMER_HEAD.size
            is_head = True
        else:
            self.is_cut_off = 0 < len(head) < _HEAD.size and _MAGIC.startswith(head[:4])
            return None
        if not is_head or size > MAX_RECORD_BYTES:
            return None
        self._file.seek(self.offset + head_bytes)
        record = self._file.read(size)
        self._searched += len(record)
        if len(record) < size or zlib.crc32(record, start) != check:
            self.is_cut_off = len(record) < size
            return None
        self._searched -= len(record)  # only what was read in vain counts
        self.offset += head_bytes + size
        return kind, record

    def find_next(self) -> int:
        """Go to the next place where a record may begin, or to the end; returns how many bytes that skips.

        Returns 0 at the end. Behind `MAX_SEARCHED_BYTES` that were read in vain, the rest is skipped too.
        """
        began, end = self.offset, self._file.seek(0, os.SEEK_END)
        at = began + 1
        while at < end and self._searched <= MAX_SEARCHED_BYTES:
            self._file.seek(at)
            piece = self._file.read(_PIECE_BYTES)
            places = [place for magic in (_MAGIC, _FORMER_MAGIC) if (place := piece.find(magic)) >= 0]
            if places:
                self._searched += min(places)
                self.offset = at + min(places)
                return self.offset - began
            self._searched += len(piece)
            at += max(len(piece) - len(_MAGIC) + 1, 1)  # a magic may lie across two pieces
        self.offset = max(end, began)
        return self.offset - began


def _pack_head(kind: int, record: bytes) -> bytes:
    """Return the head of a record."""
    first = struct.pack("<4sII", _MAGIC, kind, len(record))
    check = zlib.crc32(first)
    return first + struct.pack("<II", check, zlib.crc32(record, check))


def _parse_number(path: Path) -> int:
    digits = path.stem.removeprefix("points-")
    return int(digits) if digits.isdecimal() else 0


def _make_storage_error(folder: Path, exc: OSError) -> StorageError:
    return StorageError(f"{folder}: the points cannot be stored: {exc.strerror or exc}")
