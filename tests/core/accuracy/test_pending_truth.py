"""Tests `streamd/core/accuracy/pending_truth.py`: a forecast waits until its window has the truth, and no longer."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from streamd.core.accuracy.pending_truth import PendingTruth

WAIT = 5
SLOTS = 3


def find_due(pending: PendingTruth, *newest: int, most: int = SLOTS) -> list[int]:
    return pending.find_due(np.array(newest, np.int64), most)


def test_a_forecast_is_due_when_its_wait_is_over() -> None:
    pending = PendingTruth(SLOTS, WAIT)
    pending.add(1, 100)
    assert find_due(pending, 0, 104, 0) == []
    assert find_due(pending, 0, 105, 0) == [1]
    assert pending.take_known(1, 105) == [100]
    assert find_due(pending, 0, 105, 0) == []


def test_only_as_many_slots_are_due_at_once_as_the_caller_takes() -> None:
    pending = PendingTruth(SLOTS, WAIT)
    for slot in range(SLOTS):
        pending.restore(slot, [1, 2])
    assert find_due(pending, 100, 100, 100, most=2) == [0, 1]


def test_forecasts_of_dropped_rows_wait_no_more() -> None:
    pending = PendingTruth(SLOTS, WAIT)
    pending.restore(0, [10, 20, 30])
    pending.drop_after(0, 20)
    assert pending.take_known(0, 1_000) == [10, 20]


def test_a_forgotten_slot_has_none() -> None:
    pending = PendingTruth(SLOTS, WAIT)
    pending.add(2, 7)
    pending.forget(2)
    assert find_due(pending, 1_000, 1_000, 1_000) == []
    assert pending.take_known(2, 1_000) == []


@given(st.lists(st.integers(0, 60), unique=True).map(sorted), st.lists(st.integers(0, 80)).map(sorted))
def test_each_forecast_is_taken_once_and_at_the_first_step_that_has_its_truth(
    steps: list[int], newest_steps: list[int]
) -> None:
    pending = PendingTruth(1, WAIT)
    pending.restore(0, steps)
    taken: list[int] = []
    for newest in newest_steps:
        is_due = bool(find_due(pending, newest))
        known = pending.take_known(0, newest)
        assert bool(known) == is_due
        taken += known
        assert taken == [step for step in steps if step + WAIT <= newest]
