"""Tests `streamd/tools/training/hours.py`: five-minute series of hourly means."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("pandas", reason="the extra [train] is not installed")

from streamd.tools.training.hours import interpolate_hours, refine_fleet

MISSING = st.just(float("nan"))
NUMBERS = st.floats(-1e6, 1e6, width=32)


@given(st.lists(NUMBERS | MISSING, min_size=1, max_size=40), st.sampled_from([1, 4, 12]))
def test_each_hour_keeps_its_mean_and_a_missing_one_stays_missing(hours: list[float], parts: int) -> None:
    fine = interpolate_hours(np.array([hours]), parts).reshape(len(hours), parts)
    expected = np.array(hours)
    np.testing.assert_array_equal(np.isnan(fine), np.isnan(expected)[:, None].repeat(parts, 1))
    scale = np.nanmax(np.abs(expected)) if not np.isnan(expected).all() else 1.0
    np.testing.assert_allclose(fine.astype(float).mean(1), expected, atol=1e-6 * scale + 1e-12)


@given(st.lists(NUMBERS | MISSING, min_size=1, max_size=40))
def test_nothing_is_below_zero_or_the_least_hour(hours: list[float]) -> None:
    known = [h for h in hours if h == h] or [0.0]
    fine = interpolate_hours(np.array(hours))
    floor = min(0.0, *known)
    assert np.nan_to_num(fine, nan=0.0).min() >= floor - 1e-6 * (max(known) - floor)


def test_a_constant_stays_constant() -> None:
    np.testing.assert_array_equal(interpolate_hours(np.full((2, 5), 3.5)), np.full((2, 60), 3.5, np.float32))


def test_a_straight_line_stays_straight() -> None:
    fine = interpolate_hours(np.arange(10.0, 20.0), 4)
    np.testing.assert_allclose(fine[4:-4], np.arange(4, 36) / 4 + 9.625, rtol=1e-6)


def test_there_is_no_step_between_two_hours_of_a_smooth_day() -> None:
    hours = 10 + 5 * np.sin(2 * np.pi * np.arange(72) / 24)
    fine = interpolate_hours(hours)
    exact = 10 + 5 * np.sin(2 * np.pi * (np.arange(72 * 12) / 12 - 11 / 24) / 24)
    assert np.abs(fine[12:-12] - exact[12:-12]).max() < 0.1  # without interpolation it is 0.65


def test_a_refined_fleet_has_the_same_days_in_its_splits(fleet: Any) -> None:
    fleet.step_seconds = 3600
    fine = refine_fleet(fleet)
    assert (fine.name, fine.step_seconds, fine.machines) == ("small_5min", 300, fleet.machines)
    assert fine.splits["test"] == (1440 * 12, 2304 * 12)
    np.testing.assert_array_equal(fine.begins, fleet.begins)
    means = fine.select_split("test").reshape(5, -1, 12, 3).mean(2)
    np.testing.assert_allclose(means, fleet.select_split("test"), rtol=1e-5)


def test_a_fleet_of_another_step_is_refused(fleet: Any) -> None:
    with pytest.raises(ValueError, match="'small' has steps of 300 s, expected 3600"):
        refine_fleet(fleet)
