"""The files that are named to be replayed: the bodies of a folder in order, and dumps, which are read line by line."""

import gzip
import io
import re
import sys
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from streamd.core.errors import StreamdError
from streamd.core.mapping.series import PointSink, SeriesEntry
from streamd.protocols.prometheus.tsdb_dump import MAX_LINE_BYTES, read_tsdb_dump
from streamd.tools.captures.errors import CaptureError
from streamd.tools.captures.formats import LOOKED_AT_BYTES, is_dump

STANDARD_INPUT = Path("-")

_DIGITS = re.compile(r"(\d+)")


def list_capture_files(paths: Sequence[Path]) -> list[Path]:
    """Return the files in the order in which they are replayed; raises `CaptureError`.

    A folder stands for its files `*.body`, or, if it has none of these, for all its files but descriptions and hidden
    ones; in the order of their names, in which a number counts as such.
    """
    files: list[Path] = []
    for path in paths:
        if path != STANDARD_INPUT and not path.exists():
            raise CaptureError(f"{path}: no such file or folder")
        if not path.is_dir():
            files.append(path)
            continue
        try:
            found = _list_folder(path)
        except OSError as exc:
            raise CaptureError(f"{path}: cannot be read: {exc.strerror or exc}") from exc
        if not found:
            raise CaptureError(f"{path}: has no captured body, expected files NAME.body")
        files += found
    return files


def _list_folder(folder: Path) -> list[Path]:
    files = [file for file in folder.iterdir() if file.is_file() and not file.name.startswith(".")]
    bodies = [file for file in files if file.suffix == ".body"]
    stems = {file.stem for file in files if file.suffix != ".json"}
    others = [file for file in files if file.suffix != ".json" or file.stem not in stems]
    return sorted(bodies or others, key=lambda file: _make_sort_key(file.name))


def _make_sort_key(name: str) -> list[tuple[int, str]]:
    """Return a key by which `body-2` comes before `body-10`."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in _DIGITS.split(name)]


@contextmanager
def open_dump(file: Path) -> Iterator[Iterator[bytes] | None]:
    """Open the text of `promtool tsdb dump`, as it is or in gzip, and give its lines; `None` if it is no dump.

    The lines are read as they are taken, so a dump may be of any size. Raises `CaptureError`, also while they are.
    """
    try:
        with _open_file(file) as raw:
            stream = raw
            if raw.peek(2)[:2] == b"\x1f\x8b":
                stream = io.BufferedReader(gzip.GzipFile(fileobj=raw))
            has_lines = is_dump(stream.peek(LOOKED_AT_BYTES))
            if file == STANDARD_INPUT and not has_lines:
                raise CaptureError("standard input is no text of promtool tsdb dump")
            yield iter(lambda: stream.readline(MAX_LINE_BYTES + 1), b"") if has_lines else None
    except (OSError, EOFError, zlib.error) as exc:
        reason = exc.strerror if isinstance(exc, OSError) and exc.strerror else exc
        raise CaptureError(f"{file}: cannot be read: {reason}") from exc


def read_dump(file: Path, lines: Iterable[bytes], sink: PointSink[SeriesEntry]) -> Iterator[None]:
    """Write the points of a dump to a sink, and yield now and then; raises `CaptureError` if no line is one of a dump.

    Lines that cannot be read are rejected, each for itself.
    """
    try:
        yield from read_tsdb_dump(lines, sink)
    except StreamdError as exc:
        raise CaptureError(f"{file}: {exc}") from exc


@contextmanager
def _open_file(file: Path) -> Iterator[io.BufferedReader]:
    if file == STANDARD_INPUT:
        yield _make_buffered(sys.stdin.buffer)
        return
    with file.open("rb") as stream:
        yield stream


def _make_buffered(stream: IO[bytes]) -> io.BufferedReader:
    return stream if isinstance(stream, io.BufferedReader) else io.BufferedReader(stream)  # type: ignore[arg-type]
