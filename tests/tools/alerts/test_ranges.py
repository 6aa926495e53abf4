"""Tests `streamd/tools/alerts/ranges.py`: whether an incident begins inside of the range that an alert gave."""

import math

import pytest

from streamd.tools.alerts.incidents import Incident
from streamd.tools.alerts.ranges import RangeScores, score_ranges

INCIDENT = Incident(begin=10, end=12, has_known_begin=True)


@pytest.mark.parametrize(
    ("earliest", "latest", "expected"),
    [
        (2.0, 5.0, RangeScores(inside=1, has_end=1)),
        (4.0, math.inf, RangeScores(inside=1)),
        (0.0, 3.5, RangeScores(inside=1, has_end=1)),
        (4.5, 6.0, RangeScores(before=1, has_end=1)),
        (0.5, 2.5, RangeScores(after=1, has_end=1)),
    ],
    ids=["around it", "open", "touches the step before", "begins too late", "ends too early"],
)
def test_a_range_is_compared_with_the_begin_of_the_next_incident(
    earliest: float, latest: float, expected: RangeScores
) -> None:
    assert score_ranges([(6, earliest, latest)], [INCIDENT], reach_steps=4) == expected


@pytest.mark.parametrize("origin", [5, 11, 13], ids=["too far ahead", "going on", "over"])
def test_an_alert_without_an_incident_ahead_is_not_judged(origin: int) -> None:
    assert score_ranges([(origin, 0.0, 9.0)], [INCIDENT], reach_steps=4) == RangeScores()


def test_counts_add_up() -> None:
    total = RangeScores(inside=1, before=2)
    total.add(RangeScores(inside=1, after=3, has_end=1))
    assert total.to_dict() == {"inside": 2, "before": 2, "after": 3, "has_end": 1}
