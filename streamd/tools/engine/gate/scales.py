"""Computes what errors are relative to: the largest value of a forecast, or a share of what it was made of.

A forecast may be zero where its window is not, and then every error would be infinite.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from streamd.core.contract import MEMORY_INPUT, ModelContract

WINDOW_SHARE = 0.01
"""An error counts as relative to this share of the largest value of the window and its memory, if the forecast is
smaller: a server that was busy a week ago and is idle now has forecasts near zero, in units of the week."""

ABSENT = 1e30
"""Values from here on count as missing, as in the networks."""


def compute_least_scales(inputs: Mapping[str, npt.NDArray[Any]], contract: ModelContract) -> npt.NDArray[np.float64]:
    """Return the least scale of each forecast, `(windows, targets)`, in the units of the targets; 0 without values.

    `inputs` are by name, each `(windows, ...)`; without `encoder_cont` every least scale is 0.
    """
    past = [inputs[name] for name in ("encoder_cont", MEMORY_INPUT) if name in inputs]
    if not past:
        count = len(next(iter(inputs.values())))
        return np.zeros((count, len(contract.targets)))
    columns = [contract.feature_index[name] for name in contract.targets]
    sizes = [np.abs(values[:, :, columns].astype(np.float64)) for values in past]
    largest = [np.where(size < ABSENT, size, 0.0).max(axis=1) for size in sizes]
    return np.asarray(WINDOW_SHARE * np.max(largest, axis=0))
