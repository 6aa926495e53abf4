"""Tables from files: CSV (plain or gzipped) and Parquet, as columns by name. The content shows whether it is gzip.

Knows nothing of fleets. An error names the file, the place in it and what was expected.
"""

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

from streamd.tools.fleets.errors import FleetError

SERVER_COLUMNS = ("server", "machine", "host", "instance")
TIME_COLUMNS = ("time", "ts", "timestamp")
EXPECTED_KEYS = f"expected one of {', '.join(SERVER_COLUMNS)} and one of {', '.join(TIME_COLUMNS)}"
DELIMITERS = ",;\t|"
GZIP_MAGIC = b"\x1f\x8b"
BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
"""Each mark with its encoding. The longer ones are first, because UTF-32's mark begins with UTF-16's."""

OTHER_FORMATS = ((b"PAR1", "Parquet"), (b"PK\x03\x04", "a zip archive or a workbook"), (b"\x28\xb5\x2f\xfd", "zstd"))


@dataclass(frozen=True, slots=True)
class Table:
    """The columns of a file with n rows."""

    path: Path
    columns: dict[str, NDArray[Any]]
    """By name, `(n,)`: texts as `object` from CSV, the file's own types from Parquet."""
    lines: NDArray[np.int64] | None
    """`(n,)`: the line of each row in a CSV file; `None` for Parquet."""

    def format_place(self, row: int) -> str:
        """Format the place of a row in the file, for an error."""
        return f"{self.path}: row {row + 1}" if self.lines is None else f"{self.path}:{self.lines[row]}"

    def find_column(self, names: Iterable[str]) -> str | None:
        """Return the column that has the first of these names, in any case; `None` if no column has one."""
        by_name = {column.casefold(): column for column in self.columns}
        return next((by_name[name] for name in names if name in by_name), None)


def load_table(path: Path) -> Table:
    """Read the table of a .csv, .csv.gz or .parquet file. Raises `FleetError`."""
    if not path.is_file():
        raise FleetError(f"{path}: no such file; expected a fleet as .csv, .csv.gz or .parquet")
    name = path.name.lower()
    if name.endswith(".parquet"):
        return _read_parquet(path)
    if name.endswith((".csv", ".csv.gz")):
        return _parse_csv(path, _decode_text(path))
    raise FleetError(f"{path}: expected a fleet as .csv, .csv.gz or .parquet")


def _read_parquet(path: Path) -> Table:
    try:
        pyarrow = importlib.import_module("pyarrow")
        parquet = importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise FleetError(
            f"{path}: reading Parquet needs pyarrow; install the extra: pip install 'streamd[replay]'"
        ) from None
    try:
        with path.open("rb") as file:  # A path would be read as a data set, which merges columns of one name.
            found = parquet.ParquetFile(file).read()
    except (pyarrow.ArrowException, OSError) as error:
        raise FleetError(f"{path}: {error}; expected a Parquet file") from error
    names = _check_names(path, found.column_names)
    return Table(path, {name: found.column(index).to_numpy() for index, name in enumerate(names)}, None)


def _decode_text(path: Path) -> str:
    """Decode a CSV file: unpack it if it is gzip, and read UTF-8 or the encoding of its byte order mark."""
    raw = path.read_bytes()
    if raw.startswith(GZIP_MAGIC):
        try:
            raw = gzip.decompress(raw)
        except (OSError, EOFError, zlib.error) as error:
            raise FleetError(f"{path}: {error}; expected a whole gzip file") from error
    for magic, kind in OTHER_FORMATS:
        if raw.startswith(magic):
            raise FleetError(f"{path}: the content is {kind}; expected CSV, plain or gzipped")
    encoding = next((encoding for mark, encoding in BYTE_ORDER_MARKS if raw.startswith(mark)), "utf-8")
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise FleetError(f"{path}:{line}: {error}; expected UTF-8, or UTF-16 with a byte order mark") from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise FleetError(f"{path}:{line}: a NUL character; expected UTF-8, or UTF-16 with a byte order mark")
    return text


def _parse_csv(path: Path, text: str) -> Table:
    first = re.search(r"\S.*", text)
    lines = csv.reader(
        io.StringIO(text, newline=""),
        delimiter=_detect_delimiter(first[0] if first else ""),
        skipinitialspace=True,
        strict=True,
    )
    header: list[str] | None = None
    rows, places = [], []
    try:
        for line in lines:
            if not any(field.strip() for field in line):
                continue  # An empty line, or a line of empty cells as spreadsheets write it.
            if header is None:
                header = line
                continue
            if len(line) != len(header):
                raise FleetError(
                    f"{path}:{lines.line_num}: {len(line)} fields; expected {len(header)} as in the header"
                )
            rows.append(line)
            places.append(lines.line_num)
    except csv.Error as error:
        raise FleetError(f"{path}:{lines.line_num}: {error}; expected CSV") from error
    if header is None:
        raise FleetError(f"{path}: empty; expected a header line with server, time and features")
    names = _check_names(path, header)
    columns = {name: np.array([row[index] for row in rows], dtype=object) for index, name in enumerate(names)}
    return Table(path, columns, np.array(places, dtype=np.int64))


def _detect_delimiter(header: str) -> str:
    """Return the delimiter that gives the header its required columns; a comma if none of them does."""
    for delimiter in DELIMITERS:
        names = {name.strip().strip('"').casefold() for name in header.split(delimiter)}
        if names & set(SERVER_COLUMNS) and names & set(TIME_COLUMNS):
            return delimiter
    return ","


def _check_names(path: Path, names: Sequence[str]) -> list[str]:
    """Return the column names without space around them. Raises `FleetError` if one is empty or is there twice."""
    stripped = [name.strip() for name in names]
    if "" in stripped:
        raise FleetError(f"{path}: column {stripped.index('') + 1} has no name; expected a name for each column")
    counts = Counter(name.casefold() for name in stripped)
    for name, count in counts.items():
        if count > 1:
            same = [index for index, one in enumerate(stripped) if one.casefold() == name]
            at = " and ".join(str(index + 1) for index in same)
            raise FleetError(f"{path}: columns {at} are both named {stripped[same[0]]}; expected each name once")
    return stripped
