"""Reads real windows for calibration and comparison: from an `.npz` of the model's inputs, or from a fleet's file.

A fleet's file (.csv, .csv.gz, .parquet) is cut into windows by the version's contract, evenly over servers and time.
It runs no network.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from streamd.core.calendar import compute_known_future
from streamd.core.contract import MEMORY_INPUT, ModelContract
from streamd.core.errors import ConfigError
from streamd.inference.api.memory import compute_series_memory
from streamd.tools.engine.graph.onnx_graph import Signature
from streamd.tools.fleets.fleet import RecordedFleet

ModelInputs = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class FleetWindows:
    """Windows of a fleet, and their places in it."""

    windows: ModelInputs
    """Inputs by name, each `(windows, ...)`."""

    series: npt.NDArray[np.float32]
    """`(server, step, feature)`: the whole fleet in the contract's order, NaN where a value is missing."""

    servers: npt.NDArray[np.intp]
    """The server of each window."""

    starts: npt.NDArray[np.intp]
    """The first step of each window."""


def read_windows(path: Path, signature: Signature, contract: ModelContract | None, count: int) -> ModelInputs:
    """Return up to `count` windows as arrays by input name, each `(windows, ...)`; raises `ConfigError`."""
    if is_array_file(path):
        return _read_arrays(path, signature, count)
    return read_fleet_windows(path, require_contract(path, contract), count)


def read_fleet_windows(path: Path, contract: ModelContract, count: int) -> ModelInputs:
    """Return up to `count` windows of a recorded fleet's file; raises `ConfigError`."""
    return cut_windows(read_fleet_on_grid(path, contract), contract, count).windows


def is_array_file(path: Path) -> bool:
    """Whether a file is an `.npz` of inputs; else it is a fleet's. Raises `ConfigError` if there is no file."""
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; expected .npz, .csv, .csv.gz or .parquet")
    return path.suffix == ".npz"


def require_contract(path: Path, contract: ModelContract | None) -> ModelContract:
    """Return the contract to cut a fleet's file by; raises `ConfigError` if it is None."""
    if contract is None:
        raise ConfigError(f"{path}: a fleet's file needs a manifest to be cut by: give --config, or an .npz")
    return contract


def read_fleet_on_grid(path: Path, contract: ModelContract) -> RecordedFleet:
    """Read a fleet's file on the contract's grid, with the features that the contract has; raises `ConfigError`."""
    from streamd.tools.fleets.errors import FleetError
    from streamd.tools.fleets.readers import read_fleet

    try:
        return read_fleet(path, contract.step_seconds).select_features(contract.features)
    except FleetError as exc:
        raise ConfigError(str(exc)) from exc


def cut_windows(fleet: RecordedFleet, contract: ModelContract, count: int, after: int = 0) -> FleetWindows:
    """Cut windows with `after` steps behind each, evenly over servers and time; raises `ConfigError`.

    Features that the fleet does not have are missing, and every server is unknown (id 0). A memory is that of the
    fleet's rows until the end of each window.
    """
    context = contract.context_length
    origins = fleet.steps - context - after + 1
    if origins < 1:
        raise ConfigError(f"the fleet has {fleet.steps} steps; expected {context + after} or more")
    pairs = len(fleet.servers) * origins
    chosen = np.unique(np.linspace(0, pairs - 1, min(count, pairs)).astype(np.intp))
    servers, starts = np.divmod(chosen, origins)
    series = np.full((*fleet.series.shape[:2], len(contract.features)), np.nan, np.float32)
    series[..., [contract.feature_index[name] for name in fleet.features]] = fleet.series
    newest = fleet.first_step + starts + context - 1
    shapes = contract.input_shapes
    windows = {
        "encoder_cont": series[servers[:, None], starts[:, None] + np.arange(context)],
        "encoder_cat": np.zeros((len(chosen), *shapes["encoder_cat"]), np.int32),
        "decoder_cont": np.stack(
            [compute_known_future(int(step), contract.horizon, contract.step_seconds) for step in newest]
        ),
        "decoder_cat": np.zeros((len(chosen), *shapes["decoder_cat"]), np.int32),
    }
    if contract.memory_length:
        windows[MEMORY_INPUT] = _make_memory(series, fleet.first_step, contract, servers, starts + context)
    return FleetWindows(windows, series, servers, starts)


def _make_memory(
    series: npt.NDArray[np.float32],
    first_step: int,
    contract: ModelContract,
    servers: npt.NDArray[np.intp],
    ends: npt.NDArray[np.intp],
) -> npt.NDArray[np.float32]:
    """Return the memory of windows that end before these steps of the series, `(windows, length, features)`."""
    period = contract.memory_step_seconds // contract.step_seconds
    made = np.empty((len(servers), *contract.input_shapes[MEMORY_INPUT]), np.float32)
    for server in np.unique(servers):
        own = servers == server
        made[own] = compute_series_memory(
            series[server], ends[own], first_step=first_step, period=period, length=contract.memory_length
        )
    return made


def _read_arrays(path: Path, signature: Signature, count: int) -> ModelInputs:
    with np.load(path, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    windows: ModelInputs = {}
    for spec in signature.inputs:
        if spec.name not in arrays and spec.default is not None:
            continue
        if spec.name not in arrays:
            raise ConfigError(f"{path}: no array {spec.name!r}; it has {sorted(arrays)}")
        found = arrays[spec.name]
        if found.shape[1:] != spec.shape or str(found.dtype) != spec.dtype or not len(found):
            expected = f"(windows, {', '.join(map(str, spec.shape))}) {spec.dtype}"
            raise ConfigError(f"{path}: {spec.name!r} is {found.shape} {found.dtype}; expected {expected}")
        windows[spec.name] = found[:count]
    sizes = {name: len(values) for name, values in windows.items()}
    if len(set(sizes.values())) != 1:
        raise ConfigError(f"{path}: numbers of windows are {sizes}; expected as many windows of each input")
    for spec in signature.inputs:
        if spec.name not in windows and spec.default is not None:
            windows[spec.name] = np.repeat(spec.default, next(iter(sizes.values())), axis=0)
    return windows
