"""Checks of the quantiles of received forecasts: order, NaN and infinity. Arrays only.

Each value of each forecast is checked, so this must be fast.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

HALF_MAGNITUDE = np.int16(0x7FFF)
"""The magnitude bits of a float16, all but the sign."""
HALF_INFINITY = np.int16(0x7C00)
"""The magnitude of infinity as a float16; the magnitudes above are NaN."""


BLOCK_VALUES = 2**17
"""Values that are checked at once: they stay in the cache of a core."""


def count_faults(values: NDArray[Any]) -> tuple[int, int]:
    """Return how many of the forecasts `(n, target, step, quantile)` are disordered, and how many have an infinity."""
    if values.dtype == np.float16 and _are_sound_halves(values):
        return 0, 0
    return int(find_disordered(values).sum()), int(find_infinite(values).sum())


def _are_sound_halves(values: NDArray[Any]) -> bool:
    """Whether float16 forecasts are all in order and finite; false also if only their integers are not in order."""
    if not values.size:
        return True
    quantiles, size = values.shape[-1], values[0].size
    bits = values.reshape(-1).view(np.int16)
    block = max(BLOCK_VALUES // size, 1) * size
    return all(_is_sound_block(bits[begin : begin + block], quantiles) for begin in range(0, len(bits), block))


def _is_sound_block(bits: NDArray[np.int16], quantiles: int) -> bool:
    keys = _make_keys(bits if bits.flags.aligned else bits.copy())
    falls = keys[1:] < keys[:-1]
    falls[quantiles - 1 :: quantiles] = False  # A step's last quantile has no next one.
    return bool(keys.max() < HALF_INFINITY and keys.min() > ~HALF_INFINITY and not falls.any())


def _make_keys(bits: NDArray[np.int16]) -> NDArray[np.int16]:
    """Return integers in the order of the float16 of these bits.

    The bits of a float16 are a sign and 15 bits of magnitude:

        positive  0 mmm...m  keeps its bits; a larger magnitude is a larger integer
        negative  1 mmm...m  gets its magnitude inverted; a larger magnitude is a smaller integer
    """
    keys: NDArray[np.int16] = bits >> 15
    keys &= HALF_MAGNITUDE
    keys ^= bits
    return keys


def find_disordered(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Return `(n,) bool`: whether a forecast has a quantile above the next one, or NaN.

    `values` is `(n, target, step, quantile)`.
    """
    if values.dtype == np.float16:
        suspect = _find_suspect_halves(np.ascontiguousarray(values))
        if not suspect.any():
            return suspect
        # As integers, -0 is less than +0, and NaN is not distinct from infinity. Few forecasts are suspect, so compare
        # those as floats.
        suspect[suspect] = _find_disordered_floats(values[suspect].astype(np.float32))
        return suspect
    return _find_disordered_floats(values)


def find_infinite(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Return `(n,) bool`: whether a forecast has a value that its dtype could not hold.

    `values` is `(n, target, step, quantile)`.
    """
    if values.dtype == np.float16:
        return _any_by_forecast((np.ascontiguousarray(values).view(np.int16) & HALF_MAGNITUDE) == HALF_INFINITY)
    return _any_by_forecast(np.isinf(values))


def _find_disordered_floats(values: NDArray[Any]) -> NDArray[np.bool_]:
    bad = _find_falling(values)  # NaN counts as falling, because it fails each comparison.
    if values.shape[-1] == 1:
        bad |= _any_by_forecast(np.isnan(values))
    return bad


def _find_suspect_halves(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Return `(n,) bool`: whether a float16 forecast may be out of order.

    Integers compare far faster than numpy's float16, which converts each value to float32.
    """
    bits = values.view(np.int16)
    return np.asarray(_find_falling(_make_keys(bits)) | _any_by_forecast((bits & HALF_MAGNITUDE) >= HALF_INFINITY))


def _find_falling(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Return `(n,) bool`: whether a quantile is not less than or equal to the next one.

    All values are compared as one flat row, which takes a third of the time.
    """
    quantiles = values.shape[-1]
    flat = values.reshape(-1)
    rises = np.ones(values.shape, dtype=np.bool_)
    np.greater_equal(flat[1:], flat[:-1], out=rises.reshape(-1)[:-1])
    rises.reshape(-1)[quantiles - 1 :: quantiles] = True  # A step's last quantile has no next one.
    return _any_by_forecast(~rises)


def _any_by_forecast(found: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return `(n,) bool`: whether any value of a forecast is true."""
    return np.asarray(found.any(axis=(1, 2, 3)))
