"""Tests `streamd/runtime/alerts/noted.py`: slots are taken once, and how long they wait."""

import numpy as np

from streamd.runtime.alerts.noted import NotedSlots


def test_slots_are_taken_once_and_in_order() -> None:
    noted = NotedSlots(4, lambda: 0.0)
    noted.note(np.array([3, 1]))
    noted.note(np.array([1]))
    assert noted.take().tolist() == [1, 3]
    assert noted.take().tolist() == []


def test_the_lag_is_that_of_the_slot_that_waits_longest() -> None:
    now = [10.0]
    noted = NotedSlots(4, lambda: now[0])
    assert noted.lag_seconds == 0.0
    noted.note(np.array([0]))
    now[0] = 12.0
    noted.note(np.array([1]))
    now[0] = 13.0
    assert noted.lag_seconds == 3.0
    noted.take()
    assert noted.lag_seconds == 0.0
