"""Tests `streamd/core/values.py`: one number and an array agree on what a value is, and networks on the limit."""

import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from streamd.core.values import LEAST_REFUSED, VALUE_LIMIT, find_refused, find_values, has_only_values, is_value

NUMBERS = st.floats() | st.floats(9e29, 1.1e30) | st.floats(-1.1e30, -9e29) | st.integers(-(10**40), 10**40)


@given(NUMBERS)
@example(LEAST_REFUSED)
@example(math.nextafter(LEAST_REFUSED, 0))
@example(-VALUE_LIMIT)
@example(3.4028234663852886e38)
@example(math.inf)
@example(math.nan)
def test_a_number_is_a_value_if_the_float32_that_it_becomes_is_one(number: float) -> None:
    with np.errstate(over="ignore"):
        rounded = np.array([number], np.float64).astype(np.float32)
    assert is_value(number) == find_values(rounded)[0]
    assert is_value(number) == (not math.isnan(number) and abs(float(rounded[0])) < float(np.float32(1e30)))
    assert find_refused(rounded)[0] == (not math.isnan(number) and not is_value(number))


@given(st.lists(st.floats(width=32) | st.sampled_from([1.0, -2.0, 9.9e29, -3e38]), max_size=6))
def test_an_array_has_only_values_if_each_number_is_one(numbers: list[float]) -> None:
    array = np.array(numbers, np.float32)
    assert has_only_values(array) == all(map(is_value, array.tolist()))


def test_the_limit_is_that_of_the_networks() -> None:
    fences = pytest.importorskip("streamd.tools.networks.fences")
    assert fences.LIMIT == VALUE_LIMIT
