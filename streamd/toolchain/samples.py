"""Real windows for calibration and comparison: from an `.npz` of the model's inputs, or from a fleet's file.

A fleet's file (.csv, .csv.gz, .parquet) is cut into windows by the version's contract, evenly over servers and time.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from streamd.core.calendar import known_future
from streamd.core.contract import ModelContract
from streamd.core.errors import ConfigError
from streamd.toolchain.graphs import Signature

Windows = dict[str, npt.NDArray[Any]]


def read_windows(path: Path, signature: Signature, contract: ModelContract | None, count: int) -> Windows:
    """Up to `count` windows as arrays by input name, each `(windows, ...)`; raises `ConfigError`."""
    if not path.is_file():
        raise ConfigError(f"--calibration-data {path}: no such file; expected .npz, .csv, .csv.gz or .parquet")
    if path.suffix == ".npz":
        return _from_arrays(path, signature, count)
    if contract is None:
        raise ConfigError(f"--calibration-data {path}: a fleet's file needs a manifest to be cut by: give --config")
    return windows_of_fleet(path, contract, count)


def windows_of_fleet(path: Path, contract: ModelContract, count: int) -> Windows:
    """Windows of a recorded fleet; features that it does not have are missing, and every server is unknown (id 0)."""
    from streamd.replay.errors import UsageError
    from streamd.replay.readers import read_fleet

    try:
        fleet = read_fleet(path, contract.step_seconds).of_features(contract.features)
    except UsageError as exc:
        raise ConfigError(f"--calibration-data {exc}") from exc
    origins = fleet.steps - contract.context_length + 1
    if origins < 1:
        raise ConfigError(f"--calibration-data {path}: {fleet.steps} steps; expected {contract.context_length} or more")
    pairs = len(fleet.servers) * origins
    chosen = np.unique(np.linspace(0, pairs - 1, min(count, pairs)).astype(np.intp))
    columns = [contract.feature_index[name] for name in fleet.features]
    windows = {
        name: np.zeros((len(chosen), *shape), np.int32 if name.endswith("_cat") else np.float32)
        for name, shape in contract.input_shapes.items()
    }
    windows["encoder_cont"][:] = np.nan
    for row, pair in enumerate(chosen):
        server, start = divmod(int(pair), origins)
        stop = start + contract.context_length
        windows["encoder_cont"][row][:, columns] = fleet.series[server, start:stop]
        windows["decoder_cont"][row] = known_future(
            fleet.first_step + stop - 1, contract.horizon, contract.step_seconds
        )
    return windows


def _from_arrays(path: Path, signature: Signature, count: int) -> Windows:
    with np.load(path, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    windows: Windows = {}
    for spec in signature.inputs:
        if spec.name not in arrays:
            raise ConfigError(f"{path}: no array {spec.name!r}; it has {sorted(arrays)}")
        found = arrays[spec.name]
        if found.shape[1:] != spec.shape or str(found.dtype) != spec.dtype or not len(found):
            expected = f"(windows, {', '.join(map(str, spec.shape))}) {spec.dtype}"
            raise ConfigError(f"{path}: {spec.name!r} is {found.shape} {found.dtype}; expected {expected}")
        windows[spec.name] = found[:count]
    sizes = {name: len(values) for name, values in windows.items()}
    if len(set(sizes.values())) > 1:
        raise ConfigError(f"{path}: as many windows of each input are expected; it has {sizes}")
    return windows
