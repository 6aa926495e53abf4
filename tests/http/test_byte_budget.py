"""Tests `streamd/http/byte_budget.py`: the sum is never exceeded, and who holds little never loses."""

import contextlib
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamd.core.errors import TooBusyError
from streamd.http.byte_budget import ByteBudget, ByteHolder

TOTAL = 1_000


class Clock:
    """Seconds that a test moves."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def budget(clock: Clock) -> ByteBudget:
    return ByteBudget(TOTAL, clock)


def open_evictable(budget: ByteBudget, owner: str = "a") -> tuple[ByteHolder, list[str]]:
    evicted: list[str] = []
    return budget.open_holder(owner, lambda: evicted.append(owner)), evicted


def test_bytes_that_fit_are_held_until_they_are_released(budget: ByteBudget) -> None:
    holder, evicted = open_evictable(budget)
    holder.reserve(TOTAL)
    assert (budget.held_bytes, len(budget)) == (TOTAL, 1)
    holder.release(400)
    assert budget.held_bytes == holder.held_bytes == 600
    holder.resize(700)
    assert budget.held_bytes == 700
    holder.close()
    holder.close()
    assert (budget.held_bytes, len(budget), evicted) == (0, 0, [])


def test_the_one_that_asks_is_refused_if_it_holds_most(budget: ByteBudget) -> None:
    large, evicted = open_evictable(budget)
    small, _ = open_evictable(budget)
    small.reserve(100)
    large.reserve(900)
    with pytest.raises(TooBusyError, match="1000 bytes are pending already, at most 1000"):
        large.reserve(1)
    assert (large.held_bytes, large.is_evicted, evicted) == (900, False, [])


def test_a_large_holder_is_evicted_for_a_small_one(budget: ByteBudget) -> None:
    large, evicted = open_evictable(budget)
    small, _ = open_evictable(budget)
    large.reserve(TOTAL)
    small.reserve(10)
    assert (large.is_evicted, evicted, budget.held_bytes, budget.evictions) == (True, ["a"], 10, 1)
    with pytest.raises(TooBusyError, match="needed for others"):
        large.reserve(1)
    large.close()
    assert budget.held_bytes == 10


def test_of_equal_holders_the_one_that_stalls_is_evicted(budget: ByteBudget, clock: Clock) -> None:
    stalled, evicted = open_evictable(budget)
    stalled.reserve(400)
    clock.now = 20.0
    quick, _ = open_evictable(budget)
    quick.reserve(400)
    new, _ = open_evictable(budget)
    new.reserve(400)
    assert (evicted, quick.is_evicted, new.held_bytes) == (["a"], False, 400)


def test_an_announced_size_counts_against_the_one_that_asks(budget: ByteBudget) -> None:
    """A large body that would not fit is refused at its first bytes, before it displaces what has arrived."""
    first, evicted = open_evictable(budget)
    first.reserve(950)
    second, _ = open_evictable(budget)
    second.expected_bytes = 5_000
    second.reserve(50)
    with pytest.raises(TooBusyError):
        second.reserve(450)
    assert (evicted, first.held_bytes) == ([], 950)


def test_many_holders_of_one_owner_displace_none_of_another(budget: ByteBudget, clock: Clock) -> None:
    alone, evicted = open_evictable(budget, "alone")
    alone.reserve(300)
    clock.now = 100.0
    crowd = [open_evictable(budget, "crowd") for _ in range(100)]
    for holder, _ in crowd:
        with contextlib.suppress(TooBusyError):
            holder.reserve(50)
    assert (evicted, alone.held_bytes) == ([], 300)
    assert sum(holder.held_bytes for holder, _ in crowd) == 700
    alone.reserve(200)
    assert sum(holder.held_bytes for holder, _ in crowd) == 500


def test_an_evicted_holder_holds_again_once_it_is_reopened(budget: ByteBudget) -> None:
    large, evicted = open_evictable(budget)
    large.reserve(900)
    budget.open_holder("b").reserve(200)
    assert (large.held_bytes, evicted) == (0, ["a"])
    large.reopen(lambda: evicted.append("again"))
    large.reserve(700)
    budget.open_holder("c").reserve(200)
    assert (large.held_bytes, budget.held_bytes, evicted) == (0, 400, ["a", "again"])


def test_bytes_in_use_are_not_evicted(budget: ByteBudget) -> None:
    in_use = budget.open_holder("a")
    in_use.reserve(TOTAL)
    small, _ = open_evictable(budget, "b")
    with pytest.raises(TooBusyError):
        small.reserve(1)
    assert in_use.held_bytes == TOTAL


STEPS = st.lists(
    st.tuples(st.integers(0, 7), st.sampled_from(["reserve", "release", "close"]), st.integers(1, 600)), max_size=60
)


@given(STEPS)
def test_the_sum_holds_and_less_than_half_a_share_never_loses(steps: list[tuple[int, str, int]]) -> None:
    clock = Clock()
    budget = ByteBudget(TOTAL, clock)
    evicted: list[int] = []
    holders = [budget.open_holder(number % 3, lambda number=number: evicted.append(number)) for number in range(8)]  # type: ignore[misc]
    for number, action, count in steps:
        clock.now += 0.5
        holder = holders[number]
        before = {each: each.held_bytes for each in holders}
        evicted.clear()
        if action == "reserve":
            is_refused = False
            try:
                holder.reserve(count)
            except TooBusyError:
                is_refused = not holder.is_evicted
            for loser in [*evicted, *([number] if is_refused else [])]:
                _assert_fair(holders, before, holder, count, loser)
        elif action == "release":
            holder.release(count)
        else:
            holder.close()
        assert budget.held_bytes == sum(each.held_bytes for each in holders) <= TOTAL
        assert all(each.held_bytes >= 0 for each in holders)
        assert len(budget) == sum(each.held_bytes > 0 for each in holders)


def _assert_fair(
    holders: list[ByteHolder], before: dict[ByteHolder, int], asking: ByteHolder, count: int, loser: int
) -> None:
    """Assert that the loser held at least half of an equal share of one of the owners with most."""
    sizes = {**before, asking: before[asking] + count}
    owned: Counter[object] = Counter()
    for each, size in sizes.items():
        owned[each.owner] += size
    lost = holders[loser]
    number = sum(each.owner == lost.owner and size > 0 for each, size in sizes.items())
    assert sizes[lost] >= owned[lost.owner] / number / 2 - count
    assert owned[lost.owner] >= max(owned.values()) / len(owned) - count
