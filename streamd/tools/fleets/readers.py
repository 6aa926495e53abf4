"""Fleets from tables, with one column a feature (wide) or one line a value (long).

What comes out is already on the contract's grid.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamd.core.epochs import FINER_UNITS, finer_unit
from streamd.tools.fleets.fleet import RecordedFleet, check_grid
from streamd.tools.fleets.tables import EXPECTED_KEYS, SERVER_COLUMNS, TIME_COLUMNS, Table, read_table
from streamd.tools.loadtest.errors import UsageError

LONG_COLUMNS = ("feature", "value")
EXPECTED_TIME = "expected epoch seconds or RFC 3339, from 1970 on"


@dataclass(frozen=True, slots=True)
class Mapped:
    """A feature's column in the file and the factor that brings it to the feature's unit."""

    column: str
    factor: float = 1.0


@dataclass(frozen=True, slots=True)
class FileColumns:
    """A file's content, one array a feature, ``[n]`` each; times in epoch seconds."""

    servers: NDArray[np.str_]
    times: NDArray[np.float64]
    values: dict[str, NDArray[np.float32]]


def read_fleet(path: Path, step_seconds: int, mapping: Mapping[str, Mapped] | None = None) -> RecordedFleet:
    """The fleet of one file on a grid of ``step_seconds``.

    Several samples of one server within one step are averaged. Raises UsageError, naming file and column.
    """
    table = read_table(path)
    _key_columns(table)
    if not len(next(iter(table.columns.values()))):
        raise UsageError(f"{path}: no rows")
    feature, value = (table.find([name]) for name in LONG_COLUMNS)
    columns = _long(table, feature, value) if feature and value else _wide(table)
    if mapping:
        columns = _mapped(path, columns, mapping)
    return _on_grid(path, columns, step_seconds)


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


def _wide(table: Table) -> FileColumns:
    server, time = _key_columns(table)
    values = {name: _float32(table, name) for name in table.columns if name not in (server, time)}
    return FileColumns(servers_of(table), times_of(table), values)


def _long(table: Table, feature: str, value: str) -> FileColumns:
    """One line a value: spread over columns, each line giving one feature and NaN for the others."""
    names = _texts(table, feature)
    given = _float32(table, value)
    values = {
        str(name): np.where(names == name, given, np.float32(np.nan)).astype(np.float32) for name in np.unique(names)
    }
    return FileColumns(servers_of(table), times_of(table), values)


def _key_columns(table: Table) -> tuple[str, str]:
    server, time = table.find(SERVER_COLUMNS), table.find(TIME_COLUMNS)
    if server is None or time is None:
        raise UsageError(f"{table.path}: columns are {', '.join(table.columns)}; {EXPECTED_KEYS}")
    return server, time


def servers_of(table: Table) -> NDArray[np.str_]:
    """The server of each row, ``[n]``. Raises UsageError where a row has none."""
    return _texts(table, _key_columns(table)[0])


def _texts(table: Table, name: str) -> NDArray[np.str_]:
    column = table.columns[name]
    for row, text in enumerate(column):
        if text is None or text != text or (isinstance(text, str) and not text.strip()):  # None, NaN, empty
            raise UsageError(f"{table.place(row)}: no {name}; expected one in each row")
    return column.astype(np.str_)


def numbers_of(table: Table, name: str) -> NDArray[np.float64]:
    """A column's numbers, ``[n]``, NaN where a cell is empty. Raises UsageError."""
    column = table.columns[name]
    if column.dtype == object:
        column = np.array(["nan" if _is_blank(cell) else cell for cell in column], dtype=object)
    try:
        return column.astype(np.float64)
    except (ValueError, TypeError):
        row, cell = _first_bad(column, float)
    hint = ", with a point where this has a decimal comma" if "," in str(cell) else ""
    raise UsageError(f"{table.place(row)}: column {name} is {cell!r}; expected numbers{hint}, empty where missing")


def _float32(table: Table, name: str) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):  # what float32 can't hold becomes infinite, which is missing
        return numbers_of(table, name).astype(np.float32)


def _is_blank(cell: Any) -> bool:
    return cell is None or (isinstance(cell, str) and not cell.strip())


def _first_bad(column: NDArray[Any], convert: Callable[[Any], float]) -> tuple[int, Any]:
    """The first row whose cell can't be converted, and the cell."""
    for row, cell in enumerate(column):
        try:
            convert(cell)
        except (ValueError, TypeError):
            return row, cell
    return 0, column.dtype


def times_of(table: Table) -> NDArray[np.float64]:
    """The time of each row in epoch seconds, ``[n]``: from numbers, RFC 3339 texts or Parquet's own timestamps.

    Raises UsageError where a row has none, or one that can't be in seconds.
    """
    times = _epoch_times(table, table.columns[_key_columns(table)[1]])
    wrong = ~((times >= 0) & (times < FINER_UNITS[0][0]))  # NaN is neither
    if wrong.any():
        row = int(np.argmax(wrong))
        time = float(times[row])
        unit = finer_unit(time)
        named = "no time" if np.isnan(time) else f"time {time:.15g}"
        looks = f" looks like {unit}" if unit else ""
        raise UsageError(f"{table.place(row)}: {named}{looks}; {EXPECTED_TIME}")
    return times


def _epoch_times(table: Table, column: NDArray[Any]) -> NDArray[np.float64]:
    if np.issubdtype(column.dtype, np.datetime64):
        # Whole seconds are enough for a grid of them, and can't overflow as finer ones do.
        missing = np.isnat(column)
        return np.where(missing, np.nan, column.astype("datetime64[s]").astype(np.int64).astype(np.float64))
    if column.dtype == object:
        column = np.array(["nan" if _is_blank(cell) else cell for cell in column], dtype=object)
    try:
        return column.astype(np.float64)
    except (ValueError, TypeError):
        pass
    try:
        return np.array([_epoch_seconds(text) for text in column], dtype=np.float64)
    except (ValueError, TypeError):
        row, cell = _first_bad(column, _epoch_seconds)
    raise UsageError(f"{table.place(row)}: time {cell!r}; {EXPECTED_TIME}")


def _epoch_seconds(text: str) -> float:
    if text == "nan":
        return float("nan")
    moment = datetime.fromisoformat(text.strip())
    # RFC 3339 always names an offset; a text without one is taken as UTC, never as this machine's zone.
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _mapped(path: Path, columns: FileColumns, mapping: Mapping[str, Mapped]) -> FileColumns:
    there = {name.casefold(): values for name, values in columns.values.items()}
    for feature, mapped in mapping.items():
        if mapped.column.casefold() not in there:
            raise UsageError(
                f"{path}: no column {mapped.column} for --map {feature}; expected one of {', '.join(columns.values)}"
            )
    values = {feature: there[one.column.casefold()] * np.float32(one.factor) for feature, one in mapping.items()}
    return FileColumns(columns.servers, columns.times, values)


def _on_grid(path: Path, columns: FileColumns, step_seconds: int) -> RecordedFleet:
    names, which = np.unique(columns.servers, return_inverse=True)
    steps = np.floor(columns.times / step_seconds).astype(np.int64)
    first = int(steps.min())
    length = int(steps.max()) - first + 1
    check_grid(f"{path}: times from {columns.times.min():.15g} to {columns.times.max():.15g}", len(names), length)
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
