"""Tests `streamd/runtime/outbound.py`: the waits between attempts, and the kinds of answers."""

from hypothesis import given
from hypothesis import strategies as st

from streamd.runtime.outbound import (
    FIRST_WAIT_SECONDS,
    MAX_RETRY_AFTER_SECONDS,
    MAX_WAIT_SECONDS,
    PostAnswer,
    RetryWaits,
)

FAILED = PostAnswer(503)


def test_waits_double_up_to_a_limit_and_begin_anew_after_a_success() -> None:
    waits = RetryWaits(lambda: 1.0)
    assert [waits.choose_wait(FAILED) for _ in range(9)] == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    waits.end_failures()
    assert waits.choose_wait(FAILED) == FIRST_WAIT_SECONDS


@given(st.floats(0, 1), st.integers(1, 20))
def test_jitter_shortens_a_wait_to_its_half_at_most(draw: float, failures: int) -> None:
    whole, drawn = RetryWaits(lambda: 1.0), RetryWaits(lambda: draw)
    for _ in range(failures):
        longest, wait = whole.choose_wait(FAILED), drawn.choose_wait(FAILED)
        assert longest / 2 <= wait <= longest <= MAX_WAIT_SECONDS


def test_a_receiver_may_ask_for_a_longer_wait_within_a_limit() -> None:
    waits = RetryWaits(lambda: 1.0)
    assert waits.choose_wait(PostAnswer(429, retry_after_seconds=100)) == 100
    assert waits.choose_wait(PostAnswer(429, retry_after_seconds=1e9)) == MAX_RETRY_AFTER_SECONDS
    assert waits.choose_wait(PostAnswer(429, retry_after_seconds=0)) == 4


def test_only_an_answer_that_will_not_change_is_a_refusal() -> None:
    statuses = (0, 200, 204, 301, 400, 401, 404, 408, 413, 425, 429, 500, 503)
    assert [status for status in statuses if PostAnswer(status).is_refused] == [301, 400, 401, 404, 413]
    assert [status for status in statuses if PostAnswer(status).is_taken] == [200, 204]
