"""Tests `streamd/runtime/inference_statistics.py`: counts and times of followed calls, which leave no gap."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamd.core.scheduling.batches import Batch, RequestItem
from streamd.runtime.inference_statistics import InferenceCall, InferenceStatistics, VersionStatistics
from streamd.runtime.lanes.worker import NO_CHECKS, NO_FORECASTS, LaneResult

WALL = 1_700_000_000.0

Durations = st.floats(0.0, 100.0)


class StatisticsRig:
    """Statistics whose clock only a test moves."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.statistics = InferenceStatistics(lambda: self.now, lambda: WALL + self.now)

    @property
    def counts(self) -> VersionStatistics:
        return self.statistics.get_version("v1")

    def begin(self) -> InferenceCall:
        call = InferenceCall(self.statistics)
        call.begin()
        return call

    def run_batch(
        self, *requests: object, queued: float = 0.0, filled: float = 0.0, ran: float = 0.0, handed: float = 0.0
    ) -> None:
        """Let a batch with one window of each request wait, be filled, run and be answered, so many seconds each."""
        self.now += queued
        batch = Batch(requests=[RequestItem(request, 0, 0.0) for request in requests], started=self.now)
        self.now += filled
        result = LaneResult(
            batch=batch,
            forecasts=NO_FORECASTS,
            checks=NO_CHECKS,
            bad_rows=(),
            error=None,
            began=self.now,
            seconds=ran,
        )
        self.now += ran + handed
        self.statistics.batch_answered(list(enumerate(batch.requests)), result, "v1", self.now)


@given(st.lists(st.tuples(*[Durations] * 4), min_size=1, max_size=3), Durations, Durations)
def test_the_times_of_a_call_have_no_gap(
    batches: list[tuple[float, float, float, float]], decoding: float, answering: float
) -> None:
    rig, request = StatisticsRig(), object()
    call = rig.begin()
    rig.now += decoding
    with rig.statistics.follow(request, call, rig.now):
        for queued, filled, ran, handed in batches:
            rig.run_batch(request, queued=queued, filled=filled, ran=ran, handed=handed)
    rig.now += answering
    call.succeed("v1", 1)
    compute = rig.counts.compute
    parts = [rig.counts.queue, compute.inputs, compute.lane, compute.outputs]
    assert [each.count for each in (rig.counts.success, *parts)] == [1] * 5
    assert rig.counts.success.seconds == pytest.approx(rig.now - 1_000.0)
    assert sum(each.seconds for each in parts) == pytest.approx(rig.counts.success.seconds)


def test_each_time_is_that_of_its_part() -> None:
    rig, request = StatisticsRig(), object()
    call = rig.begin()
    rig.now += 1.0
    with rig.statistics.follow(request, call, rig.now):
        rig.run_batch(request, queued=2.0, filled=4.0, ran=8.0, handed=16.0)
    rig.now += 32.0
    call.succeed("v1", 5)
    counts, compute = rig.counts, rig.counts.compute
    assert (counts.windows, counts.executions, counts.fail.count) == (5, 1, 0)
    assert counts.queue.seconds == 2.0
    assert [compute.inputs.seconds, compute.lane.seconds, compute.outputs.seconds] == [1.0 + 4.0, 8.0, 16.0 + 32.0]
    assert counts.last_call == WALL + 1_000.0, "when it began"
    (batch,) = counts.batches.values()
    assert [batch.inputs.seconds, batch.lane.seconds, batch.outputs.seconds] == [4.0, 8.0, 16.0]


def test_a_batch_counts_once_for_all_its_calls_under_its_whole_size() -> None:
    rig, first, second, other = StatisticsRig(), object(), object(), object()
    with rig.statistics.follow(first, rig.begin(), rig.now), rig.statistics.follow(second, rig.begin(), rig.now):
        rig.run_batch(first, first, second, other, ran=1.0)
        rig.run_batch(other, ran=1.0)
    assert {size: sums.lane.count for size, sums in rig.counts.batches.items()} == {4: 1}
    assert rig.counts.executions == 1


def test_batches_count_for_a_call_only_while_it_is_followed() -> None:
    rig, request = StatisticsRig(), object()
    with rig.statistics.follow(request, rig.begin(), rig.now):
        pass
    rig.run_batch(request)
    assert rig.counts.executions == 0


def test_a_call_that_fails_has_only_the_time_until_then() -> None:
    rig = StatisticsRig()
    call = rig.begin()
    rig.now += 3.0
    call.fail("v1")
    InferenceCall(rig.statistics).fail("v1")  # its body did not arrive
    counts = rig.counts
    assert (counts.fail.count, counts.fail.seconds, counts.last_call) == (1, 3.0, WALL + 1_000.0)
    assert (counts.success.count, counts.queue.count, counts.windows) == (0, 0, 0)


def test_versions_are_numbered_in_their_order_and_counted_apart() -> None:
    rig = StatisticsRig()
    rig.begin().fail("second")
    rig.begin().fail("v1")
    rig.begin().fail("second")
    shown = [(counts.number, counts.fail.count) for counts in map(rig.statistics.get_version, ("second", "v1"))]
    assert shown == [(1, 2), (2, 1)]
