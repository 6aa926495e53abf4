"""Decides which numbers are values of a feature: those of a magnitude below 1e30. Pure.

Networks subtract and add values, so what is near the largest float32 would overflow in them; they count it as missing.
A number that is no value is therefore refused where a caller sends it. Where it was computed, or lies in a window of
a former release, it is missing. NaN is missing everywhere.
"""

import numpy as np
import numpy.typing as npt

from streamd.core.arrays import Float32

VALUE_LIMIT = 1e30
"""The magnitude that no value reaches, in whatever unit."""

LEAST_REFUSED = 9.999999772685344e29
"""The least number that float32 rounds to `VALUE_LIMIT`: numbers are compared before they are rounded, arrays after."""

EXPECTED_VALUE = "a number of magnitude below 1e30"
"""What an error says of a number that is no value."""


def is_value(number: float) -> bool:
    """Whether a number, which need not be a float32, is a value; NaN is none."""
    return -LEAST_REFUSED < number < LEAST_REFUSED


def find_values(numbers: Float32) -> npt.NDArray[np.bool_]:
    """Return which numbers are values, in their shape; NaN is none."""
    return np.abs(numbers) < np.float32(VALUE_LIMIT)


def find_refused(numbers: Float32) -> npt.NDArray[np.bool_]:
    """Return which numbers are neither values nor NaN, in their shape."""
    return np.abs(numbers) >= np.float32(VALUE_LIMIT)


def has_only_values(numbers: Float32) -> bool:
    """Whether all numbers are values: two passes that make no array."""
    with np.errstate(invalid="ignore"):  # a NaN may be a signalling one
        return bool(numbers.max(initial=0.0) < VALUE_LIMIT and numbers.min(initial=0.0) > -VALUE_LIMIT)
