"""Tests `streamd/client/retries.py`: the pauses between attempts."""

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamd.client import retries
from streamd.client.retries import LONGEST_PAUSE_SECONDS, RetrySchedule


@pytest.fixture(autouse=True, scope="module")
def no_pauses() -> Iterator[None]:
    """Keep the pauses as they are, in place of the fixture for all other tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retries, "FIRST_PAUSE_SECONDS", 0.1)
        yield


@settings(max_examples=50)
@given(
    limit=st.floats(0, 100),
    waits=st.lists(st.tuples(st.floats(0, 5), st.one_of(st.none(), st.floats(-1, 50))), max_size=30),
    share=st.floats(0, 1),
)
def test_no_attempt_comes_too_early_or_too_late(
    limit: float, waits: list[tuple[float, float | None]], share: float
) -> None:
    schedule = RetrySchedule(limit, lambda low, high: low + share * (high - low))
    now = 1_000.0
    for number, (call_seconds, requested) in enumerate(waits):
        now += call_seconds if number else 0.0
        pause = schedule.next_pause(now, requested)
        at_least = max(requested or 0.0, 0.0)
        if pause is None:
            assert now + at_least + LONGEST_PAUSE_SECONDS >= 1_000 + limit
            return
        assert at_least <= pause <= at_least + LONGEST_PAUSE_SECONDS
        now += pause
        assert now < 1_000 + limit


def test_pauses_double_up_to_a_bound() -> None:
    schedule = RetrySchedule(1e6, lambda low, high: high)
    pauses = [schedule.next_pause(0.0) for _ in range(9)]
    assert pauses == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0]


def test_a_success_begins_again() -> None:
    schedule = RetrySchedule(10, lambda low, high: high)
    assert [schedule.next_pause(0.0), schedule.next_pause(9.95)] == [0.1, None]
    schedule.reset()
    assert schedule.next_pause(9.95) == 0.1


def test_without_time_there_is_one_attempt() -> None:
    assert RetrySchedule(0.0, lambda low, high: low).next_pause(5.0) is None
