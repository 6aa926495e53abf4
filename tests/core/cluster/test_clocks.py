"""Tests `streamd/core/cluster/clocks.py`: whose clock is wrong."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamd.core.cluster.clocks import ClockBook, ClockVerdict

LIMIT = 10.0


def make_book(*offsets: float) -> ClockBook:
    """Other clocks that are so far ahead of the own one."""
    book = ClockBook(LIMIT)
    for number, offset in enumerate(offsets):
        book.hear(f"node-{number}", 1_000.0 + offset, 1_000.0, now=0.0)
    return book


@pytest.mark.parametrize(
    ("offsets", "verdict"),
    [
        ((), ClockVerdict.RIGHT),
        ((0.5,), ClockVerdict.RIGHT),
        ((3_600.0,), ClockVerdict.UNDECIDED),
        ((0.0, 3_600.0), ClockVerdict.RIGHT),
        ((-3_600.0, 3_600.0), ClockVerdict.RIGHT),
        ((3_600.0, 3_600.5), ClockVerdict.WRONG),
        ((-20.0, -20.0, 0.0), ClockVerdict.UNDECIDED),
        ((-20.0, -20.0, -20.0), ClockVerdict.WRONG),
    ],
)
def test_the_majority_decides(offsets: tuple[float, ...], verdict: ClockVerdict) -> None:
    assert make_book(*offsets).judge(now=0.0) is verdict


def test_clocks_that_deviate_are_named() -> None:
    book = make_book(0.1, 3_600.0, -11.0)
    assert book.find_deviating(now=0.0) == {"node-1": 3_600.0, "node-2": -11.0}


def test_a_message_that_was_delayed_makes_no_clock_wrong() -> None:
    book = make_book(0.0, 0.0)
    for node in ("node-0", "node-1"):
        book.hear(node, 1_001.0, 1_016.0, now=5.0)
    assert book.judge(now=5.0) is ClockVerdict.RIGHT


def test_a_clock_that_stands_still_is_wrong_once_it_is_far_behind() -> None:
    book = ClockBook(LIMIT)
    for second in range(30):
        for node in ("a", "b"):
            book.hear(node, 1_000.0 + second, 1_000.0, now=float(second))
        assert (book.judge(float(second)) is ClockVerdict.WRONG) == (second > LIMIT)
    assert book.measure_own_offset(29.0) == -29.0


def test_a_clock_is_right_again_only_well_within_the_limit() -> None:
    book = make_book(11.0, 11.0)
    assert book.judge(0.0) is ClockVerdict.WRONG
    for node in ("node-0", "node-1"):
        book.hear(node, 1_007.0, 1_000.0, now=30.0)
    assert book.judge(30.0) is ClockVerdict.WRONG
    for node in ("node-0", "node-1"):
        book.hear(node, 1_004.0, 1_000.0, now=60.0)
    assert book.judge(60.0) is ClockVerdict.RIGHT


def test_clocks_that_are_heard_no_more_do_not_count() -> None:
    book = make_book(3_600.0, 3_600.0)
    assert book.judge(now=11.0) is ClockVerdict.RIGHT
    book.forget("node-0")
    assert book.list_offsets(now=0.0) == {"node-1": 3_600.0}


@given(st.lists(st.floats(-5_000, 5_000), min_size=2, max_size=9), st.integers(0, 8))
def test_a_node_among_a_majority_is_never_wrong(others: list[float], own: int) -> None:
    """However wrong the other clocks are, each of a majority that agrees is not judged wrong by itself."""
    agreeing = len(others) // 2 + 1
    clocks = [0.0] * agreeing + others[agreeing - 1 :]
    mine = own % agreeing
    book = make_book(*(clock - clocks[mine] for number, clock in enumerate(clocks) if number != mine))
    assert book.judge(now=0.0) is not ClockVerdict.WRONG
