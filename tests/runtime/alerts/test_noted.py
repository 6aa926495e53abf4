"""Tests `streamd/runtime/alerts/noted.py`: slots are taken once, and how long they wait."""

import numpy as np
import pytest

from streamd.core.arrays import Slots
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
    assert noted.lag_seconds == 3.0  # no rule was evaluated for them yet
    noted.finish()
    assert noted.lag_seconds == 0.0


def test_a_slot_that_is_noted_during_the_search_is_taken_the_next_time(monkeypatch: pytest.MonkeyPatch) -> None:
    noted = NotedSlots(4, lambda: 0.0)
    search = np.flatnonzero

    def search_late(marks: Slots) -> Slots:
        noted.note(np.array([3]))  # as the loop does, in its own thread
        return search(marks)

    noted.note(np.array([1]))
    monkeypatch.setattr(np, "flatnonzero", search_late)
    assert noted.take().tolist() == [1]
    assert noted.take().tolist() == [3]
