"""Tests `streamd/core/scheduling/costs.py` against every possible split of the work."""

from functools import cache
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from streamd.core.scheduling.batch_reasons import BatchReason
from streamd.core.scheduling.costs import CostTable

OVERHEAD_SECONDS = 0.0005


@st.composite
def tables(draw: st.DrawFn) -> CostTable:
    """Draw rising seconds, like measured ones: a larger batch is never quicker."""
    buckets = sorted(draw(st.permutations(range(1, 13)))[: draw(st.integers(1, 4))])
    more = [draw(st.sampled_from([0, 1, 2, 5, 10, 30])) for _ in buckets]
    seconds = {bucket: (1 + sum(more[: place + 1])) * 1e-3 for place, bucket in enumerate(buckets)}
    limit = draw(st.sampled_from([None, None, None, 3, 7, 24]))
    return CostTable(seconds, pads=draw(st.booleans()), max_batch=limit, overhead_seconds=OVERHEAD_SECONDS)


def naive_cost(table: CostTable, count: int) -> float:
    """Return the seconds by the naive rule: of a full bucket if it pads, else between those of the buckets around."""
    points = [(0, 0.0), *sorted(table.seconds.items())]
    for (low, low_seconds), (high, high_seconds) in pairwise(points):
        if low < count <= high:
            if table.pads:
                return high_seconds
            return low_seconds + (high_seconds - low_seconds) * (count - low) / (high - low)
    raise AssertionError(f"no bucket holds {count}")


def cheapest(table: CostTable, waiting: int) -> float:
    """Return the seconds of the cheapest split on one lane, with every first batch and every rest tried."""

    @cache
    def best(left: int) -> float:
        if not left:
            return 0.0
        sizes = range(1, min(left, table.max_batch) + 1)
        return min(naive_cost(table, size) + OVERHEAD_SECONDS + best(left - size) for size in sizes)

    return best(waiting)


@given(tables(), st.integers(1, 12))
def test_the_seconds_of_a_batch_are_those_of_the_naive_rule(table: CostTable, count: int) -> None:
    if count <= table.buckets[-1]:
        assert table.estimate_seconds(count) == pytest.approx(naive_cost(table, count))


@given(tables(), st.integers(-1, 60), st.integers(-1, 5))
def test_a_batch_is_within_bounds(table: CostTable, waiting: int, idle_lanes: int) -> None:
    taken = table.choose_batch_size(waiting, idle_lanes)
    if waiting < 1 or idle_lanes < 1:
        assert taken == 0
    else:
        assert 1 <= taken <= min(waiting, table.max_batch)


@given(tables(), st.integers(1, 12))
@example(CostTable({2: 0.001, 8: 0.006}, pads=False, overhead_seconds=OVERHEAD_SECONDS), 5)
def test_one_lane_finishes_as_early_as_any_split_allows(table: CostTable, waiting: int) -> None:
    waiting = min(waiting, table.max_batch)
    expected, left, seconds = cheapest(table, waiting), waiting, 0.0
    while left:
        taken = table.choose_batch_size(left, 1)
        left -= taken
        seconds += naive_cost(table, taken) + OVERHEAD_SECONDS
    assert seconds == pytest.approx(expected)


@given(tables(), st.integers(1, 12))
def test_one_lane_never_pads_if_two_smaller_buckets_are_cheaper(table: CostTable, waiting: int) -> None:
    waiting = min(waiting, table.max_batch)
    taken = table.choose_batch_size(waiting, 1)
    alone = table.estimate_seconds(taken) + OVERHEAD_SECONDS
    for first in table.buckets:
        for second in table.buckets:
            if first < taken <= first + second:
                two = (
                    table.estimate_seconds(first)
                    + table.estimate_seconds(min(second, taken - first))
                    + 2 * OVERHEAD_SECONDS
                )
                assert alone <= two + 1e-12, f"{taken} as {first} and {second} costs less"


@given(tables(), st.integers(1, 12), st.integers(1, 4))
def test_a_higher_overhead_never_makes_batches_smaller(table: CostTable, waiting: int, idle_lanes: int) -> None:
    """If only the overhead grows, batches do not get smaller."""
    dear = CostTable(table.seconds, pads=table.pads, max_batch=table.max_batch, overhead_seconds=10.0)
    free = CostTable(table.seconds, pads=table.pads, max_batch=table.max_batch, overhead_seconds=0.0)
    waiting = min(waiting, table.max_batch)
    assert dear.choose_batch_size(waiting, 1) == waiting, "an overhead above all else makes one batch of all"
    assert free.choose_batch_size(waiting, idle_lanes) <= waiting


@pytest.mark.parametrize("waiting", [2, 4, 8, 32])
def test_idle_lanes_share_the_work_if_batching_gains_nothing(waiting: int) -> None:
    table = CostTable({1: 1.0, 8: 8.0, 32: 32.0}, pads=False, overhead_seconds=0.0)
    assert table.choose_batch_size(waiting, 2) <= waiting // 2


def test_there_is_one_batch_if_batching_is_free() -> None:
    table = CostTable({1: 1.0, 8: 1.0, 32: 1.0}, pads=True)
    assert [table.choose_batch_size(waiting, 1) for waiting in (1, 5, 8, 9, 32, 50)] == [1, 5, 8, 9, 32, 32]


def test_a_bucket_that_costs_more_than_its_parts_is_not_used() -> None:
    table = CostTable({1: 1.0, 8: 2.0, 32: 20.0}, pads=True)
    assert [table.choose_batch_size(waiting, 1) for waiting in (9, 16, 24)] == [8, 8, 8]


def test_the_overhead_of_the_loop_is_counted_once_a_batch() -> None:
    # Nine as one batch: 59.7 + 0.5. As eight and one: 59.0 + 2 x 0.5, which is less; with a third 0.5 it would be more.
    one_lane = CostTable({1: 29.0, 8: 30.0, 32: 59.7}, pads=True, overhead_seconds=0.5)
    assert one_lane.choose_batch_size(9, 1) == 8
    # On two lanes, seventeen as one: 12.75 + 1. As 8, 8 and 1: 10.5 + 3 x 1, which is less.
    two_lanes = CostTable({1: 1.0, 8: 10.0, 32: 12.75}, pads=True, overhead_seconds=1.0)
    assert two_lanes.choose_batch_size(17, 2) == 8


def test_idle_lanes_share_the_work_evenly() -> None:
    table = CostTable({1: 1.0, 8: 8.0}, pads=False, overhead_seconds=0.01)
    assert [table.choose_batch_size(waiting, 2) for waiting in (6, 8)] == [3, 4]


def test_few_windows_run_as_one_batch_if_that_is_quicker_than_each_alone() -> None:
    table = CostTable({1: 1.0, 32: 1.2}, pads=True)
    assert table.choose_batch_size(5, 2) == 5


def test_max_batch_bounds_the_buckets() -> None:
    table = CostTable({1: 1.0, 8: 1.0, 32: 1.0}, pads=True, max_batch=20)
    assert table.buckets == [1, 8]
    assert table.max_batch == 8
    small = CostTable({8: 1.0, 32: 1.0}, pads=True, max_batch=4)
    assert small.buckets == [8], "a bucket that is larger is padded where there is no smaller one"
    assert small.choose_batch_size(100, 1) == 4


@pytest.mark.parametrize("seconds", [{}, {0: 1.0}, {-1: 1.0, 8: 1.0}])
def test_invalid_buckets_are_refused(seconds: dict[int, float]) -> None:
    with pytest.raises(ValueError, match="buckets"):
        CostTable(seconds, pads=True)


@pytest.mark.parametrize("pads", [True, False])
def test_a_batch_beyond_the_largest_bucket_is_extrapolated(pads: bool) -> None:
    table = CostTable({1: 1.0, 8: 4.0}, pads=pads)
    assert table.estimate_seconds(16) == 8.0


@given(tables(), st.integers(1, 60), st.integers(1, 5))
def test_the_reason_for_a_size_agrees_with_the_size(table: CostTable, waiting: int, idle_lanes: int) -> None:
    size = table.choose_batch_size(waiting, idle_lanes)
    reason = table.explain_batch_size(size, waiting, idle_lanes)
    assert (reason is BatchReason.ALL_WAITING) == (size == waiting)
    assert (reason is BatchReason.LARGEST_BATCH) == (size == table.max_batch < waiting)
    if reason is BatchReason.SHARED_BY_LANES:
        assert idle_lanes > 1
        assert size < table.choose_batch_size(waiting, 1)
    if reason is BatchReason.CHEAPER_SPLIT and idle_lanes == 1:
        whole = naive_cost(table, min(waiting, table.max_batch)) + OVERHEAD_SECONDS
        assert cheapest(table, min(waiting, table.max_batch)) <= whole


def explain(table: CostTable, waiting: int, idle_lanes: int) -> BatchReason:
    return table.explain_batch_size(table.choose_batch_size(waiting, idle_lanes), waiting, idle_lanes)


def test_a_dear_bucket_a_limit_and_idle_lanes_are_different_reasons() -> None:
    table = CostTable({1: 1.0, 8: 2.0, 32: 20.0}, pads=True)
    assert explain(table, 8, 1) is BatchReason.ALL_WAITING
    assert explain(table, 9, 1) is BatchReason.CHEAPER_SPLIT
    assert explain(CostTable({1: 1.0, 8: 1.0}, pads=True), 9, 1) is BatchReason.LARGEST_BATCH
    assert explain(CostTable({1: 1.0, 8: 8.0}, pads=False, overhead_seconds=0.01), 8, 2) is BatchReason.SHARED_BY_LANES
