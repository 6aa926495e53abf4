"""Recorded fleets as tables: columns that are computed from others, and rows onto a regular grid.

This module uses pandas; `streamd.tools.fleets` reads the files.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from streamd.tools.fleets import readers, tables
from streamd.tools.fleets.errors import FleetError


def read_table(path: Path, key: str = "") -> pd.DataFrame:
    """Return a long table as `machine`, `ts` in epoch seconds and the other columns.

    `key` is the column that names the machine, if it has none of the names that `streamd replay` takes. Raises
    `FleetError`, with the file and the line, if a column is missing or a time cannot be in seconds.
    """
    table = tables.load_table(path)
    if key in table.columns:
        table = replace(table, columns={"machine" if c == key else c: v for c, v in table.columns.items()})
    servers, times = readers.read_servers(table), readers.read_times(table)
    keys = {table.find_column(tables.SERVER_COLUMNS), table.find_column(tables.TIME_COLUMNS)}
    metrics = {name: _read_metric(table, name) for name in table.columns if name not in keys}
    return pd.DataFrame({"machine": servers.astype(object), "ts": times, **metrics})


def _read_metric(table: tables.Table, name: str) -> np.ndarray:
    """Return the numbers of a column; a Parquet column is returned as it is, because it may hold no numbers."""
    return table.columns[name] if table.lines is None else readers.read_numbers(table, name)


def derive_column(frame: pd.DataFrame, expression: str) -> pd.Series:
    """Return a column or a derived one, whose only form is `number - column`. Raises `FleetError`."""
    if expression in frame:
        return frame[expression]
    left, _, column = expression.partition(" - ")
    if not left.isdecimal() or column not in frame:
        raise FleetError(f"feature map: {expression!r} is neither a column nor a number - column")
    return float(left) - frame[column]


def place_on_grid(
    frame: pd.DataFrame, begin: int, steps: int, step_seconds: int
) -> tuple[list[str], list[str], np.ndarray]:
    """Return the machines, the columns and the values, `(machine, step, metric) float32`.

    The last sample of a step is used; a step without a sample is NaN.
    """
    columns = [c for c in frame.columns if c not in ("machine", "ts")]
    machines = sorted(frame["machine"].astype(str).unique())
    values = np.full((len(machines), steps, len(columns)), np.nan, np.float32)
    for i, (_, rows) in enumerate(frame.groupby("machine", sort=True)):
        rows = rows.sort_values("ts", kind="stable")
        slot = np.floor((rows["ts"].to_numpy() - begin) / step_seconds + 0.5).astype(int)
        inside = (slot >= 0) & (slot < steps)
        values[i, slot[inside]] = rows[columns].to_numpy(np.float32)[inside]
    return machines, columns, values
