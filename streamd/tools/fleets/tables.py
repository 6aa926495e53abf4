"""Tables from files: CSV (plain or gzipped) and Parquet, as columns by name. What a file is, its content decides.

Reads files and knows nothing of fleets; an error names the file, the place in it and what was expected.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import importlib
import io
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamd.tools.loadtest.errors import UsageError

SERVER_COLUMNS = ("server", "machine", "host", "instance")
TIME_COLUMNS = ("time", "ts", "timestamp")
EXPECTED_KEYS = f"expected one of {', '.join(SERVER_COLUMNS)} and one of {', '.join(TIME_COLUMNS)}"
DELIMITERS = ",;\t|"
GZIP_MAGIC = b"\x1f\x8b"
# The longer marks first: UTF-32's begins with UTF-16's.
BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
OTHER_FORMATS = ((b"PAR1", "Parquet"), (b"PK\x03\x04", "a zip archive or a workbook"), (b"\x28\xb5\x2f\xfd", "zstd"))


@dataclass(frozen=True, slots=True)
class Table:
    """A file's columns by name, ``[n]`` each: texts as ``object`` from CSV, the file's own types from Parquet."""

    path: Path
    columns: dict[str, NDArray[Any]]
    lines: NDArray[np.int64] | None  # [n], where each row stands in a CSV file; None for Parquet

    def place(self, row: int) -> str:
        """Where a row stands, for an error."""
        return f"{self.path}: row {row + 1}" if self.lines is None else f"{self.path}:{self.lines[row]}"

    def find(self, names: Iterable[str]) -> str | None:
        """The column of the first of these names that there is, in whatever case it is written."""
        there = {column.casefold(): column for column in self.columns}
        return next((there[name] for name in names if name in there), None)


def read_table(path: Path) -> Table:
    """The table in a .csv, .csv.gz or .parquet file. Raises UsageError."""
    if not path.is_file():
        raise UsageError(f"{path}: no such file; expected a fleet as .csv, .csv.gz or .parquet")
    name = path.name.lower()
    if name.endswith(".parquet"):
        return _read_parquet(path)
    if name.endswith((".csv", ".csv.gz")):
        return _parse_csv(path, _text(path))
    raise UsageError(f"{path}: expected a fleet as .csv, .csv.gz or .parquet")


def _read_parquet(path: Path) -> Table:
    try:
        pyarrow = importlib.import_module("pyarrow")
        parquet = importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise UsageError(
            f"{path}: reading Parquet needs pyarrow; install the extra: pip install 'streamd[replay]'"
        ) from None
    try:
        with path.open("rb") as file:  # a path would be read as a data set, which merges columns of one name
            found = parquet.ParquetFile(file).read()
    except (pyarrow.ArrowException, OSError) as error:
        raise UsageError(f"{path}: {error}; expected a Parquet file") from error
    names = _checked_names(path, found.column_names)
    return Table(path, {name: found.column(index).to_numpy() for index, name in enumerate(names)}, None)


def _text(path: Path) -> str:
    """A CSV file's text: unpacked where it is gzip, UTF-8 or what its byte order mark says."""
    raw = path.read_bytes()
    if raw.startswith(GZIP_MAGIC):
        try:
            raw = gzip.decompress(raw)
        except (OSError, EOFError, zlib.error) as error:
            raise UsageError(f"{path}: {error}; expected a whole gzip file") from error
    for magic, kind in OTHER_FORMATS:
        if raw.startswith(magic):
            raise UsageError(f"{path}: the content is {kind}; expected CSV, plain or gzipped")
    encoding = next((encoding for mark, encoding in BYTE_ORDER_MARKS if raw.startswith(mark)), "utf-8")
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise UsageError(f"{path}:{line}: {error}; expected UTF-8, or UTF-16 with a byte order mark") from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise UsageError(f"{path}:{line}: a NUL character; expected UTF-8, or UTF-16 with a byte order mark")
    return text


def _parse_csv(path: Path, text: str) -> Table:
    first = re.search(r"\S.*", text)
    lines = csv.reader(
        io.StringIO(text, newline=""),
        delimiter=_delimiter(first[0] if first else ""),
        skipinitialspace=True,
        strict=True,
    )
    header: list[str] | None = None
    rows, places = [], []
    try:
        for line in lines:
            if not any(field.strip() for field in line):
                continue  # an empty line, or what a spreadsheet writes of empty cells
            if header is None:
                header = line
                continue
            if len(line) != len(header):
                raise UsageError(
                    f"{path}:{lines.line_num}: {len(line)} fields; expected {len(header)} as in the header"
                )
            rows.append(line)
            places.append(lines.line_num)
    except csv.Error as error:
        raise UsageError(f"{path}:{lines.line_num}: {error}; expected CSV") from error
    if header is None:
        raise UsageError(f"{path}: empty; expected a header line with server, time and features")
    names = _checked_names(path, header)
    columns = {name: np.array([row[index] for row in rows], dtype=object) for index, name in enumerate(names)}
    return Table(path, columns, np.array(places, dtype=np.int64))


def _delimiter(header: str) -> str:
    """The delimiter by which the header has the columns that it must have; a comma where none does."""
    for delimiter in DELIMITERS:
        names = {name.strip().strip('"').casefold() for name in header.split(delimiter)}
        if names & set(SERVER_COLUMNS) and names & set(TIME_COLUMNS):
            return delimiter
    return ","


def _checked_names(path: Path, names: Sequence[str]) -> list[str]:
    """Column names without space around them. Raises UsageError where one is empty or there twice, in any case."""
    stripped = [name.strip() for name in names]
    if "" in stripped:
        raise UsageError(f"{path}: column {stripped.index('') + 1} has no name; expected a name for each column")
    counts = Counter(name.casefold() for name in stripped)
    for name, count in counts.items():
        if count > 1:
            same = [index for index, one in enumerate(stripped) if one.casefold() == name]
            at = " and ".join(str(index + 1) for index in same)
            raise UsageError(f"{path}: columns {at} are both named {stripped[same[0]]}; expected each name once")
    return stripped
