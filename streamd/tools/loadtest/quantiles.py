"""Are quantiles in order? Asked of every value of every forecast, so it must be quick. Arrays only."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

# Float16 as ordered integers: the magnitude bits of the type, and where infinity lies.
HALF_MAGNITUDE = np.int16(0x7FFF)
HALF_INFINITY = np.int16(0x7C00)


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


def infinite(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Which of the forecasts have a value that their dtype could not hold."""
    if values.dtype == np.float16:
        return _any((np.ascontiguousarray(values).view(np.int16) & HALF_MAGNITUDE) == HALF_INFINITY)
    return _any(np.isinf(values))


def _disordered_floats(values: NDArray[Any]) -> NDArray[np.bool_]:
    bad = _falls(values)  # NaN does too, as it should
    if values.shape[-1] == 1:
        bad |= _any(np.isnan(values))
    return bad


def _suspect_halves(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Integers compare far quicker than numpy's float16, which goes through float32 one by one."""
    bits = values.view(np.int16)
    keys = bits ^ ((bits >> 15) & HALF_MAGNITUDE)
    return np.asarray(_falls(keys) | _any((bits & HALF_MAGNITUDE) >= HALF_INFINITY))


def _falls(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Where a quantile is not up to the next one; compared as one row of numbers, in a third of the time."""
    quantiles = values.shape[-1]
    flat = values.reshape(-1)
    rises = np.ones(values.shape, dtype=np.bool_)
    np.greater_equal(flat[1:], flat[:-1], out=rises.reshape(-1)[:-1])
    rises.reshape(-1)[quantiles - 1 :: quantiles] = True  # what lies between two steps says nothing
    return _any(~rises)


def _any(found: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """For which forecasts it is true of any value."""
    return np.asarray(found.any(axis=(1, 2, 3)))
