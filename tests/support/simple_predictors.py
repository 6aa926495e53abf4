"""Simple forecasters as models: they take the inputs of a network and need none.

They are stand-ins where a test is about the judgement of a model.
"""

from typing import Any

import numpy as np


def predict_window_quantiles(inputs: dict[str, np.ndarray], contract: Any) -> np.ndarray:
    """Return the quantiles of the known rows of each target, `(batch, horizon, target, quantile)`; 0 without any."""
    past = inputs["encoder_cont"][..., contract.target_index]
    ordered = np.sort(past, axis=1)
    last = np.maximum((~np.isnan(past)).sum(axis=1) - 1, 0)
    found = []
    for level in contract.quantiles:
        low = np.floor(last * level).astype(int)
        ends = [np.take_along_axis(ordered, np.minimum(low + i, last)[:, None], axis=1)[:, 0] for i in (0, 1)]
        found.append(ends[0] + (ends[1] - ends[0]) * (last * level - low))
    values = np.nan_to_num(np.stack(found, axis=-1))[:, None]
    return np.asarray(np.repeat(values, contract.horizon, axis=1), np.float32)


def predict_last_values(inputs: dict[str, np.ndarray], contract: Any) -> np.ndarray:
    """Return the value of the newest row as all quantiles of all steps; 0 if it is missing."""
    last = np.nan_to_num(inputs["encoder_cont"][:, -1:, contract.target_index, None])
    shape = (len(last), contract.horizon, len(contract.targets), len(contract.quantiles))
    return np.ascontiguousarray(np.broadcast_to(last, shape))


def predict_remembered_day(inputs: dict[str, np.ndarray], contract: Any) -> np.ndarray:
    """Return the mean of the hours of the newest remembered day as all quantiles; 0 if it is missing."""
    memory = np.nan_to_num(inputs["memory_cont"][:, -24:, contract.target_index])
    steps = 3600 // contract.step_seconds
    ahead = np.repeat(memory, steps, axis=1)[:, : contract.horizon, :, None]
    return np.ascontiguousarray(np.repeat(ahead, len(contract.quantiles), axis=-1))
