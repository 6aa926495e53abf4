"""Real fleets from files: long tables of samples onto a regular grid, with splits and the feature map.

A dataset is a table (Parquet or CSV) with a server, a time (`machine` and `ts`, or as the load replayer names them)
and one column a metric.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from streamd.core.errors import ConfigError
from streamd.tools.fleets import readers, tables
from streamd.tools.fleets.errors import FleetError
from streamd.tools.networks.contract import FEATURE_UNITS

DATASET_FILES = {"smd": "smd_5min.parquet", "asd": "asd_5min.parquet"}
SCORED = {
    "smd": {"cpu_r": "cpu_user", "load_1": "load_average", "mem_u": "mem_used", "eth1_fi": "net_in",
            "eth1_fo": "net_out", "curr_estab": "front_close_wait"},
    "asd": {"f07": "cpu_user", "f09": "mem_used", "f11": "net_in", "f13": "net_out", "f19": "load_average"},
}  # fmt: skip
"""The metrics that the baselines score, and the feature each is fed in as."""


class DataError(ConfigError, ValueError):
    """A fleet, a model or a column that was named is not there, or is not what it must be."""


@dataclass
class TrainingFleet:
    """One dataset on its grid.

    values: (machine, step, metric) float32, NaN where no sample fell into the step
    columns: the metrics' names; natural: the column that the feature map gives each feature, or None
    begin: epoch seconds of the first step; splits: {"train" | "val" | "test": (first, last) step}
    """

    name: str
    machines: list[str]
    columns: list[str]
    values: np.ndarray
    natural: list[str | None]
    begin: int
    step_seconds: int
    splits: dict[str, tuple[int, int]]
    sha256: dict[str, str]

    def select_split(self, split: str, machines: Iterable[int] | None = None) -> np.ndarray:
        """(machine, step, metric) of one split, nothing beyond it."""
        first, last = self.splits[split]
        chosen = list(range(len(self.machines))) if machines is None else list(machines)
        return self.values[chosen, first:last]

    def find_column(self, name: str) -> int:
        """Where a metric stands among `columns`; DataError where there is none of that name."""
        if name not in self.columns:
            raise DataError(f"dataset {self.name!r} has no column {name!r}; it has {self.columns}")
        return self.columns.index(name)

    def stack_features(self) -> np.ndarray:
        """(machine, step, 14) float32 in contract order, NaN for features that the map gives no column."""
        absent = np.full(self.values.shape[:2], np.nan, np.float32)
        parts = [absent if c is None else self.values[..., self.find_column(c)] for c in self.natural]
        return np.stack(parts, axis=-1)


def load_fleet(folder: Path, name: str, step_seconds: int = 300) -> TrainingFleet:
    """One of the data pack's sets by name, with `splits.json` and `feature_map.json` beside it."""
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
    hashes = {f: hashlib.sha256((folder / f).read_bytes()).hexdigest() for f in (path.name, "splits.json")}
    return TrainingFleet(name, machines, columns, values, natural, begin, step_seconds, slots, hashes)


def read_training_fleet(
    path: Path, features: Iterable[str], mapping: dict[str, str], step_seconds: int = 300
) -> TrainingFleet:
    """Any fleet file: columns that are features by name, or that `mapping` names; the later third is the test.

    Splits in time are 60, 10 and 30 %; nothing is learnt from them but the naive forecasts' errors.
    """
    frame = read_table(path)
    natural = [mapping.get(f, f if f in frame else None) for f in features]
    unknown = [c for c in natural if c is not None and c not in frame]
    if unknown or not any(natural):
        raise DataError(f"{path}: no columns {unknown or list(features)}; it has {sorted(frame.columns)}")
    begin = int(frame["ts"].min()) // step_seconds * step_seconds
    steps = (int(frame["ts"].max()) - begin) // step_seconds + 1
    used = [c for c in dict.fromkeys(natural) if c is not None]
    machines, columns, values = place_on_grid(frame[["machine", "ts", *used]], begin, steps, step_seconds)
    first, second = int(steps * 0.6), int(steps * 0.7)
    splits = {"train": (0, first), "val": (first, second), "test": (second, steps)}
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return TrainingFleet(
        path.stem, machines, columns, values, natural, begin, step_seconds, splits, {path.name: digest}
    )


def read_table(path: Path) -> pd.DataFrame:
    """A long table as `machine`, `ts` in epoch seconds and the other columns; the load replayer's reader reads it.

    DataError, with the file and the place in it, where a column is missing or a time can't be in seconds.
    """
    try:
        table = tables.load_table(path)
        servers, times = readers.read_servers(table), readers.read_times(table)
        keys = {table.find_column(tables.SERVER_COLUMNS), table.find_column(tables.TIME_COLUMNS)}
        metrics = {name: _metric(table, name) for name in table.columns if name not in keys}
    except FleetError as error:
        raise DataError(str(error)) from error
    return pd.DataFrame({"machine": servers.astype(object), "ts": times, **metrics})


def _metric(table: tables.Table, name: str) -> np.ndarray:
    """A column's numbers; as it is where a Parquet column is something else, which no feature needs."""
    return table.columns[name] if table.lines is None else readers.read_numbers(table, name)


def derive_column(frame: pd.DataFrame, expression: str) -> pd.Series:
    """The one derived form in the feature map: `1 - column`."""
    left, _, column = expression.partition(" - ")
    if left != "1" or column not in frame:
        raise DataError(f"feature map: {expression!r} is neither a column nor '1 - column'")
    return 1.0 - frame[column]


def place_on_grid(
    frame: pd.DataFrame, begin: int, steps: int, step_seconds: int
) -> tuple[list[str], list[str], np.ndarray]:
    """(machine, step, metric) float32; the last sample of a step wins, a step without one is NaN."""
    columns = [c for c in frame.columns if c not in ("machine", "ts")]
    machines = sorted(frame["machine"].astype(str).unique())
    values = np.full((len(machines), steps, len(columns)), np.nan, np.float32)
    for i, machine in enumerate(machines):
        rows = frame[frame["machine"].astype(str) == machine].sort_values("ts")
        slot = np.floor((rows["ts"].to_numpy() - begin) / step_seconds + 0.5).astype(int)
        inside = (slot >= 0) & (slot < steps)
        values[i, slot[inside]] = rows[columns].to_numpy(np.float32)[inside]
    return machines, columns, values
