"""Tests `streamd/core/cluster/chain_retention.py`."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamd.core.cluster.chain_retention import (
    FULL_SHARE,
    MAX_SHARE,
    MIN_AGE_SECONDS,
    MIN_BYTES,
    RECORDS_A_CHAIN,
    ChainRetention,
)

LATE = 1e6


def make(*sizes: int, time: float = 0.0, max_bytes: int = -1) -> ChainRetention:
    """A chain of entries from the sequence 1 on."""
    retention = ChainRetention(max_bytes)
    for place, size in enumerate(sizes):
        retention.note(place + 1, time, size)
    return retention


def test_a_short_chain_stays() -> None:
    assert make(MIN_BYTES // 2, MIN_BYTES // 2).find_removable(LATE, 0, covered=99) == 0


def test_a_chain_that_is_not_much_longer_than_what_it_must_have_stays() -> None:
    retention = make(*[MIN_BYTES] * 9)
    assert retention.find_removable(LATE, 3 * MIN_BYTES, covered=99) == 0
    assert retention.find_removable(LATE, 3 * MIN_BYTES - 1, covered=99) > 0


def test_a_chain_is_long_before_it_is_too_long() -> None:
    assert not make(MIN_BYTES // 2).is_long(0)
    assert make(MIN_BYTES // 2, 1).is_long(0)
    assert not make(*[MIN_BYTES] * 3).is_long(2 * MIN_BYTES)
    assert make(*[MIN_BYTES] * 4).is_long(2 * MIN_BYTES)


def test_the_end_stays_as_long_as_the_newest_forecasts() -> None:
    retention = make(*[MIN_BYTES] * 10)
    below = retention.find_removable(LATE, 2 * MIN_BYTES, covered=99)
    retention.note_removed(below)
    assert 2 * MIN_BYTES <= retention.bytes <= 3 * MIN_BYTES


def test_what_no_record_has_stays() -> None:
    assert make(*[MIN_BYTES] * 10).find_removable(LATE, 1, covered=4) == 4
    assert make(*[MIN_BYTES] * 10).find_removable(LATE, 1, covered=0) == 0


def test_what_is_young_stays() -> None:
    retention = make(*[MIN_BYTES] * 5)
    for sequence in range(6, 11):
        retention.note(sequence, 100.0, MIN_BYTES)
    assert retention.find_removable(100.0 + MIN_AGE_SECONDS - 1.0, 1, covered=99) <= 6


@given(st.lists(st.integers(1, MIN_BYTES), max_size=60), st.integers(0, 3 * MIN_BYTES), st.integers(0, 70))
def test_after_a_removal_the_chain_is_not_too_long_unless_records_lack_it(
    sizes: list[int], needed: int, covered: int
) -> None:
    retention = make(*sizes)
    below = retention.find_removable(LATE, needed, covered)
    assert below <= covered
    retention.note_removed(below)
    if covered > len(sizes):
        assert retention.bytes <= max(MAX_SHARE * needed, needed + MIN_BYTES)
    assert retention.bytes >= min(sum(sizes), needed)


@given(
    st.lists(st.integers(1, 1_000), max_size=60),
    st.integers(0, 3_000),
    st.integers(0, 20_000),
    st.integers(0, 70),
    st.floats(0.0, 60.0),
)
def test_a_chain_of_which_the_log_takes_no_more_is_cut_whatever_its_age(
    sizes: list[int], needed: int, max_bytes: int, covered: int, now: float
) -> None:
    retention = make(*sizes, max_bytes=max_bytes)
    was_full = retention.is_full
    assert was_full == (sum(sizes) > FULL_SHARE * max_bytes)
    below = retention.find_removable(now, needed, covered)
    assert below <= covered
    assert was_full or now >= MIN_AGE_SECONDS or below == 0
    retention.note_removed(below)
    assert retention.bytes >= min(sum(sizes), needed)
    if was_full and covered > len(sizes):
        assert retention.bytes <= needed + 1_000


def test_records_are_due_before_the_log_is_full() -> None:
    retention = make(100, 200, max_bytes=RECORDS_A_CHAIN * 10)
    assert retention.record_bytes == 10
    retention.note_removed(2)
    assert (retention.bytes, retention.noted_bytes, retention.free_bytes) == (200, 300, 120)
    assert ChainRetention().record_bytes == ChainRetention().free_bytes == math.inf
    assert not make(10**9).is_full


def test_what_the_log_still_has_counts_though_it_was_believed_to_be_removed() -> None:
    retention = make(*[MIN_BYTES] * 10)
    retention.note_removed(8)
    retention.note_size(10 * MIN_BYTES)
    assert retention.bytes == 10 * MIN_BYTES
    assert retention.find_removable(LATE, MIN_BYTES, covered=99) == 10
    retention.note_removed(8)
    assert retention.bytes == 3 * MIN_BYTES
    retention.note_size(10 * MIN_BYTES)
    assert retention.find_removable(LATE, 3 * MIN_BYTES, covered=99) == 8, "only what is below the first entry"
    assert retention.find_removable(LATE, 3 * MIN_BYTES, covered=5) == 5
    retention.note_removed(8)
    assert retention.bytes == 3 * MIN_BYTES
    retention.note_size(MIN_BYTES)  # records that were replaced are entries no more
    assert retention.bytes == MIN_BYTES
    assert retention.find_removable(LATE, MIN_BYTES, covered=99) == 0


@pytest.mark.parametrize("covered", [5, 11])
def test_removing_twice_removes_nothing_more(covered: int) -> None:
    retention = make(*[MIN_BYTES] * 10)
    retention.note_removed(retention.find_removable(LATE, MIN_BYTES, covered))
    left = retention.bytes
    retention.note_removed(retention.find_removable(LATE, left, covered))
    assert retention.bytes == left
