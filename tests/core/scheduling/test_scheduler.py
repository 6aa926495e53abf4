"""Tests `streamd/core/scheduling/scheduler.py` at random.

Servers, callers, poisoned windows and lanes that are lost.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from streamd.core.arrays import Numbers, Slots
from streamd.core.scheduling.batch_reasons import BatchReason
from streamd.core.scheduling.batches import Batch, BatchOutcome, Item, RequestItem, ServerItem
from streamd.core.scheduling.costs import CostTable
from streamd.core.scheduling.scheduler import Scheduler
from streamd.core.state.window_columns import NO_STEP

SLOTS = 5
NEED = 3
DELAY_SECONDS = 10.0
MAX_WAITING_REQUESTS = 8
COSTS = CostTable({1: 1.0, 2: 1.1, 4: 1.2, 8: 1.3}, pads=False)

Row = tuple[int, int, int]
"""Slot, generation and step: one row of one server."""


@dataclass
class World:
    """The state that the scheduler reads: each slot's server, its rows and its forecast on the board."""

    generations: list[int]
    newest: list[int]
    have: list[int]
    posted: list[int]

    @classmethod
    def make(cls) -> "World":
        return cls([0] * SLOTS, [NO_STEP] * SLOTS, [0] * SLOTS, [NO_STEP] * SLOTS)

    def snapshot_many(self, slots: Slots) -> tuple[Numbers, Numbers, Numbers]:
        generations, newest, have = (np.array(each, np.int64) for each in (self.generations, self.newest, self.have))
        return generations[slots], newest[slots], have[slots]

    def posted_many(self, slots: Slots) -> Numbers:
        steps: Numbers = np.array(self.posted, np.int64)[slots]
        return steps

    def scheduler(self, **limits: float) -> Scheduler:
        return Scheduler(
            self.snapshot_many,
            self.posted_many,
            capacity=len(self.posted),
            need=NEED,
            max_queue_delay_seconds=limits.get("delay", DELAY_SECONDS),
            max_waiting_requests=MAX_WAITING_REQUESTS,
        )

    def close_row(self, slot: int, rows: int = 1) -> None:
        self.newest[slot] += rows
        self.have[slot] = max(self.have[slot], NEED)


def row_of(item: ServerItem) -> Row:
    return item.slot, item.generation, item.step


class Fleet(RuleBasedStateMachine):
    """Rows become due, lanes run and die in any order; the naive bookkeeping is sets and counters."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 100.0
        self.world = World.make()
        self.scheduler = self.world.scheduler()
        self.lanes: list[Batch] = []
        self.poisoned: set[object] = set()
        self.due = self.delivered = self.failed = 0
        self.ran: set[Row] = set()
        self.delivered_steps: dict[tuple[int, int], int] = {}
        self.unanswered: Counter[tuple[object, int]] = Counter()
        self.lost_twice: set[int] = set()
        self.requests = 0
        self.ended: set[object] = set()
        self.waiting_slots: dict[int, float] = {}
        """By slot that waits for the first time: since when, in the order in which they began to wait."""
        self.waiting_windows: list[tuple[object, int, float]] = []
        """Callers' windows that wait for the first time."""

    # ------------------------------------------------------------ the world
    @rule(slot=st.integers(0, SLOTS - 1), rows=st.sampled_from([1, 1, 1, 2]), later=st.sampled_from([0.0, 1.0]))
    def rows_close(self, slot: int, rows: int, later: float) -> None:
        self.now += later
        self.world.close_row(slot, rows)
        self.due += rows
        self.waiting_slots.setdefault(slot, self.now)
        self.scheduler.mark_due(slot, self.now, rows)

    @rule(slots=st.lists(st.integers(0, SLOTS - 1), unique=True), later=st.sampled_from([0.0, 1.0]))
    def many_rows_close(self, slots: list[int], later: float) -> None:
        self.now += later
        for slot in slots:
            self.world.close_row(slot)
            self.waiting_slots.setdefault(slot, self.now)
        self.due += len(slots)
        self.scheduler.mark_due_many(np.array(slots, np.int64), self.now)

    @rule(slot=st.integers(0, SLOTS - 1), have=st.integers(0, NEED - 1))
    def a_gap_leaves_too_few_rows(self, slot: int, have: int) -> None:
        self.world.newest[slot] += 50
        self.world.have[slot] = have

    @rule(slot=st.integers(0, SLOTS - 1))
    def a_server_is_forgotten(self, slot: int) -> None:
        self.scheduler.forget(slot)
        self.waiting_slots.pop(slot, None)
        self.world.generations[slot] += 1
        self.world.newest[slot] = self.world.posted[slot] = NO_STEP
        self.world.have[slot] = 0

    @rule(slot=st.integers(0, SLOTS - 1))
    def a_row_is_poisoned(self, slot: int) -> None:
        self.poisoned.add((slot, self.world.generations[slot], self.world.newest[slot]))

    @rule(windows=st.integers(1, 4), poisoned=st.none() | st.integers(0, 3))
    def a_caller_asks(self, windows: int, poisoned: int | None) -> None:
        request = f"request-{self.requests}"
        self.requests += 1
        waiting = self.scheduler.waiting
        taken = self.scheduler.add_request(request, windows, self.now)
        assert self.scheduler.waiting == waiting + (windows if taken else 0)
        if taken:
            self.unanswered.update((request, index) for index in range(windows))
            self.waiting_windows += [(request, index, self.now) for index in range(windows)]
            if poisoned is not None:
                self.poisoned.add((request, poisoned))

    @precondition(lambda self: self.unanswered)
    @rule(data=st.data())
    def a_caller_leaves(self, data: st.DataObject) -> None:
        requests = sorted({str(request) for request, _ in self.unanswered})
        request = data.draw(st.sampled_from(requests))
        on_lanes = {self.key(item) for batch in self.lanes for item in batch.list_items()}
        windows = {key for key in self.unanswered if key[0] == request}
        waiting, dropped = self.scheduler.waiting, self.scheduler.dropped_windows
        self.scheduler.drop_request(request)
        assert self.scheduler.waiting == waiting - len(windows - on_lanes), (
            "waiting windows of an ended call are removed"
        )
        assert self.scheduler.dropped_windows == dropped + len(windows - on_lanes)
        self.ended.add(request)
        self.waiting_windows = [window for window in self.waiting_windows if window[0] != request]
        for key in windows:
            del self.unanswered[key]

    def without_ended_calls(self, items: list[Item]) -> list[Item]:
        return [item for item in items if isinstance(item, ServerItem) or item.request not in self.ended]

    # ------------------------------------------------------------ lanes
    @rule(idle_lanes=st.integers(1, 3), later=st.sampled_from([0.0, 1.0, DELAY_SECONDS]), expects_rows=st.booleans())
    def a_lane_is_idle(self, idle_lanes: int, later: float, expects_rows: bool) -> None:
        self.now += later
        due = list(self.scheduler.due)
        assert due == list(self.waiting_slots)
        held_back = expects_rows and self.now < self.scheduler.dispatch_deadline
        retries = len(self.scheduler.retries)
        size = COSTS.choose_batch_size(len(self.waiting_slots) + len(self.waiting_windows), idle_lanes)
        batch = self.scheduler.next_batch(self.now, idle_lanes, COSTS, expects_rows)
        if batch is None:
            assert held_back or not self.scheduler.waiting
            return
        if not retries:
            servers, windows = self.take_oldest(size)
            assert [row_of(item) for item in batch.servers.list_items()] == sorted(servers, key=lambda row: row[2])
            assert [(item.request, item.index) for item in batch.requests] == windows
        taken = [item.slot for item in batch.list_items() if isinstance(item, ServerItem) and item.slot in due]
        assert not batch.moves or not taken, "a batch of a lost lane is moved without new windows"
        self.take(batch)

    def take_oldest(self, count: int) -> tuple[list[Row], list[tuple[object, int]]]:
        """Take the windows that wait the longest, one by one, from the naive queues."""
        servers: list[Row] = []
        windows: list[tuple[object, int]] = []
        while len(servers) + len(windows) < count and (self.waiting_slots or self.waiting_windows):
            slot, since = next(iter(self.waiting_slots.items()), (-1, math.inf))
            if self.waiting_windows and self.waiting_windows[0][2] <= since:
                windows.append(self.waiting_windows.pop(0)[:2])
                continue
            del self.waiting_slots[slot]
            if self.world.have[slot] >= NEED:
                servers.append((slot, self.world.generations[slot], self.world.newest[slot]))
        return servers, windows

    @rule()
    def no_lane_is_idle(self) -> None:
        assert self.scheduler.next_batch(self.now, 0, COSTS, False) is None

    def take(self, batch: Batch) -> None:
        assert batch.started == self.now
        for item in batch.list_items():
            if isinstance(item, RequestItem):
                assert self.unanswered[item.request, item.index] == 1
                continue
            row = row_of(item)
            assert (row[1:], item.context) == (
                (self.world.generations[item.slot], self.world.newest[item.slot]),
                self.world.have[item.slot],
            ), "a window is gathered as it is now"
            assert item.context >= NEED, "a window with too few rows is never forecast"
            assert row not in self.ran, "a row runs again only after a lost lane or a failed batch"
            self.ran.add(row)
        keys = [self.key(item) for item in batch.list_items()]
        assert len(set(keys)) == len(keys), "no window is in a batch twice"
        in_flight = {self.key(item) for other in self.lanes for item in other.list_items()}
        assert not in_flight.intersection(keys), "no window is on two lanes at once"
        if len(batch):
            self.lanes.append(batch)

    @precondition(lambda self: self.lanes)
    @rule(data=st.data())
    def a_lane_is_done(self, data: st.DataObject) -> None:
        batch = self.lanes.pop(data.draw(st.integers(0, len(self.lanes) - 1)))
        retries = len(self.scheduler.retries)
        if any(self.key(item) in self.poisoned for item in batch.list_items()):
            outcome = self.scheduler.bisect_batch(batch)
            self.check_halved(batch, outcome, self.retried_after(retries))
            self.apply(outcome, self.retried_after(retries))
            return
        bad = data.draw(st.sets(st.integers(0, len(batch) - 1), max_size=1)) if len(batch) else set()
        outcome = self.scheduler.complete_batch(batch, bad)
        assert outcome.fail == [batch.list_items()[row] for row in sorted(bad)]
        assert not self.retried_after(retries)
        self.apply(outcome)

    def retried_after(self, retries: int) -> list[Batch]:
        """Return the batches that were queued to run again after the first `retries`."""
        return list(self.scheduler.retries)[retries:]

    @precondition(lambda self: self.lanes)
    @rule(data=st.data())
    def a_lane_is_lost(self, data: st.DataObject) -> None:
        batch = self.lanes.pop(data.draw(st.integers(0, len(self.lanes) - 1)))
        retries = len(self.scheduler.retries)
        outcome = self.scheduler.reassign_batch(batch)
        retried = self.retried_after(retries)
        assert (len(outcome.deliver), outcome.answer) == (0, [])
        if batch.moves:
            assert outcome.fail == batch.list_items(), "a batch that lost two lanes gets no third"
        else:
            assert not outcome.fail
            assert [item for each in retried for item in each.list_items()] == self.without_ended_calls(
                batch.list_items()
            )
        self.apply(outcome, retried)

    def check_halved(self, batch: Batch, outcome: BatchOutcome, retried: Sequence[Batch]) -> None:
        assert (len(outcome.deliver), outcome.answer) == (0, [])
        if len(batch) == 1:
            assert outcome.fail == batch.list_items()
            assert self.key(outcome.fail[0]) in self.poisoned, "no window fails because of another"
            return
        assert not outcome.fail
        middle = len(batch) // 2
        halves = [
            self.without_ended_calls(batch.list_items()[:middle]),
            self.without_ended_calls(batch.list_items()[middle:]),
        ]
        assert [each.list_items() for each in retried] == [half for half in halves if half]

    def apply(self, outcome: BatchOutcome, retried: Sequence[Batch] = ()) -> None:
        assert outcome.rows.tolist() == sorted(set(outcome.rows.tolist()))
        for item in outcome.deliver.list_items():
            server = item.slot, item.generation
            assert item.step > self.delivered_steps.get(server, NO_STEP), "a server's steps only rise"
            assert item.generation == self.world.generations[item.slot], "a forgotten server gets no forecast"
            self.delivered_steps[server] = self.world.posted[item.slot] = item.step
            self.delivered += 1
        for request in (item for _, item in outcome.answer):
            self.answer(request)
        for failed in outcome.fail:
            if isinstance(failed, RequestItem):
                self.answer(failed)
            else:
                self.failed += 1
        for each in retried:
            self.ran.difference_update(row_of(item) for item in each.list_items() if isinstance(item, ServerItem))

    def answer(self, item: RequestItem) -> None:
        if item.request in self.ended:
            return  # it was on a lane when its call ended
        assert self.unanswered[item.request, item.index] == 1, "one answer or failure to each window"
        del self.unanswered[item.request, item.index]

    @staticmethod
    def key(item: Item) -> object:
        return (item.request, item.index) if isinstance(item, RequestItem) else row_of(item)

    # ------------------------------------------------------------ at all times
    @invariant()
    def every_due_row_is_accounted_for(self) -> None:
        counts = self.scheduler.counts
        assert (counts.due, counts.delivered, counts.failed) == (self.due, self.delivered, self.failed)
        in_flight = self.without_ended_calls([item for batch in self.lanes for item in batch.list_items()])
        servers_in_flight = sum(isinstance(item, ServerItem) for item in in_flight)
        requests_waiting = len(self.unanswered) - (len(in_flight) - servers_in_flight)
        assert self.scheduler.waiting_requests == requests_waiting
        servers_waiting = self.scheduler.waiting - requests_waiting
        assert servers_waiting >= len(self.scheduler.due)
        done = counts.delivered + self.scheduler.superseded + counts.failed + counts.forgotten
        assert counts.due == done + servers_waiting + servers_in_flight

    def teardown(self) -> None:
        """Run what is left: once no lane fails any more, every row and every call ends."""
        for _ in range(1_000):
            while (batch := self.scheduler.next_batch(self.now, 1, COSTS, False)) is not None:
                self.take(batch)
            if not self.lanes:
                break
            batch = self.lanes.pop()
            poisoned = any(self.key(item) in self.poisoned for item in batch.list_items())
            retries = len(self.scheduler.retries)
            outcome = self.scheduler.bisect_batch(batch) if poisoned else self.scheduler.complete_batch(batch)
            self.apply(outcome, self.retried_after(retries))
            self.every_due_row_is_accounted_for()
        assert self.scheduler.waiting == self.scheduler.waiting_requests == 0
        assert not self.unanswered, "every caller has an answer"
        for number in range(self.requests):
            self.scheduler.drop_request(f"request-{number}")
        assert self.scheduler.calls == 0


TestFleet = Fleet.TestCase
TestFleet.settings = settings(stateful_step_count=50)


# ---------------------------------------------------------------- one by one
def due_world(slots: int) -> tuple[World, Scheduler]:
    world = World([0] * slots, [10] * slots, [NEED] * slots, [NO_STEP] * slots)
    scheduler = world.scheduler()
    for slot in range(slots):
        scheduler.mark_due(slot, float(slot))
    return world, scheduler


def take(scheduler: Scheduler, now: float = 100.0) -> Batch:
    batch = scheduler.next_batch(now, 1, COSTS, False)
    assert batch is not None
    return batch


def slots_of(batch: Batch) -> list[int]:
    return [item.slot for item in batch.list_items() if isinstance(item, ServerItem)]


def test_a_poisoned_window_fails_alone_and_soon() -> None:
    _, scheduler = due_world(8)
    culprit, failed, delivered, runs = 5, [], [], 0
    while (batch := scheduler.next_batch(100.0, 1, COSTS, False)) is not None:
        runs += 1
        outcome = scheduler.bisect_batch(batch) if culprit in slots_of(batch) else scheduler.complete_batch(batch)
        failed += [item.slot for item in outcome.fail if isinstance(item, ServerItem)]
        delivered += [item.slot for item in outcome.deliver.list_items()]
    assert failed == [culprit]
    assert sorted(delivered) == [0, 1, 2, 3, 4, 6, 7]
    assert runs == 7, "eight, two fours, two twos, two ones"


def test_the_oldest_windows_of_both_queues_run_first() -> None:
    _, scheduler = due_world(2)
    scheduler.add_request("caller", 2, 0.5)
    batch = take(scheduler)
    assert (batch.servers.since.tolist(), [item.since for item in batch.requests]) == ([0.0, 1.0], [0.5, 0.5])
    assert batch.find_oldest_since() == 0.0


def test_the_windows_that_wait_the_longest_fill_a_small_batch_of_both_queues() -> None:
    _, scheduler = due_world(3)
    scheduler.add_request("caller", 3, 0.5)
    one_by_one = CostTable({1: 1.0}, pads=False)
    batches = [scheduler.next_batch(100.0, 1, one_by_one, expects_rows=False) for _ in range(6)]
    assert [item.since for batch in batches if batch for item in batch.list_items()] == [0.0, 0.5, 0.5, 0.5, 1.0, 2.0]


def test_the_servers_of_a_batch_are_first_and_those_of_one_step_are_neighbours() -> None:
    world, scheduler = due_world(6)
    world.newest[:] = [102, 101, 102, 103, 101, 102]
    scheduler.add_request("caller", 2, 2.5)
    batch = take(scheduler)
    assert batch.servers.slots.tolist() == [1, 4, 0, 2, 5, 3]
    assert batch.servers.since.tolist() == [1.0, 4.0, 0.0, 2.0, 5.0, 3.0]
    assert [item.index for item in batch.requests] == [0, 1]
    assert batch.list_items() == [*batch.servers.list_items(), *batch.requests]


def test_an_idle_lane_gets_work_at_once() -> None:
    _, scheduler = due_world(1)
    assert scheduler.next_batch(0.0, 1, COSTS, expects_rows=False) is not None


def test_work_is_held_back_only_while_more_rows_are_certain_and_until_the_deadline() -> None:
    _, scheduler = due_world(3)
    assert scheduler.dispatch_deadline == DELAY_SECONDS
    assert scheduler.next_batch(DELAY_SECONDS - 0.1, 1, COSTS, expects_rows=True) is None
    assert scheduler.next_batch(DELAY_SECONDS, 1, COSTS, expects_rows=True) is not None


def test_a_batch_that_was_held_back_until_the_deadline_says_so() -> None:
    _, scheduler = due_world(3)
    batch = scheduler.next_batch(DELAY_SECONDS, 1, COSTS, expects_rows=True)
    assert batch is not None
    assert batch.reason is BatchReason.DELAY_OVER


def test_a_batch_says_whether_it_has_all_or_as_many_as_fit() -> None:
    _, scheduler = due_world(COSTS.max_batch + 1)
    reasons = [take(scheduler).reason for _ in range(2)]
    assert reasons == [BatchReason.LARGEST_BATCH, BatchReason.ALL_WAITING]


def test_a_batch_that_runs_again_says_why() -> None:
    _, scheduler = due_world(4)
    scheduler.bisect_batch(take(scheduler))
    half = take(scheduler)
    assert half.reason is BatchReason.HALF_OF_FAILED
    scheduler.reassign_batch(half)
    take(scheduler)
    assert take(scheduler).reason is BatchReason.LANE_LOST


def test_the_parts_of_a_batch_have_its_reason() -> None:
    _, scheduler = due_world(4)
    scheduler.bisect_batch(take(scheduler))
    assert [part.reason for part in take(scheduler).split(1)] == [BatchReason.HALF_OF_FAILED] * 2


def test_a_full_batch_is_never_held_back() -> None:
    _, scheduler = due_world(COSTS.max_batch)
    assert scheduler.next_batch(0.0, 1, COSTS, expects_rows=True) is not None


def test_a_newer_row_keeps_the_place_of_its_server() -> None:
    world, scheduler = due_world(3)
    world.newest[0] = 11
    scheduler.mark_due(0, 99.0)
    one_by_one = CostTable({1: 1.0}, pads=False)
    batches = [scheduler.next_batch(100.0, 1, one_by_one, expects_rows=False) for _ in range(3)]
    items = [item for batch in batches if batch for item in batch.servers.list_items()]
    assert [(item.slot, item.step, item.since) for item in items] == [(0, 11, 0.0), (1, 10, 1.0), (2, 10, 2.0)]
    assert scheduler.superseded == 1


def test_an_older_row_whose_batch_ends_later_is_not_delivered() -> None:
    world, scheduler = due_world(1)
    slow = take(scheduler)
    world.newest[0] = 11
    scheduler.mark_due(0, 50.0)
    quick = take(scheduler)
    assert len(scheduler.complete_batch(quick).deliver) == 1
    world.posted[0] = 11
    assert scheduler.complete_batch(slow).deliver.list_items() == []
    assert scheduler.superseded == 1


def test_the_batch_of_a_lost_lane_moves_once() -> None:
    _, scheduler = due_world(2)
    assert not scheduler.reassign_batch(take(scheduler)).fail
    moved = take(scheduler)
    assert moved.moves == 1
    assert len(scheduler.reassign_batch(moved).fail) == 2
    assert scheduler.next_batch(100.0, 1, COSTS, False) is None


def test_a_batch_that_is_too_large_for_these_lanes_runs_in_parts() -> None:
    _, scheduler = due_world(8)
    scheduler.reassign_batch(take(scheduler))
    small = CostTable({1: 1.0, 3: 1.1}, pads=True)
    parts = [scheduler.next_batch(100.0, 1, small, expects_rows=False) for _ in range(3)]
    assert [slots_of(part) for part in parts if part] == [[0, 1, 2], [3, 4, 5], [6, 7]]
    assert [part.moves for part in parts if part] == [1, 1, 1]
    assert scheduler.waiting == 0


def test_a_retried_row_is_superseded_if_a_newer_one_is_on_a_lane_already() -> None:
    world, scheduler = due_world(2)
    old = take(scheduler)
    world.newest[0] = 11
    scheduler.mark_due(0, 50.0)
    newer = take(scheduler)
    assert slots_of(newer) == [0]
    scheduler.reassign_batch(old)
    assert slots_of(take(scheduler)) == [1]
    assert scheduler.superseded == 1


@pytest.mark.parametrize("have", [0, NEED - 1])
def test_a_window_that_a_gap_emptied_while_it_waited_is_not_forecast(have: int) -> None:
    world, scheduler = due_world(2)
    world.newest[0], world.have[0] = 500, have
    assert slots_of(take(scheduler)) == [1]
    assert scheduler.superseded == 1
    assert scheduler.counts.due == 2


def test_a_call_that_does_not_fit_into_the_queue_is_refused_whole() -> None:
    _, scheduler = due_world(0)
    assert scheduler.add_request("a", MAX_WAITING_REQUESTS - 1, 0.0)
    assert not scheduler.add_request("b", 2, 0.0)
    assert scheduler.waiting == MAX_WAITING_REQUESTS - 1
    assert scheduler.add_request("c", 1, 0.0)


def test_a_call_that_ended_frees_space_and_the_others_keep_their_order() -> None:
    scheduler = World([0], [10], [NEED], [NO_STEP]).scheduler()
    for number, request in enumerate(("a", "b", "c")):
        assert scheduler.add_request(request, 2, float(number))
    scheduler.mark_due(0, 1.5)
    scheduler.drop_request("a")
    assert scheduler.dispatch_deadline == 1.0 + DELAY_SECONDS, (
        "it is counted from the longest waiting window that is left"
    )
    assert (scheduler.waiting, scheduler.waiting_requests, scheduler.calls) == (5, 4, 2)
    assert scheduler.add_request("d", MAX_WAITING_REQUESTS - 4, 3.0)
    one_by_one = CostTable({1: 1.0}, pads=False)
    batches = [scheduler.next_batch(100.0, 1, one_by_one, expects_rows=False) for _ in range(5)]
    items = [item for batch in batches if batch for item in batch.list_items()]
    names = [item.request if isinstance(item, RequestItem) else item.slot for item in items]
    assert names == ["b", "b", 0, "c", "c"]
    assert scheduler.dropped_windows == 2


@pytest.mark.parametrize("how", [Scheduler.bisect_batch, Scheduler.reassign_batch])
def test_a_window_on_a_lane_does_not_run_again_if_its_call_ended(
    how: Callable[[Scheduler, Batch], BatchOutcome],
) -> None:
    _, scheduler = due_world(1)
    scheduler.add_request("gone", 2, 0.0)
    scheduler.add_request("stays", 1, 0.0)
    batch = take(scheduler)
    scheduler.drop_request("gone")
    how(scheduler, batch)
    items = [item for each in scheduler.retries for item in each.list_items()]
    names = [item.request if isinstance(item, RequestItem) else item.slot for item in items]
    assert sorted(map(str, names)) == ["0", "stays"]
    assert scheduler.waiting == 2
    # 2. Neither does one that waits to run again.
    scheduler.drop_request("stays")
    assert (scheduler.waiting, scheduler.waiting_requests) == (1, 0)
    assert slots_of(take(scheduler)) == [0]
    assert scheduler.next_batch(100.0, 1, COSTS, False) is None
    assert scheduler.dropped_windows == 3


def test_a_window_whose_neighbours_were_removed_runs_alone_before_it_fails() -> None:
    _, scheduler = due_world(1)
    scheduler.add_request("gone", 3, 0.0)
    batch = take(scheduler)
    scheduler.drop_request("gone")
    outcome = scheduler.bisect_batch(batch)
    assert not outcome.fail
    assert slots_of(take(scheduler)) == [0]


def test_a_server_that_was_forgotten_while_it_ran_gets_no_forecast() -> None:
    world, scheduler = due_world(1)
    batch = take(scheduler)
    scheduler.forget(0)
    world.generations[0] += 1
    assert scheduler.complete_batch(batch).deliver.list_items() == []
    assert scheduler.counts.forgotten == 1
