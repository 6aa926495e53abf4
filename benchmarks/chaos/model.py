"""The model of a chaos run: its contract, the values of its rows, and a forecast that repeats its whole window.

Shared by the daemon's lanes, the senders and the checker. Every number is exact in float32, so a single wrong, missing
or moved cell of a window shows in its forecast.
"""

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt

from streamd.core.contract import ModelContract
from tests.support.onnx_bytes import identity_model, tensors_of

CONTRACT = ModelContract(
    features=("a", "b", "c", "d"),
    targets=("a",),
    quantiles=(0.2, 0.4, 0.6, 0.8),
    context_length=16,
    horizon=16,
    step_seconds=60,
    architecture="chaos",
)
NEED = 4
"""Rows that a window must have before it is forecast."""

OFFSETS = {"chaos_tensorrt_20260101_000000": 0.0, "chaos_tensorrt_20260102_000000": 0.5}
"""The number that each version adds, so that a forecast shows which version made it."""

MISSING = -1.0
"""Stands for a missing value in a forecast; no value of a row is negative."""

LARGEST_VALUE = 2**22
"""With half a unit added, larger integers would not be exact in float32."""


def make_value(server: int, step: int, feature: int, variant: int) -> float:
    """Return the value of one cell: an integer that hardly any other cell has. Each amendment is a new variant."""
    mixed = (server * 0x9E3779B1 + step * 0x85EBCA77 + feature * 0xC2B2AE3D + variant * 0x27D4EB2F) & 0xFFFFFFFF
    mixed = ((mixed ^ mixed >> 15) * 0x2C1B3C6D) & 0xFFFFFFFF
    return float((mixed ^ mixed >> 13) % LARGEST_VALUE)


def make_forecasts(windows: npt.NDArray[np.float32], offset: float) -> npt.NDArray[np.float32]:
    """Return the forecasts of `(count, context_length, features)` as `(count, horizon, 1, quantiles)`."""
    shown = np.where(np.isnan(windows), np.float32(MISSING), windows) + np.float32(offset)
    forecasts: npt.NDArray[np.float32] = shown[:, :, None, :].astype(np.float32)
    return forecasts


def write_versions(folder: Path) -> Path:
    """Write both versions into a new folder; returns the folder."""
    *inputs, output = tensors_of(CONTRACT).values()
    graph = identity_model(inputs, [output], "encoder_cont", "predictions")
    manifest = {
        "features": CONTRACT.features,
        "targets": CONTRACT.targets,
        "quantiles": CONTRACT.quantiles,
        "context_length": CONTRACT.context_length,
        "horizon": CONTRACT.horizon,
        "step_seconds": CONTRACT.step_seconds,
        "architecture": CONTRACT.architecture,
    }
    for name in OFFSETS:
        version = folder / name
        version.mkdir(parents=True)
        (version / "model.onnx").write_bytes(graph)
        (version / "config.json").write_text(json.dumps(manifest), encoding="ascii")
    return folder
