"""Reads recorded fleets for training and evaluation: long tables of samples onto a regular grid, with splits.

A dataset is a table (Parquet or CSV) with a server, a time (`machine` and `ts`, or the names that `streamd replay`
takes) and one column for each metric. This module uses pandas; `streamd.tools.fleets` reads the files.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from streamd.core.errors import ConfigError
from streamd.repository.conversion import hash_file
from streamd.tools.fleets import readers, tables
from streamd.tools.fleets.errors import FleetError
from streamd.tools.networks.contract import FEATURE_UNITS

DATASET_FILES = {"smd": "smd_5min.parquet", "asd": "asd_5min.parquet"}
SCORED = {
    "smd": {"cpu_r": "cpu_user", "load_1": "load_average", "mem_u": "mem_used", "eth1_fi": "net_in",
            "eth1_fo": "net_out", "curr_estab": "front_close_wait"},
    "asd": {"f07": "cpu_user", "f09": "mem_used", "f11": "net_in", "f13": "net_out", "f19": "load_average"},
}  # fmt: skip
"""The metrics that the baselines score, with the feature as which each is an input of the model."""


class DataError(ConfigError, ValueError):
    """A fleet, a model or a column that is missing or not as expected."""


@dataclass(kw_only=True)
class TrainingFleet:
    """One dataset on its grid."""

    name: str
    machines: list[str]
    columns: list[str]
    """The names of the metrics."""

    values: np.ndarray
    """`(machine, step, metric) float32`, NaN for a step without a sample."""

    natural: list[str | None]
    """The column of each feature by the feature map, or `None`."""

    begin: int
    """Epoch seconds of the first step."""

    step_seconds: int
    splits: dict[str, tuple[int, int]]
    """The first step and the step after the last, of `train`, `val` and `test`."""

    sha256: dict[str, str]
    """The SHA-256 of the table and of `splits.json`, by file name."""

    def select_split(self, split: str, machines: Iterable[int] | None = None) -> np.ndarray:
        """Return the values of one split and none beyond it, `(machine, step, metric)`."""
        first, last = self.splits[split]
        chosen = list(range(len(self.machines))) if machines is None else list(machines)
        return self.values[chosen, first:last]

    def find_column(self, name: str) -> int:
        """Return the position of a metric in `columns`; raises `DataError` if there is no such column."""
        if name not in self.columns:
            raise DataError(f"dataset {self.name!r} has no column {name!r}, expected one of {self.columns}")
        return self.columns.index(name)

    def stack_features(self) -> np.ndarray:
        """Return `(machine, step, feature) float32` in the order of the contract, NaN for features without a column."""
        absent = np.full(self.values.shape[:2], np.nan, np.float32)
        parts = [absent if c is None else self.values[..., self.find_column(c)] for c in self.natural]
        return np.stack(parts, axis=-1)


def load_fleet(folder: Path, name: str, step_seconds: int = 300) -> TrainingFleet:
    """Read a dataset of the data pack by name, with `splits.json` and `feature_map.json`; raises `DataError`."""
    if name not in DATASET_FILES:
        raise DataError(f"dataset {name!r}: expected one of {sorted(DATASET_FILES)}")
    path = folder / DATASET_FILES[name]
    for file in (path, folder / "splits.json", folder / "feature_map.json"):
        if not file.is_file():
            raise DataError(f"{file}: no such file; expected a folder with {path.name}, splits.json, feature_map.json")
    splits = json.loads((folder / "splits.json").read_text())[name]
    begin, end = splits["train"][0], splits["test"][1]
    feature_map = json.loads((folder / "feature_map.json").read_text())[name]
    frame = read_table(path)
    natural = []
    for feature in FEATURE_UNITS:
        expression = (feature_map.get(feature) or [None])[0]
        if expression is not None and expression not in frame:
            frame[expression] = derive_column(frame, expression)
        natural.append(expression)
    slots = {key: ((a - begin) // step_seconds, (b - begin) // step_seconds) for key, (a, b) in splits.items()}
    machines, columns, values = place_on_grid(frame, begin, (end - begin) // step_seconds, step_seconds)
    hashes = {f: hash_file(folder / f) for f in (path.name, "splits.json")}
    return TrainingFleet(
        name=name,
        machines=machines,
        columns=columns,
        values=values,
        natural=natural,
        begin=begin,
        step_seconds=step_seconds,
        splits=slots,
        sha256=hashes,
    )


def read_training_fleet(
    path: Path, features: Iterable[str], mapping: dict[str, str], step_seconds: int = 300
) -> TrainingFleet:
    """Read any fleet file; raises `DataError`.

    A feature is the column that `mapping` gives it, else the column of its name. The splits in time are 60, 10 and
    30 %. Only the errors of the naive forecasts are learned from the first.
    """
    frame = read_table(path)
    natural = [mapping.get(f, f if f in frame else None) for f in features]
    unknown = [c for c in natural if c is not None and c not in frame]
    if unknown or not any(natural):
        raise DataError(f"{path}: no columns {unknown or list(features)}, expected some of {sorted(frame.columns)}")
    begin = int(frame["ts"].min()) // step_seconds * step_seconds
    steps = (int(frame["ts"].max()) - begin) // step_seconds + 1
    used = [c for c in dict.fromkeys(natural) if c is not None]
    machines, columns, values = place_on_grid(frame[["machine", "ts", *used]], begin, steps, step_seconds)
    first, second = int(steps * 0.6), int(steps * 0.7)
    splits = {"train": (0, first), "val": (first, second), "test": (second, steps)}
    return TrainingFleet(
        name=path.stem,
        machines=machines,
        columns=columns,
        values=values,
        natural=natural,
        begin=begin,
        step_seconds=step_seconds,
        splits=splits,
        sha256={path.name: hash_file(path)},
    )


def is_left_out(position: int, every: int) -> bool:
    """Whether the machine at this position in the order of names is excluded from training (0: none is)."""
    return every > 0 and position % every == every - 1


def read_table(path: Path) -> pd.DataFrame:
    """Return a long table as `machine`, `ts` in epoch seconds and the other columns.

    Raises `DataError`, with the file and the line, if a column is missing or a time cannot be in seconds.
    """
    try:
        table = tables.load_table(path)
        servers, times = readers.read_servers(table), readers.read_times(table)
        keys = {table.find_column(tables.SERVER_COLUMNS), table.find_column(tables.TIME_COLUMNS)}
        metrics = {name: _read_metric(table, name) for name in table.columns if name not in keys}
    except FleetError as error:
        raise DataError(str(error)) from error
    return pd.DataFrame({"machine": servers.astype(object), "ts": times, **metrics})


def _read_metric(table: tables.Table, name: str) -> np.ndarray:
    """Return the numbers of a column; a Parquet column is returned as it is, because it may hold no numbers."""
    return table.columns[name] if table.lines is None else readers.read_numbers(table, name)


def derive_column(frame: pd.DataFrame, expression: str) -> pd.Series:
    """Return a derived column of the feature map; its only form is `1 - column`. Raises `DataError`."""
    left, _, column = expression.partition(" - ")
    if left != "1" or column not in frame:
        raise DataError(f"feature map: {expression!r} is neither a column nor '1 - column'")
    return 1.0 - frame[column]


def place_on_grid(
    frame: pd.DataFrame, begin: int, steps: int, step_seconds: int
) -> tuple[list[str], list[str], np.ndarray]:
    """Return the machines, the columns and the values, `(machine, step, metric) float32`.

    The last sample of a step is used; a step without a sample is NaN.
    """
    columns = [c for c in frame.columns if c not in ("machine", "ts")]
    machines = sorted(frame["machine"].astype(str).unique())
    values = np.full((len(machines), steps, len(columns)), np.nan, np.float32)
    for i, machine in enumerate(machines):
        rows = frame[frame["machine"].astype(str) == machine].sort_values("ts")
        slot = np.floor((rows["ts"].to_numpy() - begin) / step_seconds + 0.5).astype(int)
        inside = (slot >= 0) & (slot < steps)
        values[i, slot[inside]] = rows[columns].to_numpy(np.float32)[inside]
    return machines, columns, values
