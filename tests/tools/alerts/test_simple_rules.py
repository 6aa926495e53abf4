"""Tests `streamd/tools/alerts/simple_rules.py`: the last value, and a line through the last hours."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamd.tools.alerts.limits import ValueLimits
from streamd.tools.alerts.simple_rules import extrapolate_lines, judge_values, read_last_values

VALUES = st.lists(st.one_of(st.floats(-100, 100, width=16), st.just(float("nan"))), min_size=1, max_size=12)


@given(VALUES, st.integers(2, 5), st.floats(0, 10))
def test_a_line_is_the_least_squares_one_through_the_values_that_are_known(
    values: list[float], past: int, ahead: float
) -> None:
    series = np.array(values, np.float32)
    origins = np.arange(1, len(series) + 1)
    found = extrapolate_lines(series, origins, past_steps=past, ahead_steps=ahead)
    for origin, line in zip(origins.tolist(), found.tolist(), strict=True):
        steps = [step for step in range(max(origin - past, 0), origin) if np.isfinite(series[step])]
        if len(steps) < 2:
            assert np.isnan(line)
        else:
            slope, level = np.polyfit([step - origin for step in steps], series[steps].astype(float), 1)
            assert line == pytest.approx(level + slope * ahead, rel=1e-6, abs=1e-6)


def test_the_last_value_is_that_of_the_step_before_the_origin() -> None:
    series = np.array([1.0, np.nan, 3.0], np.float32)
    np.testing.assert_array_equal(read_last_values(series, np.array([1, 2, 3])), [1.0, np.nan, 3.0])


def test_a_value_breaches_is_in_between_is_clear_or_is_missing() -> None:
    verdicts = judge_values(np.array([90.0, 89.0, 88.0, np.nan]), ValueLimits(90.0, 88.5, True))
    assert verdicts.is_breaching.tolist() == [True, False, False, False]
    assert verdicts.is_clear[:3].tolist() == [False, False, True]
    assert verdicts.is_judged.tolist() == [True, True, True, False]


def test_below_a_threshold_small_values_breach() -> None:
    verdicts = judge_values(np.array([10.0, 10.1, 11.5]), ValueLimits(10.0, 11.0, False))
    assert verdicts.is_breaching.tolist() == [True, False, False]
    assert verdicts.is_clear.tolist() == [False, False, True]
