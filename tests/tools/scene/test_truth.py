"""Tests `streamd/tools/scene/truth.py`: counters and gauges of a step, and rows beside them."""

import math

import numpy as np
import pytest

from streamd.tools.scene.truth import average_gauge, find_largest_difference, find_unmeasured_steps, rate_counter

TIMES = np.arange(100.3, 121.0)


def test_a_counter_s_rate_covers_the_whole_step() -> None:
    values = np.where(TIMES < 110, 0.0, 3.0 * (TIMES - 110))
    assert rate_counter((TIMES, values), 105, 110) == pytest.approx(0.0, abs=0.2)
    assert rate_counter((TIMES, values), 112, 116) == pytest.approx(3.0)


def test_a_counter_that_begins_in_a_step_counts_from_there() -> None:
    assert rate_counter((TIMES, 2.0 * TIMES), 98, 103) == pytest.approx(2.0)
    assert math.isnan(rate_counter((TIMES, TIMES), 90, 95))
    assert math.isnan(rate_counter((TIMES[:1], TIMES[:1]), 100, 105))


def test_a_counter_that_falls_has_not_risen() -> None:
    values = np.where(TIMES < 110, TIMES, TIMES - 1.5)
    assert rate_counter((TIMES, values), 105, 115) == pytest.approx(0.9)


def test_a_gauge_is_the_mean_of_its_step() -> None:
    assert average_gauge((TIMES, TIMES), 105, 110) == pytest.approx(107.3)
    assert math.isnan(average_gauge((TIMES, TIMES), 90, 95))


def test_the_largest_difference_names_its_place() -> None:
    truth = {7: {"cpu_idle": 50.0, "net_in": 1000.0}, 8: {"cpu_idle": 50.0, "net_in": math.nan}}
    same = {7: {"cpu_idle": 50.0, "net_in": 1000.0}, 8: {"cpu_idle": 50.0}}
    assert find_largest_difference(same, truth) == (0.0, "")
    other = {**same, 7: {"cpu_idle": 51.0, "net_in": 1000.0}}
    largest, place = find_largest_difference(other, truth)
    assert largest == pytest.approx(0.02)
    assert place == "cpu_idle in step 7 is 51, in Prometheus 50"
    assert find_largest_difference({8: same[8]}, truth)[0] == math.inf


def test_the_steps_around_a_failed_scrape_are_unmeasured() -> None:
    good = np.ones(len(TIMES))
    assert find_unmeasured_steps((TIMES, good), 2, 59) == set()
    assert find_unmeasured_steps((TIMES, np.where(TIMES == 110.3, 0.0, 1.0)), 2, 59) == {54, 55, 56}


def test_the_steps_without_a_scrape_are_unmeasured() -> None:
    times = np.concatenate([TIMES[:8], TIMES[14:]])  # nothing between 107.3 and 114.3
    assert find_unmeasured_steps((times, np.ones(len(times))), 2, 59) == {52, 53, 54, 55, 56, 57, 58}
    assert find_unmeasured_steps((TIMES, np.ones(len(TIMES))), 2, 61) == {59, 60, 61, 62}, (
        "the last scrape was at 120.3"
    )
