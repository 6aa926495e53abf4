"""What runs next: driven at random against a world of servers, callers, poisoned windows and lanes that die."""

from collections import Counter
from dataclasses import dataclass

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from streamd.core.scheduling.costs import CostTable
from streamd.core.scheduling.scheduler import Batch, BatchOutcome, Item, RequestItem, Scheduler, ServerItem
from streamd.core.state.windows import NO_STEP

SLOTS = 5
NEED = 3
DELAY_SECONDS = 10.0
MAX_WAITING_REQUESTS = 8
COSTS = CostTable({1: 1.0, 2: 1.1, 4: 1.2, 8: 1.3}, pads=False)

Row = tuple[int, int, int]
"""Slot, generation and step: one row of one server."""


@dataclass
class World:
    """What the scheduler asks about: each slot's server, its rows and its forecast on the board."""

    generations: list[int]
    newest: list[int]
    have: list[int]
    posted: list[int]

    @classmethod
    def make(cls) -> "World":
        return cls([0] * SLOTS, [NO_STEP] * SLOTS, [0] * SLOTS, [NO_STEP] * SLOTS)

    def snapshot(self, slot: int) -> tuple[int, int, int]:
        return self.generations[slot], self.newest[slot], self.have[slot]

    def scheduler(self, **limits: float) -> Scheduler:
        return Scheduler(
            self.snapshot,
            self.posted.__getitem__,
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
        self.left: set[object] = set()

    # ------------------------------------------------------------ the world
    @rule(slot=st.integers(0, SLOTS - 1), rows=st.sampled_from([1, 1, 1, 2]), later=st.sampled_from([0.0, 1.0]))
    def rows_close(self, slot: int, rows: int, later: float) -> None:
        self.now += later
        self.world.close_row(slot, rows)
        self.due += rows
        self.scheduler.mark_due(slot, self.now, rows)

    @rule(slot=st.integers(0, SLOTS - 1), have=st.integers(0, NEED - 1))
    def a_gap_leaves_too_few_rows(self, slot: int, have: int) -> None:
        self.world.newest[slot] += 50
        self.world.have[slot] = have

    @rule(slot=st.integers(0, SLOTS - 1))
    def server_is_forgotten(self, slot: int) -> None:
        self.scheduler.forget(slot)
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
            if poisoned is not None:
                self.poisoned.add((request, poisoned))

    @precondition(lambda self: self.unanswered)
    @rule(data=st.data())
    def a_caller_leaves(self, data: st.DataObject) -> None:
        requests = sorted({str(request) for request, _ in self.unanswered})
        request = data.draw(st.sampled_from(requests))
        on_lanes = {self.key(item) for batch in self.lanes for item in batch.items}
        windows = {key for key in self.unanswered if key[0] == request}
        waiting, dropped = self.scheduler.waiting, self.scheduler.dropped_windows
        self.scheduler.drop_request(request)
        assert self.scheduler.waiting == waiting - len(windows - on_lanes), "what nobody waits for leaves the line"
        assert self.scheduler.dropped_windows == dropped + len(windows - on_lanes)
        self.left.add(request)
        for key in windows:
            del self.unanswered[key]

    def wanted(self, items: list[Item]) -> list[Item]:
        return [item for item in items if isinstance(item, ServerItem) or item.request not in self.left]

    # ------------------------------------------------------------ lanes
    @rule(idle_lanes=st.integers(1, 3), later=st.sampled_from([0.0, 1.0, DELAY_SECONDS]), more_comes=st.booleans())
    def a_lane_is_idle(self, idle_lanes: int, later: float, more_comes: bool) -> None:
        self.now += later
        due = list(self.scheduler.due)
        held_back = more_comes and self.now < self.scheduler.wait_until()
        batch = self.scheduler.next_batch(self.now, idle_lanes, COSTS, more_comes)
        if batch is None:
            assert held_back or not self.scheduler.waiting
            return
        taken = [item.slot for item in batch.items if isinstance(item, ServerItem) and item.slot in due]
        assert not batch.moves or not taken, "a batch of a lost lane is moved as it was"
        self.take(batch)

    @rule()
    def no_lane_is_idle(self) -> None:
        assert self.scheduler.next_batch(self.now, 0, COSTS, False) is None

    def take(self, batch: Batch) -> None:
        assert batch.started == self.now
        for item in batch.items:
            if isinstance(item, RequestItem):
                assert self.unanswered[item.request, item.index] == 1
                continue
            row = row_of(item)
            assert (row[1:], item.context) == (
                (self.world.generations[item.slot], self.world.newest[item.slot]),
                self.world.have[item.slot],
            ), "a window is gathered as it is now"
            assert item.context >= NEED, "a window with too few rows is never forecast"
            assert row not in self.ran, "no row runs twice, but for a lane's or a neighbour's sake"
            self.ran.add(row)
        keys = [self.key(item) for item in batch.items]
        assert len(set(keys)) == len(keys), "no window is in a batch twice"
        in_flight = {self.key(item) for other in self.lanes for item in other.items}
        assert not in_flight.intersection(keys), "no window is on two lanes at once"
        if batch.items:
            self.lanes.append(batch)

    @precondition(lambda self: self.lanes)
    @rule(data=st.data())
    def a_lane_is_done(self, data: st.DataObject) -> None:
        batch = self.lanes.pop(data.draw(st.integers(0, len(self.lanes) - 1)))
        if any(self.key(item) in self.poisoned for item in batch.items):
            outcome = self.scheduler.failed(batch)
            self.check_halved(batch, outcome)
            self.settle(outcome)
            return
        bad = data.draw(st.sets(st.integers(0, len(batch.items) - 1), max_size=1)) if batch.items else set()
        outcome = self.scheduler.finished(batch, bad)
        assert outcome.fail == [batch.items[row] for row in sorted(bad)]
        assert not outcome.retry
        self.settle(outcome)

    @precondition(lambda self: self.lanes)
    @rule(data=st.data())
    def a_lane_is_lost(self, data: st.DataObject) -> None:
        batch = self.lanes.pop(data.draw(st.integers(0, len(self.lanes) - 1)))
        outcome = self.scheduler.lost(batch)
        assert (outcome.deliver, outcome.answer) == ([], [])
        if batch.moves:
            assert outcome.fail == batch.items, "what took two lanes with it takes no third"
        else:
            assert not outcome.fail
            assert [item for retry in outcome.retry for item in retry.items] == self.wanted(batch.items)
        self.settle(outcome)

    def check_halved(self, batch: Batch, outcome: BatchOutcome) -> None:
        assert (outcome.deliver, outcome.answer) == ([], [])
        if len(batch.items) == 1:
            assert outcome.fail == batch.items
            assert self.key(outcome.fail[0]) in self.poisoned, "nobody fails for a neighbour's sake"
            return
        assert not outcome.fail
        middle = len(batch.items) // 2
        halves = [self.wanted(batch.items[:middle]), self.wanted(batch.items[middle:])]
        assert [retry.items for retry in outcome.retry] == [half for half in halves if half]

    def settle(self, outcome: BatchOutcome) -> None:
        for _, item in outcome.deliver:
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
        for retry in outcome.retry:
            self.ran.difference_update(row_of(item) for item in retry.items if isinstance(item, ServerItem))

    def answer(self, item: RequestItem) -> None:
        if item.request in self.left:
            return  # it was on a lane when its caller left
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
        in_flight = self.wanted([item for batch in self.lanes for item in batch.items])
        servers_in_flight = sum(isinstance(item, ServerItem) for item in in_flight)
        requests_waiting = len(self.unanswered) - (len(in_flight) - servers_in_flight)
        assert self.scheduler.waiting_requests == requests_waiting
        servers_waiting = self.scheduler.waiting - requests_waiting
        assert servers_waiting >= len(self.scheduler.due)
        done = counts.delivered + self.scheduler.superseded + counts.failed + counts.forgotten
        assert counts.due == done + servers_waiting + servers_in_flight

    def teardown(self) -> None:
        """However it went, everything comes to its end once lanes are sound."""
        for _ in range(1_000):
            while (batch := self.scheduler.next_batch(self.now, 1, COSTS, False)) is not None:
                self.take(batch)
            if not self.lanes:
                break
            batch = self.lanes.pop()
            poisoned = any(self.key(item) in self.poisoned for item in batch.items)
            self.settle(self.scheduler.failed(batch) if poisoned else self.scheduler.finished(batch))
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
    return [item.slot for item in batch.items if isinstance(item, ServerItem)]


def test_a_poisoned_window_fails_alone_and_soon() -> None:
    _, scheduler = due_world(8)
    culprit, failed, delivered, runs = 5, [], [], 0
    while (batch := scheduler.next_batch(100.0, 1, COSTS, False)) is not None:
        runs += 1
        outcome = scheduler.failed(batch) if culprit in slots_of(batch) else scheduler.finished(batch)
        failed += [item.slot for item in outcome.fail if isinstance(item, ServerItem)]
        delivered += [item.slot for _, item in outcome.deliver]
    assert failed == [culprit]
    assert sorted(delivered) == [0, 1, 2, 3, 4, 6, 7]
    assert runs == 7, "eight, two fours, two twos, two ones"


def test_the_oldest_run_first_whichever_queue_they_wait_in() -> None:
    _, scheduler = due_world(2)
    scheduler.add_request("caller", 2, 0.5)
    batch = take(scheduler)
    assert [item.since for item in batch.items] == [0.0, 0.5, 0.5, 1.0]


def test_an_idle_lane_gets_work_at_once() -> None:
    _, scheduler = due_world(1)
    assert scheduler.next_batch(0.0, 1, COSTS, more_comes=False) is not None


def test_work_is_held_back_only_while_more_is_certain_and_only_so_long() -> None:
    _, scheduler = due_world(3)
    assert scheduler.wait_until() == DELAY_SECONDS
    assert scheduler.next_batch(DELAY_SECONDS - 0.1, 1, COSTS, more_comes=True) is None
    assert scheduler.next_batch(DELAY_SECONDS, 1, COSTS, more_comes=True) is not None


def test_a_full_batch_is_never_held_back() -> None:
    _, scheduler = due_world(COSTS.max_batch)
    assert scheduler.next_batch(0.0, 1, COSTS, more_comes=True) is not None


def test_a_newer_row_keeps_its_server_s_place() -> None:
    world, scheduler = due_world(3)
    world.newest[0] = 11
    scheduler.mark_due(0, 99.0)
    batch = take(scheduler)
    assert slots_of(batch) == [0, 1, 2]
    assert isinstance(batch.items[0], ServerItem)
    assert (batch.items[0].step, batch.items[0].since) == (11, 0.0)
    assert scheduler.superseded == 1


def test_an_older_row_that_comes_back_later_is_not_delivered() -> None:
    world, scheduler = due_world(1)
    slow = take(scheduler)
    world.newest[0] = 11
    scheduler.mark_due(0, 50.0)
    quick = take(scheduler)
    assert len(scheduler.finished(quick).deliver) == 1
    world.posted[0] = 11
    assert scheduler.finished(slow).deliver == []
    assert scheduler.superseded == 1


def test_a_lost_lane_s_batch_moves_once() -> None:
    _, scheduler = due_world(2)
    assert not scheduler.lost(take(scheduler)).fail
    moved = take(scheduler)
    assert moved.moves == 1
    assert len(scheduler.lost(moved).fail) == 2
    assert scheduler.next_batch(100.0, 1, COSTS, False) is None


def test_what_is_too_large_for_these_lanes_runs_in_parts() -> None:
    _, scheduler = due_world(8)
    scheduler.lost(take(scheduler))
    small = CostTable({1: 1.0, 3: 1.1}, pads=True)
    parts = [scheduler.next_batch(100.0, 1, small, more_comes=False) for _ in range(3)]
    assert [slots_of(part) for part in parts if part] == [[0, 1, 2], [3, 4, 5], [6, 7]]
    assert [part.moves for part in parts if part] == [1, 1, 1]
    assert scheduler.waiting == 0


def test_a_retried_row_is_given_up_where_a_newer_one_is_on_a_lane_already() -> None:
    world, scheduler = due_world(2)
    old = take(scheduler)
    world.newest[0] = 11
    scheduler.mark_due(0, 50.0)
    newer = take(scheduler)
    assert slots_of(newer) == [0]
    scheduler.lost(old)
    assert slots_of(take(scheduler)) == [1]
    assert scheduler.superseded == 1


@pytest.mark.parametrize("have", [0, NEED - 1])
def test_a_window_that_a_gap_emptied_while_it_waited_is_not_forecast(have: int) -> None:
    world, scheduler = due_world(2)
    world.newest[0], world.have[0] = 500, have
    assert slots_of(take(scheduler)) == [1]
    assert scheduler.superseded == 1
    assert scheduler.counts.due == 2


def test_callers_beyond_the_room_are_refused_whole() -> None:
    _, scheduler = due_world(0)
    assert scheduler.add_request("a", MAX_WAITING_REQUESTS - 1, 0.0)
    assert not scheduler.add_request("b", 2, 0.0)
    assert scheduler.waiting == MAX_WAITING_REQUESTS - 1
    assert scheduler.add_request("c", 1, 0.0)


def test_a_caller_who_left_makes_room_and_the_others_keep_their_order() -> None:
    scheduler = World([0], [10], [NEED], [NO_STEP]).scheduler()
    for number, request in enumerate(("a", "b", "c")):
        assert scheduler.add_request(request, 2, float(number))
    scheduler.mark_due(0, 1.5)
    scheduler.drop_request("a")
    assert scheduler.wait_until() == 1.0 + DELAY_SECONDS, "it is counted from the longest waiting that is left"
    assert (scheduler.waiting, scheduler.waiting_requests, scheduler.calls) == (5, 4, 2)
    assert scheduler.add_request("d", MAX_WAITING_REQUESTS - 4, 3.0)
    line = [item.request if isinstance(item, RequestItem) else item.slot for item in take(scheduler).items]
    assert line[:5] == ["b", "b", 0, "c", "c"]
    assert scheduler.dropped_windows == 2


@pytest.mark.parametrize("how", ["failed", "lost"])
def test_a_window_on_a_lane_does_not_run_again_for_a_caller_who_left(how: str) -> None:
    _, scheduler = due_world(1)
    scheduler.add_request("gone", 2, 0.0)
    scheduler.add_request("stays", 1, 0.0)
    batch = take(scheduler)
    scheduler.drop_request("gone")
    retried = getattr(scheduler, how)(batch).retry
    names = [item.request if isinstance(item, RequestItem) else item.slot for each in retried for item in each.items]
    assert sorted(map(str, names)) == ["0", "stays"]
    assert scheduler.waiting == 2
    # 2. Neither does one that waits to run again.
    scheduler.drop_request("stays")
    assert (scheduler.waiting, scheduler.waiting_requests) == (1, 0)
    assert slots_of(take(scheduler)) == [0]
    assert scheduler.next_batch(100.0, 1, COSTS, False) is None
    assert scheduler.dropped_windows == 3


def test_a_window_whose_neighbours_left_is_tried_alone_before_it_is_blamed() -> None:
    _, scheduler = due_world(1)
    scheduler.add_request("gone", 3, 0.0)
    batch = take(scheduler)
    scheduler.drop_request("gone")
    outcome = scheduler.failed(batch)
    assert not outcome.fail
    assert slots_of(take(scheduler)) == [0]


def test_a_server_that_was_forgotten_while_it_ran_gets_nothing() -> None:
    world, scheduler = due_world(1)
    batch = take(scheduler)
    scheduler.forget(0)
    world.generations[0] += 1
    assert scheduler.finished(batch).deliver == []
    assert scheduler.counts.forgotten == 1
