"""Tests `streamd/cluster/rows/needed_points.py`: no message of the last steps is given up."""

from streamd.cluster.rows.needed_points import NeededPoints
from streamd.core.aggregation.points import count_retained_steps

STEP = 60
KEPT = (count_retained_steps(STEP) + 2) * STEP


def test_all_messages_are_needed_until_some_are_older_than_the_steps_that_may_change() -> None:
    needed = NeededPoints(STEP)
    needed.note(1_000.0, 1)
    assert needed.find_first(1_000.0 + KEPT) == 0
    assert needed.find_first(1_000.0 + KEPT + 1) == 2


def test_no_message_that_may_be_needed_is_given_up_for_places_that_were_not_noted() -> None:
    needed = NeededPoints(STEP)
    for second in range(10 * KEPT):
        needed.note(float(second), second)
    for now in range(KEPT, 10 * KEPT, 7):
        assert now - KEPT - STEP <= needed.find_first(float(now)) <= max(now - KEPT, 0) + 1
