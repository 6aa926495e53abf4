"""Fleets from tables, either wide (a column for each feature) or long (a line for each value).

The fleets are on the contract's grid. Files are opened in `tables.py`, not here.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamd.core.epochs import FINER_TIME_UNITS, guess_finer_unit
from streamd.core.values import find_values
from streamd.tools.fleets.errors import FleetError
from streamd.tools.fleets.fleet import RecordedFleet, check_grid_size
from streamd.tools.fleets.tables import EXPECTED_KEYS, SERVER_COLUMNS, TIME_COLUMNS, Table, load_table

LONG_COLUMNS = ("feature", "value")
EXPECTED_TIME = "expected epoch seconds or RFC 3339, from 1970 on"


@dataclass(frozen=True, slots=True)
class ColumnMapping:
    """The column of a feature in the file, and the factor that converts it to the feature's unit."""

    column: str
    factor: float = 1.0


@dataclass(frozen=True, slots=True)
class FileColumns:
    """The content of a file with n rows."""

    servers: NDArray[np.str_]
    """`(n,)`: the server of each row."""
    times: NDArray[np.float64]
    """`(n,)`: the time of each row in epoch seconds."""
    values: dict[str, NDArray[np.float32]]
    """By feature, `(n,) float32`; NaN where missing."""


def read_fleet(path: Path, step_seconds: int, mapping: Mapping[str, ColumnMapping] | None = None) -> RecordedFleet:
    """Read the fleet of one file onto a grid of `step_seconds`.

    Several samples of one server within one step are averaged. Raises `FleetError` that names the file and the place.
    """
    table = load_table(path)
    _find_key_columns(table)
    if not len(next(iter(table.columns.values()))):
        raise FleetError(f"{path}: no rows; expected one or more")
    feature, value = (table.find_column([name]) for name in LONG_COLUMNS)
    columns = _read_long(table, feature, value) if feature and value else _read_wide(table)
    if mapping:
        columns = _apply_mapping(path, columns, mapping)
    return _place_on_grid(path, columns, step_seconds)


def parse_mapping(entries: Sequence[str]) -> dict[str, ColumnMapping]:
    """Parse entries of the form `FEATURE=COLUMN` or `FEATURE=FACTOR*COLUMN`. Raises `FleetError`."""
    mapping: dict[str, ColumnMapping] = {}
    for entry in entries:
        feature, _, expression = entry.partition("=")
        factor, star, column = expression.rpartition("*")
        try:
            mapping[feature] = ColumnMapping(column, float(factor)) if star else ColumnMapping(expression)
        except ValueError:
            raise FleetError(f"--map {entry}: expected FEATURE=COLUMN or FEATURE=FACTOR*COLUMN") from None
        if not feature or not mapping[feature].column:
            raise FleetError(f"--map {entry}: expected FEATURE=COLUMN or FEATURE=FACTOR*COLUMN")
    return mapping


def _read_wide(table: Table) -> FileColumns:
    server, time = _find_key_columns(table)
    values = {name: _read_float32(table, name) for name in table.columns if name not in (server, time)}
    return FileColumns(read_servers(table), read_times(table), values)


def _read_long(table: Table, feature: str, value: str) -> FileColumns:
    """Spread a long table over columns: each line gives one feature, and NaN for the others."""
    names = _read_texts(table, feature)
    given = _read_float32(table, value)
    values = {
        str(name): np.where(names == name, given, np.float32(np.nan)).astype(np.float32) for name in np.unique(names)
    }
    return FileColumns(read_servers(table), read_times(table), values)


def _find_key_columns(table: Table) -> tuple[str, str]:
    server, time = table.find_column(SERVER_COLUMNS), table.find_column(TIME_COLUMNS)
    if server is None or time is None:
        raise FleetError(f"{table.path}: columns are {', '.join(table.columns)}; {EXPECTED_KEYS}")
    return server, time


def read_servers(table: Table) -> NDArray[np.str_]:
    """Return the server of each row, `(n,)`. Raises `FleetError` if a row has no server."""
    return _read_texts(table, _find_key_columns(table)[0])


def _read_texts(table: Table, name: str) -> NDArray[np.str_]:
    column = table.columns[name]
    for row, text in enumerate(column):
        if text is None or text != text or (isinstance(text, str) and not text.strip()):  # None, NaN or empty
            raise FleetError(f"{table.format_place(row)}: no {name}; expected one in each row")
    return column.astype(np.str_)


def read_numbers(table: Table, name: str) -> NDArray[np.float64]:
    """Return the numbers of a column, `(n,) float64`, NaN where a cell is empty. Raises `FleetError`."""
    column = table.columns[name]
    if column.dtype == object:
        column = np.array(["nan" if _is_blank(cell) else cell for cell in column], dtype=object)
    try:
        return column.astype(np.float64)
    except (ValueError, TypeError):
        row, cell = _find_bad_cell(column, float)
    hint = ", with a point where this has a decimal comma" if "," in str(cell) else ""
    raise FleetError(
        f"{table.format_place(row)}: column {name} is {cell!r}; expected numbers{hint}, empty where missing"
    )


def _read_float32(table: Table, name: str) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):  # A number that float32 cannot hold becomes infinite; `_place_on_grid` drops it.
        return read_numbers(table, name).astype(np.float32)


def _is_blank(cell: Any) -> bool:
    return cell is None or (isinstance(cell, str) and not cell.strip())


def _find_bad_cell(column: NDArray[Any], convert: Callable[[Any], float]) -> tuple[int, Any]:
    """Return the first row whose cell cannot be converted, and the cell."""
    for row, cell in enumerate(column):
        try:
            convert(cell)
        except (ValueError, TypeError):
            return row, cell
    return 0, column.dtype


def read_times(table: Table) -> NDArray[np.float64]:
    """Return the time of each row in epoch seconds, `(n,)`: from numbers, RFC 3339 texts or Parquet timestamps.

    Raises `FleetError` if a row has no time, or one that cannot be in seconds.
    """
    times = _parse_times(table, table.columns[_find_key_columns(table)[1]])
    wrong = ~((times >= 0) & (times < FINER_TIME_UNITS[0][0]))  # NaN fails both comparisons.
    if wrong.any():
        row = int(np.argmax(wrong))
        time = float(times[row])
        unit = guess_finer_unit(time)
        named = "no time" if np.isnan(time) else f"time {time:.15g}"
        looks = f" looks like {unit}" if unit else ""
        raise FleetError(f"{table.format_place(row)}: {named}{looks}; {EXPECTED_TIME}")
    return times


def _parse_times(table: Table, column: NDArray[Any]) -> NDArray[np.float64]:
    if np.issubdtype(column.dtype, np.datetime64):
        # The grid has whole seconds, and unlike finer units they cannot overflow.
        missing = np.isnat(column)
        return np.where(missing, np.nan, column.astype("datetime64[s]").astype(np.int64).astype(np.float64))
    if column.dtype == object:
        column = np.array(["nan" if _is_blank(cell) else cell for cell in column], dtype=object)
    try:
        return column.astype(np.float64)
    except (ValueError, TypeError):
        pass
    try:
        return np.array([_parse_time(text) for text in column], dtype=np.float64)
    except (ValueError, TypeError):
        row, cell = _find_bad_cell(column, _parse_time)
    raise FleetError(f"{table.format_place(row)}: time {cell!r}; {EXPECTED_TIME}")


def _parse_time(text: str) -> float:
    if text == "nan":
        return float("nan")
    moment = datetime.fromisoformat(text.strip())
    # RFC 3339 always has an offset; a text without one is read as UTC, never in this machine's time zone.
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _apply_mapping(path: Path, columns: FileColumns, mapping: Mapping[str, ColumnMapping]) -> FileColumns:
    by_name = {name.casefold(): values for name, values in columns.values.items()}
    for feature, mapped in mapping.items():
        if mapped.column.casefold() not in by_name:
            raise FleetError(
                f"{path}: no column {mapped.column} for --map {feature}; expected one of {', '.join(columns.values)}"
            )
    values = {feature: by_name[one.column.casefold()] * np.float32(one.factor) for feature, one in mapping.items()}
    return FileColumns(columns.servers, columns.times, values)


def _place_on_grid(path: Path, columns: FileColumns, step_seconds: int) -> RecordedFleet:
    names, which = np.unique(columns.servers, return_inverse=True)
    steps = np.floor(columns.times / step_seconds).astype(np.int64)
    first = int(steps.min())
    length = int(steps.max()) - first + 1
    check_grid_size(f"{path}: times from {columns.times.min():.15g} to {columns.times.max():.15g}", len(names), length)
    cell = which * length + (steps - first)
    series = np.full((len(names) * length, len(columns.values)), np.nan, dtype=np.float32)
    for index, values in enumerate(columns.values.values()):
        given = find_values(values)  # a daemon would reject the whole row for another number
        count = np.bincount(cell[given], minlength=len(series))
        total = np.bincount(cell[given], weights=values[given], minlength=len(series))
        series[count > 0, index] = (total[count > 0] / count[count > 0]).astype(np.float32)
    return RecordedFleet(
        servers=tuple(str(name) for name in names),
        features=tuple(columns.values),
        first_step=first,
        series=series.reshape(len(names), length, -1),
    )
