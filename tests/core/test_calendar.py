"""Tests `streamd/core/calendar.py` against the calendar of the standard library."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from streamd.core.calendar import compute_known_future

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)


def by_datetime(step: int, horizon: int, step_seconds: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    rows = []
    for ahead in range(1, horizon + 1):
        begins = EPOCH + timedelta(seconds=(step + ahead) * step_seconds)
        midnight = begins.replace(hour=0, minute=0, second=0, microsecond=0)
        day = 2 * np.pi * ((begins - midnight) / DAY)
        week = 2 * np.pi * ((begins.weekday() + (begins - midnight) / DAY) / 7)
        rows.append([np.sin(day), np.cos(day), np.sin(week), np.cos(week)])
    return np.array(rows)


@given(st.integers(0, 2**33), st.integers(1, 120), st.sampled_from([1, 7, 60, 300, 3600, 86_400, 100_000]))
@example(2**31 - 5, 10, 1)
@example(2**32 - 5, 10, 1)
@example(int(datetime(2026, 11, 23, tzinfo=UTC).timestamp()) // 300 - 1, 96, 300)
def test_the_inputs_are_those_of_the_standard_calendar(begins: int, horizon: int, step_seconds: int) -> None:
    step = begins // step_seconds
    calendar = compute_known_future(step, horizon, step_seconds)
    assert calendar.dtype == np.float32
    assert calendar.shape == (horizon, 4)
    np.testing.assert_allclose(calendar, by_datetime(step, horizon, step_seconds), atol=1e-6)


@pytest.mark.parametrize("year", [1970, 2026, 2038, 2106])
def test_the_angles_are_zero_on_monday_at_midnight(year: int) -> None:
    first = datetime(year, 3, 1, tzinfo=UTC)
    monday = first + timedelta(days=-first.weekday() % 7)
    step = int(monday.timestamp()) // 300
    assert compute_known_future(step - 1, 1, 300)[0].tolist() == [0.0, 1.0, 0.0, 1.0]


def test_the_first_row_is_of_the_step_after_the_newest_row() -> None:
    np.testing.assert_array_equal(compute_known_future(100, 5, 300)[1:], compute_known_future(101, 4, 300))


def test_the_inputs_are_exact_for_any_epoch() -> None:
    """The same time of the week, twelve thousand weeks later, is equal in every bit."""
    weeks = 12_000 * 7 * 86_400 // 300
    np.testing.assert_array_equal(compute_known_future(5, 96, 300), compute_known_future(5 + weeks, 96, 300))
