"""Tests `streamd/core/access/usage.py`: the limits of a token on rows, sockets and servers."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamd.core.access.usage import BURST_SECONDS, Usage, UsageLimits
from streamd.core.errors import RateLimitedError, TooManyServersError

Bodies = list[tuple[float, int]]
"""Seconds since the previous body, and the rows of the body."""

BODIES = st.lists(st.tuples(st.floats(0, 100), st.integers(0, 500)), max_size=60)


@settings(max_examples=50)
@given(rate=st.floats(0.01, 1_000), bodies=BODIES)
def test_rows_stay_within_the_rate_a_burst_and_the_last_body(rate: float, bodies: Bodies) -> None:
    usage, now, taken = Usage(UsageLimits(rows_per_second=rate)), 0.0, 0
    for silence, rows in bodies:
        now += silence
        if usage.count_wait_seconds(now) == 0:
            usage.charge_rows(rows, now)
            taken += rows
            assert taken - rows <= rate * now + max(rate * BURST_SECONDS, 1.0) + 1e-6


@settings(max_examples=50)
@given(rate=st.floats(0.01, 1_000), bodies=BODIES)
def test_after_the_stated_wait_a_row_is_taken_and_not_before(rate: float, bodies: Bodies) -> None:
    usage, now = Usage(UsageLimits(rows_per_second=rate)), 0.0
    for silence, rows in bodies:
        now += silence
        usage.charge_rows(rows, now)
        wait = usage.count_wait_seconds(now)
        if wait > 1e-3:
            with pytest.raises(RateLimitedError) as caught:
                usage.require_rows(now + wait * 0.99)
            assert caught.value.wait_seconds == pytest.approx(wait * 0.01, rel=1e-3, abs=1e-6)
        now += wait + 1e-6
        assert usage.count_wait_seconds(now) < 1e-3


def test_a_long_silence_permits_one_burst_and_no_more() -> None:
    usage = Usage(UsageLimits(rows_per_second=2))
    usage.charge_rows(1, 0.0)
    rows = 0
    while usage.count_wait_seconds(1e6) == 0:
        usage.charge_rows(1, 1e6)
        rows += 1
    assert rows == 2 * BURST_SECONDS


def test_a_clock_that_steps_back_gives_no_allowance_twice() -> None:
    usage = Usage(UsageLimits(rows_per_second=1))
    usage.charge_rows(10, 1_000.0)
    for now in (0.0, 999.0, 1_000.0):
        assert usage.count_wait_seconds(now) == 1.0
    assert usage.count_wait_seconds(1_001.0) == 0.0


def test_without_limits_nothing_is_refused_or_recorded() -> None:
    usage = Usage()
    usage.charge_rows(10**9, 0.0)
    usage.require_rows(0.0)
    for number in range(10):
        usage.open_socket()
        usage.add_server(f"web-{number}")
    assert (usage.is_unlimited, usage.servers, usage.sockets) == (True, 0, 10)


def test_sockets_are_refused_at_the_limit_until_one_closes() -> None:
    usage = Usage(UsageLimits(max_sockets=2))
    usage.open_socket()
    usage.open_socket()
    with pytest.raises(RateLimitedError, match="2 open sockets, expected at most 2"):
        usage.open_socket()
    usage.close_socket()
    usage.open_socket()
    assert usage.sockets == 2


@settings(max_examples=50)
@given(
    limit=st.integers(1, 4),
    calls=st.lists(st.tuples(st.booleans(), st.sampled_from("abcdef")), max_size=40),
)
def test_servers_are_those_of_a_bounded_set(limit: int, calls: list[tuple[bool, str]]) -> None:
    usage, written = Usage(UsageLimits(max_servers=limit)), set[str]()
    for adds, name in calls:
        if not adds:
            usage.forget_server(name)
            written.discard(name)
        elif name in written or len(written) < limit:
            usage.add_server(name)
            written.add(name)
        else:
            with pytest.raises(TooManyServersError):
                usage.add_server(name)
        assert usage.servers == len(written) <= limit
