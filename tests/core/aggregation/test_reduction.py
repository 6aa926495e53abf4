"""Tests `streamd/core/aggregation/reduction.py`: the value of each series in a step."""

import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamd.core.aggregation.reduction import KIND_CODES, reduce_step
from streamd.core.mapping.series import Kind
from tests.support.naive_aggregation import reduce_naively

STEP = 300.0
Point = tuple[int, float, float]


def reduce(points: list[Point], kinds: list[Kind]) -> list[float]:
    """Return the values of all series in the step from 300 to 600."""
    series, times, values = ([point[part] for point in points] for part in range(3))
    result = reduce_step(
        np.array(series, np.uint32),
        np.array(times, np.float64),
        np.array(values, np.float64),
        np.array([KIND_CODES[kind] for kind in kinds], np.uint8),
        start=STEP,
        end=2 * STEP,
        longest_gap=2 * STEP,
    )
    return [float(value) for value in result]


def test_a_gauge_is_the_mean_of_its_points_in_the_step() -> None:
    points = [(0, 299.9, 50.0), (0, 300.0, 1.0), (0, 400.0, 2.0), (0, 599.9, 6.0), (0, 600.0, 70.0)]
    assert reduce(points, [Kind.GAUGE]) == [3.0]


def test_a_state_is_its_last_point_whatever_came_last() -> None:
    assert reduce([(0, 500.0, 2.0), (0, 310.0, 1.0), (0, 600.0, 3.0)], [Kind.STATE]) == [2.0]


def test_a_steady_counter_has_its_rate_however_often_it_is_sent() -> None:
    for interval in (1, 7, 15, 60, 120, 299, 300, 450):
        points = [(0, time, 5.0 * time) for time in np.arange(3.0, 1_200.0, interval).tolist()]
        assert reduce(points, [Kind.COUNTER]) == [pytest.approx(5.0)], f"every {interval} s"


def test_an_increase_across_the_edge_counts_with_its_part() -> None:
    points = [(0, 270.0, 0.0), (0, 330.0, 60.0), (0, 570.0, 60.0), (0, 630.0, 180.0)]
    assert reduce(points, [Kind.COUNTER]) == [pytest.approx((30.0 + 60.0) / 300.0)]


def test_a_counter_that_was_reset_counts_from_zero_and_is_never_negative() -> None:
    points = [(0, 300.0, 1_000.0), (0, 400.0, 1_100.0), (0, 500.0, 50.0)]
    assert reduce(points, [Kind.COUNTER]) == [pytest.approx(150.0 / 200.0)]


def test_a_counter_that_was_corrected_a_little_has_no_increase_then() -> None:
    points = [(0, 300.0, 1_000.0), (0, 400.0, 1_100.0), (0, 500.0, 1_099.0)]
    assert reduce(points, [Kind.COUNTER]) == [pytest.approx(100.0 / 200.0)]


def test_one_point_of_a_counter_says_nothing() -> None:
    assert math.isnan(reduce([(0, 400.0, 7.0)], [Kind.COUNTER])[0])


def test_a_gap_of_more_than_the_longest_says_nothing() -> None:
    assert math.isnan(reduce([(0, 301.0, 7.0), (0, 902.0, 9.0)], [Kind.COUNTER])[0])


def test_a_stale_marker_ends_a_series() -> None:
    points = [(0, 300.0, 10.0), (0, 350.0, math.nan), (0, 400.0, 90.0), (0, 500.0, 100.0)]
    assert reduce(points, [Kind.COUNTER]) == [pytest.approx(0.1)], "nothing is known of what was between"
    assert reduce(points, [Kind.GAUGE]) == [pytest.approx(200.0 / 3)]


def test_a_point_that_was_sent_twice_counts_once() -> None:
    points = [(0, 300.0, 1.0), (0, 400.0, 4.0), (0, 300.0, 1.0), (0, 400.0, 4.0), (0, 400.0, 4.0), (0, 500.0, 4.0)]
    assert reduce(points, [Kind.GAUGE]) == [3.0]


def test_numbers_too_large_to_add_have_no_value() -> None:
    assert math.isnan(reduce([(0, 300.0, 1.7e308), (0, 301.0, 1.7e308)], [Kind.GAUGE])[0])


def test_series_without_points_have_no_value() -> None:
    assert [math.isnan(value) for value in reduce([(1, 300.0, 1.0)], [Kind.GAUGE] * 3)] == [True, False, True]
    assert math.isnan(reduce([], [Kind.COUNTER])[0])


points = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.integers(0, 900).map(float),
        st.one_of(st.integers(0, 2_000).map(float), st.just(math.nan)),
    ),
    max_size=40,
)


@given(points, st.lists(st.sampled_from(list(Kind)), min_size=3, max_size=3), st.randoms(use_true_random=False))
def test_it_agrees_with_the_naive_twin_and_not_with_the_order_of_arrival(
    points: list[Point], kinds: list[Kind], shuffle: random.Random
) -> None:
    expected = [
        reduce_naively([(time, value) for each, time, value in points if each == series], kind, STEP, 2 * STEP, 600.0)
        for series, kind in enumerate(kinds)
    ]
    assert reduce(points, kinds) == pytest.approx(expected, nan_ok=True)
    last_of_time = {(series, time): value for series, time, value in points}
    unique = [(series, time, value) for (series, time), value in last_of_time.items()]
    again = unique + shuffle.sample(unique, len(unique) // 2)
    shuffle.shuffle(again)
    assert reduce(again, kinds) == pytest.approx(expected, nan_ok=True)
    assert not any(value < 0 for value, kind in zip(reduce(points, kinds), kinds, strict=True) if kind is Kind.COUNTER)
