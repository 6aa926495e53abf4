"""Tests `streamd/tools/alerts/incidents.py`: which recorded values are incidents."""

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from streamd.tools.alerts.incidents import Incident, find_incidents
from streamd.tools.alerts.limits import ValueLimits

VALUES = st.lists(st.sampled_from([0.0, 1.0, 2.0, 3.0, math.nan]), max_size=40)


def find(
    values: list[float], *, is_above: bool = True, threshold: float = 3.0, hysteresis: float = 1.0, gap_steps: int = 2
) -> list[Incident]:
    limits = ValueLimits(threshold, threshold - hysteresis if is_above else threshold + hysteresis, is_above)
    return find_incidents(np.array(values, np.float32), limits, gap_steps)


def walk(values: list[float], gap_steps: int) -> list[Incident]:
    """Go through the values one by one, with threshold 3 and hysteresis 1, as the docstring says it."""
    found: list[Incident] = []
    begin = last = -1
    quiet = 0
    for step, value in enumerate(values):
        if begin < 0 and value >= 3:
            before = values[max(step - gap_steps, 0) : step]
            begin, last, quiet = step, step, 0
            is_known = any(not math.isnan(each) for each in before)
        elif begin >= 0 and value >= 2:
            last, quiet = step, 0
        elif begin >= 0:
            quiet += 1
            if quiet == gap_steps:
                found.append(Incident(begin, last + 1, is_known))
                begin = -1
    return found if begin < 0 else [*found, Incident(begin, last + 1, is_known)]


@given(VALUES, st.integers(1, 4))
def test_incidents_are_those_of_a_walk_through_the_values(values: list[float], gap_steps: int) -> None:
    assert find(values, gap_steps=gap_steps) == walk(values, gap_steps)


@given(VALUES)
def test_below_a_threshold_is_above_it_in_the_mirror(values: list[float]) -> None:
    assert find([-value for value in values], is_above=False, threshold=-3.0) == find(values)


def test_an_incident_lasts_until_the_last_value_that_is_not_on_the_safe_side() -> None:
    assert find([0, 3, 2, 1, 1, 1, 3, 0, 0]) == [Incident(1, 3, True), Incident(6, 7, True)]


def test_a_short_dip_does_not_split_an_incident() -> None:
    assert find([0, 3, 1, 3, 0, 0]) == [Incident(1, 4, True)]


def test_missing_values_end_an_incident_as_safe_ones_do() -> None:
    assert find([0, 3, math.nan, math.nan, 0]) == [Incident(1, 2, True)]


def test_nothing_says_when_an_incident_behind_a_gap_began() -> None:
    assert find([3, 0, 0, math.nan, math.nan, 3]) == [Incident(0, 1, False), Incident(5, 6, False)]


def test_values_between_the_threshold_and_the_hysteresis_are_no_incident() -> None:
    assert find([0, 2.5, 2.5, 0]) == []
