"""Tests `streamd/core/alerts/crossings.py`: crossings against a loop over exact numbers, and the cases at the edges."""

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from streamd.core.alerts.crossings import find_crossings
from tests.support.naive_alerts import find_crossing

LEVELS = st.integers(-4, 4).map(float)
ANY = st.floats(-1e6, 1e6, width=32)


def cross(curve: list[float], threshold: float, *, is_above: bool = True) -> float:
    """Return the crossing of one curve."""
    return float(find_crossings(np.array([curve], np.float32), threshold, is_above=is_above)[0])


@given(
    curves=st.integers(1, 6).flatmap(
        lambda steps: st.lists(st.lists(LEVELS | ANY, min_size=steps, max_size=steps), min_size=1, max_size=8)
    ),
    threshold=LEVELS | ANY,
    is_above=st.booleans(),
)
def test_crossings_are_those_of_a_loop_over_exact_numbers(
    curves: list[list[float]], threshold: float, is_above: bool
) -> None:
    found = find_crossings(np.array(curves, np.float32), threshold, is_above=is_above)
    expected = [find_crossing(curve, threshold, is_above=is_above) for curve in curves]
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


def test_a_curve_crosses_between_two_steps_along_a_line() -> None:
    assert cross([80.0, 88.0, 92.0], 90.0) == 1.5
    assert cross([20.0, 12.0, 8.0], 10.0, is_above=False) == 1.5


def test_a_curve_that_begins_crossed_crosses_at_the_origin() -> None:
    assert cross([95.0, 80.0, 95.0], 90.0) == 0.0


def test_a_value_at_the_threshold_is_crossed() -> None:
    assert cross([80.0, 90.0], 90.0) == 1.0
    assert cross([20.0, 10.0], 10.0, is_above=False) == 1.0


def test_a_curve_that_never_reaches_the_threshold_crosses_at_infinity() -> None:
    assert cross([80.0, 89.9], 90.0) == math.inf


def test_a_threshold_is_as_exact_as_the_curves() -> None:
    assert cross([0.0, 90.1], 90.1) == 1.0, "a stored 90.1 is less than 90.1 in double precision"


def test_no_curves_have_no_crossings() -> None:
    assert find_crossings(np.empty((0, 4), np.float32), 1.0, is_above=True).shape == (0,)
