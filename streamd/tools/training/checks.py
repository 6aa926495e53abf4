"""Checks of a model that need no data: a constant is forecast as itself; and inputs of the right shapes.

This module needs no fleet.
"""

import numpy as np

from streamd.core.contract import INPUT_TYPES, MEMORY_INPUT
from streamd.tools.networks.contract import NetworkContract
from streamd.tools.training.backtest import Predict


def measure_constant_error(contract: NetworkContract, predict: Predict) -> float:
    """Return the largest relative deviation of a forecast from the value of a constant window, for many magnitudes."""
    values = np.array([0.0, 1e-6, 0.5, 1.0, 42.0, 99.9, 4096.0, 1e9, 3.7e12, -5.0], np.float32)
    feed = make_empty_inputs(contract, len(values))
    for name in {"encoder_cont", MEMORY_INPUT} & set(feed):
        feed[name][:] = values[:, None, None]
    out = predict(feed)
    wide = values[:, None, None, None]
    return float((np.abs(out - wide) / np.maximum(np.abs(wide), 1e-9)).max())


def make_empty_inputs(contract: NetworkContract, batch: int) -> dict[str, np.ndarray]:
    """Return inputs of the right shapes: zeros, and the calendar of a Monday at midnight."""
    found = {name: np.zeros((batch, *shape), INPUT_TYPES[name]) for name, shape in contract.input_shapes.items()}
    found["decoder_cont"][..., 1::2] = 1.0
    return found
