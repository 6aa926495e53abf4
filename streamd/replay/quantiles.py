"""Are quantiles in order? Asked of every value of every forecast, so it must be quick. Arrays only."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

# Float16 as ordered integers: the magnitude bits of the type, and where infinity lies.
HALF_MAGNITUDE = np.int16(0x7FFF)
HALF_INFINITY = 0x7C00


def disordered(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Which of the forecasts ``[n, target, step, quantile]`` have a quantile above the next one, or a NaN."""
    if values.dtype == np.float16:
        suspect = _suspect_halves(np.ascontiguousarray(values))
        if not suspect.any():
            return suspect
        # The integer order puts -0 under +0 and can't tell NaN from infinity: let floats decide on the few.
        suspect[suspect] = _disordered_floats(values[suspect].astype(np.float32))
        return suspect
    return _disordered_floats(values)


def _disordered_floats(values: NDArray[Any]) -> NDArray[np.bool_]:
    ordered = values[..., 1:] >= values[..., :-1]  # false for NaN, as it should be
    bad: NDArray[np.bool_] = np.asarray(~ordered.all(axis=(1, 2, 3)))
    if values.shape[-1] == 1:
        bad |= np.isnan(values).any(axis=(1, 2, 3))
    return bad


def infinite(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Which of the forecasts have a value that their dtype could not hold."""
    return np.asarray(np.isinf(values).any(axis=(1, 2, 3)))


def _suspect_halves(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Integers compare far quicker than numpy's float16, which goes through float32 one by one."""
    bits = values.view(np.int16)
    keys = bits ^ ((bits >> 15) & HALF_MAGNITUDE)
    falling = keys[..., 1:] < keys[..., :-1]
    odd = (keys >= HALF_INFINITY) | (keys < -HALF_INFINITY)
    return np.asarray(falling.any(axis=(1, 2, 3)) | odd.any(axis=(1, 2, 3)))
