"""Tests `streamd/core/epochs.py`: times in a finer unit than seconds are recognised."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamd.core.epochs import FINER_TIME_UNITS, guess_finer_unit

FACTORS = {"milliseconds": 1e3, "microseconds": 1e6, "nanoseconds": 1e9}


@given(st.floats(1e8, 1e11, exclude_max=True))
def test_each_unit_is_recognised_from_1973_to_5138(seconds: float) -> None:
    assert guess_finer_unit(seconds) is None
    for unit, factor in FACTORS.items():
        # If rounding moves a product over the edge, it belongs to the next unit.
        assert guess_finer_unit(seconds * factor) == unit or seconds > 0.999999e11


@given(st.floats(allow_nan=True, allow_infinity=True))
def test_the_unit_is_that_of_the_nearest_edge_below(time: float) -> None:
    below = [unit for begin, unit in FINER_TIME_UNITS if begin <= time < 1e20]
    assert guess_finer_unit(time) == (below[-1] if below else None)


@pytest.mark.parametrize("time", [-1.0, 0.0, 99_999_999_999.0, -1e12, 1e20, math.inf, -math.inf, math.nan])
def test_a_number_that_is_no_time_has_no_unit(time: float) -> None:
    assert guess_finer_unit(time) is None
