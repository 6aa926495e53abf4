"""Recorded fleets for training and evaluation: each on a regular grid, with splits in time.

`datasets` says which there are. A fleet file of another origin has the same form: a table (Parquet or CSV) with a
server, a time (`machine` and `ts`, or the names that `streamd replay` takes) and one column for each metric.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from streamd.core.calendar import DAY_SECONDS
from streamd.core.errors import ConfigError
from streamd.repository.conversion import hash_file
from streamd.tools.fleets.errors import FleetError
from streamd.tools.networks.contract import FEATURE_UNITS
from streamd.tools.training.datasets import DATASETS, DatasetDefinition
from streamd.tools.training.parts import (
    RecordedPart,
    SplitLengths,
    align_parts,
    cut_at_gaps,
    split_at_time,
    split_by_share,
)
from streamd.tools.training.recorded_tables import derive_column, place_on_grid, read_table

LEAST_TEST_DAYS = 2


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
    """`(machine, step, metric) float32`, NaN for a step without a sample.

    All machines change from one split to the next at the same step. A machine that was recorded for a shorter time has
    NaN before its first row, after its last one, or both.
    """

    natural: list[str | None]
    """The column of each feature by the feature map, or `None`."""

    begins: np.ndarray
    """`(machine,) int64`: epoch seconds of step 0 of each machine; machines need not begin together."""

    step_seconds: int
    splits: dict[str, tuple[int, int]]
    """The first step and the step after the last, of `train`, `val` and `test`."""

    sha256: dict[str, str]
    """The SHA-256 of the table and of `splits.json`, by file name."""

    scored: dict[str, str] = field(default_factory=dict)
    """The metrics that are scored, each with the target as which it is an input; all that have a target if empty."""

    has_weekdays: bool = False
    """Whether the time stamps are those of the recording, so that the day of the week is true."""

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

    def find_extents(self) -> np.ndarray:
        """Return the first step of each machine that has a value and the step after the last one, `(machine, 2)`."""
        seen = ~np.isnan(self.values).all(axis=2)
        first, end = seen.argmax(axis=1), seen.shape[1] - seen[:, ::-1].argmax(axis=1)
        return np.where(seen.any(axis=1, keepdims=True), np.stack([first, end], axis=1), 0)

    def stack_features(self) -> np.ndarray:
        """Return `(machine, step, feature) float32` in the order of the contract, NaN for features without a column."""
        absent = np.full(self.values.shape[:2], np.nan, np.float32)
        parts = [absent if c is None else self.values[..., self.find_column(c)] for c in self.natural]
        return np.stack(parts, axis=-1)


def load_fleet(folder: Path, name: str) -> TrainingFleet:
    """Read a data set of the data pack by name; raises `DataError`.

    `smd` and `asd` have `splits.json` and `feature_map.json` beside their tables; the others have both in `DATASETS`.
    """
    definition = DATASETS.get(name)
    if definition is None:
        raise DataError(f"dataset {name!r}: expected one of {sorted(DATASETS)}")
    path = folder / definition.file
    beside = ["splits.json", "feature_map.json"] if definition.natural is None else []
    for file in (path, *(folder / each for each in beside)):
        if not file.is_file():
            raise DataError(f"{file}: no such file; expected a folder with {', '.join([path.name, *beside])}")
    try:
        frame = _read_rows(path, definition)
        natural = _derive_features(frame, _read_natural(folder, name, definition))
        placed = _place_whole(folder, name, frame, definition) if beside else _place_parts(frame, definition)
    except FleetError as error:
        raise DataError(str(error)) from error
    hashed = (path.name, "splits.json") if beside else (path.name,)
    return TrainingFleet(
        name=name,
        columns=[c for c in frame.columns if c not in ("machine", "ts")],
        natural=natural,
        step_seconds=definition.step_seconds,
        sha256={file: hash_file(folder / file) for file in hashed},
        scored=dict(definition.scored),
        has_weekdays=definition.has_weekdays,
        **placed,
    )


def list_datasets(folder: Path) -> list[str]:
    """Return the names of the data sets whose tables are in a folder."""
    return [name for name, definition in DATASETS.items() if (folder / definition.file).is_file()]


def load_fleets(folder: Path, needed: Iterable[str] = ("smd",)) -> list[TrainingFleet]:
    """Read all data sets that are in a folder; raises `DataError` if a needed one is not."""
    present = list_datasets(folder)
    return [load_fleet(folder, name) for name in DATASETS if name in present or name in set(needed)]


def _read_rows(path: Path, definition: DatasetDefinition) -> pd.DataFrame:
    """Return the rows of a data set that have its step."""
    frame = read_table(path, definition.key)
    if not definition.step_column:
        return frame
    chosen = frame[definition.step_column] == definition.step_seconds
    return frame[chosen].drop(columns=definition.step_column)


def _read_natural(folder: Path, name: str, definition: DatasetDefinition) -> dict[str, str | None]:
    """Return the column or expression of each feature, from the definition or from `feature_map.json`."""
    if definition.natural is not None:
        return dict(definition.natural)
    feature_map = json.loads((folder / "feature_map.json").read_text())[name]
    return {feature: (feature_map.get(feature) or [None])[0] for feature in FEATURE_UNITS}


def _derive_features(frame: pd.DataFrame, natural: dict[str, str | None]) -> list[str | None]:
    """Add derived columns to a table; return the column of each feature."""
    found = [natural.get(feature) for feature in FEATURE_UNITS]
    for expression in found:
        if expression is not None:
            frame[expression] = derive_column(frame, expression)
    return found


def _place_whole(folder: Path, name: str, frame: pd.DataFrame, definition: DatasetDefinition) -> dict[str, Any]:
    """Return the fields of a fleet whose machines share one grid, with the splits of `splits.json`."""
    splits = json.loads((folder / "splits.json").read_text())[name]
    begin, end, step = splits["train"][0], splits["test"][1], definition.step_seconds
    machines, _, values = place_on_grid(frame, begin, (end - begin) // step, step)
    slots = {key: ((a - begin) // step, (b - begin) // step) for key, (a, b) in splits.items()}
    begins = np.full(len(machines), begin, np.int64)
    return {"machines": machines, "values": values, "splits": slots, "begins": begins}


def _place_parts(frame: pd.DataFrame, definition: DatasetDefinition) -> dict[str, Any]:
    """Return the fields of a fleet whose machines are cut at long gaps, each part on its own grid."""
    step, day = definition.step_seconds, DAY_SECONDS // definition.step_seconds
    parts: list[RecordedPart] = []
    lengths: list[SplitLengths] = []
    for name, rows in frame.groupby("machine", sort=True):
        begin = int(rows["ts"].min()) // step * step
        steps = int(rows["ts"].max() - begin) // step + 1
        _, _, values = place_on_grid(rows, begin, steps, step)
        gap, least = round(definition.longest_gap_days * day), round(definition.least_days * day)
        mine = cut_at_gaps(str(name), begin, values[0], gap, least, step)
        val = round(definition.validation_days * day)
        if definition.test_begin:
            lengths += split_at_time(mine, definition.test_begin, val, step)
        else:
            lengths += split_by_share(mine, definition.test_share, val, LEAST_TEST_DAYS * day)
        parts += mine
    if not parts:
        raise FleetError(f"{definition.file}: no machine has {definition.least_days:g} days, expected one or more")
    aligned = align_parts(parts, lengths, step)
    return {
        "machines": aligned.names,
        "values": aligned.values,
        "splits": aligned.splits,
        "begins": aligned.begins,
    }


def read_training_fleet(
    path: Path, features: Iterable[str], mapping: dict[str, str], step_seconds: int = 300
) -> TrainingFleet:
    """Read any fleet file; raises `DataError`.

    A feature is the column that `mapping` gives it, else the column of its name. The splits in time are 60, 10 and
    30 %. Only the errors of the naive forecasts are learned from the first.
    """
    try:
        frame = read_table(path)
    except FleetError as error:
        raise DataError(str(error)) from error
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
        begins=np.full(len(machines), begin, np.int64),
        step_seconds=step_seconds,
        splits=splits,
        sha256={path.name: hash_file(path)},
        has_weekdays=True,
    )


def is_left_out(position: int, every: int) -> bool:
    """Whether the machine at this position in the order of names is excluded from training (0: none is)."""
    return every > 0 and position % every == every - 1
