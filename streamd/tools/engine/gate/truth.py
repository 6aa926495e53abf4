"""Makes windows to judge a precision on, with the values that really followed them if a fleet's file has them.

Some windows are made hard on purpose: rows and features are missing, and rates are in bytes a second, as daemons get
them.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from streamd.core.contract import MEMORY_INPUT, ModelContract
from streamd.tools.engine.gate.windows import (
    ModelInputs,
    cut_windows,
    is_array_file,
    read_fleet_on_grid,
    read_windows,
    require_contract,
)
from streamd.tools.engine.graph.onnx_graph import Signature
from streamd.tools.fleets.fleet import RecordedFleet

DEFAULT_FLEET = Path("examples/fleet/servers.csv.gz")
RATE_UNIT, RATE_FACTOR = "bytes/s", 1e6
SEED = 17

TruthValues = npt.NDArray[np.float32]


@dataclass(frozen=True)
class JudgedWindows:
    """Windows to judge on, and the values that really followed them."""

    windows: ModelInputs
    """Inputs by name, each `(windows, ...)`."""

    about: str
    """The source of the windows, for the record."""

    truth: TruthValues | None = None
    """`(windows, horizon, targets) float32`, NaN where it is not known; None if nothing is known."""

    scale: TruthValues | None = None
    """`(windows, targets) float32`: the standard deviation of the whole series, NaN where the series is flat."""

    def __len__(self) -> int:
        return len(next(iter(self.windows.values())))


def read_judged_windows(
    data: Path | None, signature: Signature, contract: ModelContract | None, count: int
) -> JudgedWindows:
    """Return up to `count` windows: from a fleet's file or an `.npz` of the inputs, or random ones without either.

    With a contract and no file, they are from the fleet of `examples/`. Raises `ConfigError`.
    """
    if data is None and contract is None:
        return JudgedWindows(make_random_windows(signature, count), f"{count} random inputs")
    path = data or DEFAULT_FLEET
    if is_array_file(path):
        windows = read_windows(path, signature, contract, count)
        return JudgedWindows(windows, f"{len(next(iter(windows.values())))} windows of {path.name}")
    contract = require_contract(path, contract)
    judged = cut_with_truth(read_fleet_on_grid(path, contract), contract, count)
    harden_windows(judged, contract)
    return judged


def make_random_windows(signature: Signature, count: int) -> ModelInputs:
    """Draw inputs of the right shapes and types: normally distributed floats, and integers of 0 and 1."""
    random = np.random.default_rng(SEED)
    windows: ModelInputs = {}
    for spec in signature.inputs:
        shape = (count, *(size or 1 for size in spec.shape))
        is_integer = not np.issubdtype(np.dtype(spec.dtype), np.floating)
        drawn = random.integers(0, 2, shape) if is_integer else random.standard_normal(shape)
        windows[spec.name] = drawn.astype(spec.dtype)
    return windows


def cut_with_truth(fleet: RecordedFleet, contract: ModelContract, count: int) -> JudgedWindows:
    """Cut windows with a whole horizon after them, evenly over servers and time; every server is unknown (id 0)."""
    cut = cut_windows(fleet, contract, count, after=contract.horizon)
    ends = cut.starts[:, None] + contract.context_length + np.arange(contract.horizon)
    targets = cut.series[..., [contract.feature_index[name] for name in contract.targets]]
    about = f"{len(cut.starts)} windows of {len(fleet.servers)} servers, {len(fleet.features)} features"
    return JudgedWindows(
        cut.windows, about, targets[cut.servers[:, None], ends], _compute_deviations(targets)[cut.servers]
    )


def harden_windows(judged: JudgedWindows, contract: ModelContract) -> None:
    """Make three of four windows hard, in place: missing rows, missing features, and rates in bytes a second."""
    random = np.random.default_rng(SEED)
    past, memory = judged.windows["encoder_cont"], judged.windows.get(MEMORY_INPUT)
    rates = [contract.feature_index[name] for name, unit in contract.units.items() if unit == RATE_UNIT]
    targets = [place for place, name in enumerate(contract.targets) if contract.units.get(name) == RATE_UNIT]
    for index, window in enumerate(past):
        if index % 4 == 1:
            window[random.random(len(window)) < 0.1] = np.nan
            gap = len(window) // 6
            start = int(random.integers(0, len(window) - gap))
            window[start : start + gap] = np.nan
            if memory is not None:
                memory[index, random.random(memory.shape[1]) < 0.5] = np.nan
        elif index % 4 == 2:
            seen = np.flatnonzero(np.isfinite(window).any(axis=0))
            lost = random.permutation(seen)[: len(seen) // 3]
            window[:, lost] = np.nan
            if memory is not None:
                memory[index][:, lost] = np.nan
        elif index % 4 == 3:
            window[:, rates] *= RATE_FACTOR
            if memory is not None:
                memory[index][:, rates] *= RATE_FACTOR
            for values in (judged.truth, judged.scale):
                if values is not None:
                    values[index][..., targets] *= RATE_FACTOR


def _compute_deviations(series: TruthValues) -> TruthValues:
    """Return the standard deviation of each server's targets, NaN where a series is flat or has no values."""
    wide = series.astype(np.float64)
    seen = np.isfinite(wide)
    count = np.maximum(seen.sum(axis=1), 1)
    filled = np.where(seen, wide, 0.0)
    mean = filled.sum(axis=1) / count
    deviation = np.sqrt((np.where(seen, wide - mean[:, None], 0.0) ** 2).sum(axis=1) / count)
    flat = deviation < 1e-6 * np.maximum(1.0, np.abs(filled).max(axis=1))
    return np.where(flat, np.nan, deviation).astype(np.float32)
