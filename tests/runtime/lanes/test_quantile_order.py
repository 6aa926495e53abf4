"""Tests `streamd/runtime/lanes/quantile_order.py`: each way gives what sorting each step gives."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamd.runtime.lanes.quantile_order import MANY_QUANTILES, MANY_STEPS, list_comparators, put_in_order


@pytest.mark.parametrize("count", range(1, 12))
def test_a_network_that_sorts_zeros_and_ones_sorts_all(count: int) -> None:
    for given_ in product((0, 1), repeat=count):
        numbers = list(given_)
        for low, high in list_comparators(count):
            assert low < high < count
            numbers[low], numbers[high] = sorted((numbers[low], numbers[high]))
        assert numbers == sorted(given_)


@given(
    st.sampled_from([2, 3, 7, 8, MANY_QUANTILES, MANY_QUANTILES + 1]),
    st.sampled_from([1, MANY_STEPS - 1, MANY_STEPS]),
    st.floats(0, 1),
    st.integers(0, 1_000),
)
def test_any_share_of_crossed_steps_is_sorted(quantiles: int, steps: int, share: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    numbers = random.choice([*random.normal(size=20), np.inf, -np.inf], (steps, quantiles)).astype(np.float32)
    rising = np.sort(numbers, axis=-1)
    is_crossed = random.random(steps) < share
    given_ = np.where(is_crossed[:, None], numbers, rising)
    put_in_order(rows := given_.reshape(1, -1), quantiles)
    np.testing.assert_array_equal(rows.reshape(steps, quantiles), rising)


def test_a_number_that_is_missing_stays_so_and_harms_no_other_step() -> None:
    numbers = np.random.default_rng(1).normal(size=(MANY_STEPS, 7)).astype(np.float32)
    rising = np.sort(numbers, axis=-1)
    numbers[5, 3] = np.nan
    put_in_order(numbers.reshape(4, -1), 7)
    assert np.isnan(numbers[5]).any()
    np.testing.assert_array_equal(np.delete(numbers, 5, 0), np.delete(rising, 5, 0))
