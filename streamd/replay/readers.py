"""Fleets from files: CSV, CSV.gz and Parquet, one column a feature (wide) or one line a value (long).

Reads files and nothing else; what comes out is already on the contract's grid.
"""

from __future__ import annotations

import csv
import gzip
import importlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamd.replay.errors import UsageError
from streamd.replay.fleet import RecordedFleet

SERVER_COLUMNS = ("server", "machine", "host", "instance")
TIME_COLUMNS = ("time", "ts", "timestamp")
LONG_COLUMNS = ("feature", "value")


@dataclass(frozen=True, slots=True)
class Mapped:
    """A feature's column in the file and the factor that brings it to the feature's unit."""

    column: str
    factor: float = 1.0


@dataclass(frozen=True, slots=True)
class Columns:
    """A file's content, one array a feature, ``[n]`` each; times in epoch seconds."""

    servers: NDArray[np.str_]
    times: NDArray[np.float64]
    values: dict[str, NDArray[np.float32]]


def read_fleet(path: Path, step_seconds: int, mapping: Mapping[str, Mapped] | None = None) -> RecordedFleet:
    """The fleet of one file on a grid of ``step_seconds``.

    Several samples of one server within one step are averaged. Raises UsageError, naming file and column.
    """
    table = _read_table(path)
    columns = _long(path, table) if set(LONG_COLUMNS) <= set(table) else _wide(path, table)
    if mapping:
        columns = _mapped(path, columns, mapping)
    if not len(columns.times):
        raise UsageError(f"{path}: no rows")
    return _on_grid(columns, step_seconds)


def parse_mapping(entries: Sequence[str]) -> dict[str, Mapped]:
    """``FEATURE=COLUMN`` or ``FEATURE=FACTOR*COLUMN``, as ``--map`` takes them."""
    mapping: dict[str, Mapped] = {}
    for entry in entries:
        feature, _, expression = entry.partition("=")
        factor, star, column = expression.rpartition("*")
        try:
            mapping[feature] = Mapped(column, float(factor)) if star else Mapped(expression)
        except ValueError:
            raise UsageError(f"--map {entry}: expected FEATURE=COLUMN or FEATURE=FACTOR*COLUMN") from None
        if not feature or not mapping[feature].column:
            raise UsageError(f"--map {entry}: expected FEATURE=COLUMN or FEATURE=FACTOR*COLUMN")
    return mapping


def _read_table(path: Path) -> dict[str, NDArray[Any]]:
    if not path.is_file():
        raise UsageError(f"{path}: no such file; expected a fleet as .csv, .csv.gz or .parquet")
    if path.suffix == ".parquet":
        return _read_parquet(path)
    if path.name.endswith((".csv", ".csv.gz")):
        return _read_csv(path)
    raise UsageError(f"{path}: expected a fleet as .csv, .csv.gz or .parquet")


def _read_parquet(path: Path) -> dict[str, NDArray[Any]]:
    try:
        parquet = importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise UsageError(
            f"{path}: reading Parquet needs pyarrow; install the extra: pip install 'streamd[replay]'"
        ) from None
    table = parquet.read_table(path)
    return {name: table.column(name).to_numpy() for name in table.column_names}


def _read_csv(path: Path) -> dict[str, NDArray[Any]]:
    if path.suffix == ".gz":
        with gzip.open(path, "rt", newline="") as packed:
            return _parse_csv(path, packed)
    with path.open(newline="") as file:
        return _parse_csv(path, file)


def _parse_csv(path: Path, file: Iterable[str]) -> dict[str, NDArray[Any]]:
    lines = csv.reader(file)
    header = next(lines, None)
    if not header:
        raise UsageError(f"{path}: empty; expected a header line with server, time and features")
    rows = []
    for number, line in enumerate(lines, start=2):
        if len(line) != len(header):
            raise UsageError(f"{path}:{number}: {len(line)} fields; expected {len(header)} as in the header")
        rows.append(line)
    return {name: np.array([row[index] for row in rows], dtype=object) for index, name in enumerate(header)}


def _wide(path: Path, table: dict[str, NDArray[Any]]) -> Columns:
    server, time = _key_columns(path, table)
    values = {name: _numbers(path, name, column) for name, column in table.items() if name not in (server, time)}
    return Columns(table[server].astype(np.str_), _times(path, table[time]), values)


def _long(path: Path, table: dict[str, NDArray[Any]]) -> Columns:
    """One line a value: spread over columns, each line giving one feature and NaN for the others."""
    server, time = _key_columns(path, table)
    names = table["feature"].astype(np.str_)
    given = _numbers(path, "value", table["value"])
    values = {
        str(name): np.where(names == name, given, np.float32(np.nan)).astype(np.float32) for name in np.unique(names)
    }
    return Columns(table[server].astype(np.str_), _times(path, table[time]), values)


def _key_columns(path: Path, table: dict[str, NDArray[Any]]) -> tuple[str, str]:
    server = next((name for name in SERVER_COLUMNS if name in table), None)
    time = next((name for name in TIME_COLUMNS if name in table), None)
    if server is None or time is None:
        raise UsageError(
            f"{path}: columns are {', '.join(table)}; expected one of {', '.join(SERVER_COLUMNS)}"
            f" and one of {', '.join(TIME_COLUMNS)}"
        )
    return server, time


def _numbers(path: Path, name: str, column: NDArray[Any]) -> NDArray[np.float32]:
    if column.dtype == object:
        column = np.where(column == "", "nan", column)
    try:
        return column.astype(np.float64).astype(np.float32)
    except ValueError as error:
        raise UsageError(f"{path}: column {name}: {error}; expected numbers, empty where missing") from None


def _times(path: Path, column: NDArray[Any]) -> NDArray[np.float64]:
    """Epoch seconds, from numbers, RFC 3339 texts or Parquet's own timestamps."""
    if np.issubdtype(column.dtype, np.datetime64):
        return column.astype("datetime64[us]").astype(np.int64) / 1e6
    try:
        return column.astype(np.float64)
    except ValueError:
        pass
    try:
        return np.array([_epoch_seconds(text) for text in column], dtype=np.float64)
    except ValueError as error:
        raise UsageError(f"{path}: time: {error}; expected epoch seconds or RFC 3339") from None


def _epoch_seconds(text: str) -> float:
    moment = datetime.fromisoformat(text)
    # RFC 3339 always names an offset; a text without one is taken as UTC, never as this machine's zone.
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _mapped(path: Path, columns: Columns, mapping: Mapping[str, Mapped]) -> Columns:
    for feature, mapped in mapping.items():
        if mapped.column not in columns.values:
            raise UsageError(
                f"{path}: no column {mapped.column} for --map {feature}; expected one of {', '.join(columns.values)}"
            )
    values = {feature: columns.values[one.column] * np.float32(one.factor) for feature, one in mapping.items()}
    return Columns(columns.servers, columns.times, values)


def _on_grid(columns: Columns, step_seconds: int) -> RecordedFleet:
    names, which = np.unique(columns.servers, return_inverse=True)
    steps = np.floor(columns.times / step_seconds).astype(np.int64)
    first = int(steps.min())
    length = int(steps.max()) - first + 1
    cell = which * length + (steps - first)
    series = np.full((len(names) * length, len(columns.values)), np.nan, dtype=np.float32)
    for index, values in enumerate(columns.values.values()):
        given = np.isfinite(values)
        count = np.bincount(cell[given], minlength=len(series))
        total = np.bincount(cell[given], weights=values[given], minlength=len(series))
        series[count > 0, index] = (total[count > 0] / count[count > 0]).astype(np.float32)
    return RecordedFleet(
        servers=tuple(str(name) for name in names),
        features=tuple(columns.values),
        first_step=first,
        series=series.reshape(len(names), length, -1),
    )
