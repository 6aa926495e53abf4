"""Tests `streamd/core/cluster/log_clock.py`."""

from hypothesis import given
from hypothesis import strategies as st

from streamd.core.cluster.log_clock import BUCKET_SECONDS, LogClock, make_serial


def test_without_a_message_it_is_the_clock_of_the_host() -> None:
    assert LogClock(1_000.0).read(5.0) == 1_005.0


@given(delays=st.lists(st.floats(0.0, 100.0), min_size=1, max_size=30), offset=st.integers(-10_000, 10_000))
def test_the_message_that_came_fastest_counts(delays: list[float], offset: int) -> None:
    clock = LogClock(0.0)
    for number, delay in enumerate(delays):
        now = number * 0.1
        clock.note(now + offset - delay, now)
    assert abs(clock.read(50.0) - (50.0 + offset - min(delays))) < 1e-6


def test_a_clock_that_was_set_back_is_followed_after_two_buckets() -> None:
    clock = LogClock(0.0)
    clock.note(100.0, 0.0)
    for number in range(1, 4):
        now = number * BUCKET_SECONDS
        clock.note(now + 40.0, now)
    assert clock.read(200.0) == 240.0


def test_after_a_long_silence_only_the_new_offset_counts() -> None:
    clock = LogClock(0.0)
    clock.note(100.0, 0.0)
    clock.note(10 * BUCKET_SECONDS + 40.0, 10 * BUCKET_SECONDS)
    assert clock.read(0.0) == 40.0


def test_a_serial_is_the_microsecond() -> None:
    assert make_serial(1_700_000_000.25) == 1_700_000_000_250_000
