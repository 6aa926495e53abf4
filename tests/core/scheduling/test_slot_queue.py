"""Tests `streamd/core/scheduling/slot_queue.py` against the queue of any keys, which is tested against a list."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamd.core.arrays import Slots
from streamd.core.scheduling.coalescing import CoalescingQueue
from streamd.core.scheduling.slot_queue import FIRST_PLACES, SlotQueue

CAPACITY = 3 * FIRST_PLACES
SLOT = st.one_of(st.integers(0, 4), st.integers(0, CAPACITY - 1))
SLOTS = st.one_of(
    st.lists(SLOT, max_size=8, unique=True),
    st.builds(lambda first, count: list(range(first, first + count)), st.integers(0, 40), st.integers(50, 150)),
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("mark"), SLOT, st.integers(1, 3)),
        st.tuples(st.just("mark_many"), SLOTS),
        st.tuples(st.just("mark_many"), SLOTS),
        st.tuples(st.just("take"), st.integers(0, 100)),
        st.tuples(st.just("take_with_times"), st.integers(0, 100), st.sampled_from([math.inf, 1.0, 5.0, 20.0])),
        st.tuples(st.just("discard"), SLOT),
        st.tuples(st.just("discard_many"), SLOTS),
        st.tuples(st.just("clear")),
    ),
    max_size=30,
)


class NaiveQueue:
    """The same queue of the queue of any keys; a key's time is read before it is taken."""

    def __init__(self) -> None:
        self.queue: CoalescingQueue[int] = CoalescingQueue()
        self.since: dict[int, float] = {}

    def mark(self, slot: int, now: float, items: int = 1) -> None:
        if slot not in self.queue:
            self.since[slot] = now
        self.queue.mark(slot, now, items)

    def take_with_times(self, count: int, before: float = math.inf) -> tuple[list[int], list[float]]:
        taken: list[int] = []
        while self.queue and len(taken) < count and (self.queue.oldest_since or 0.0) < before:
            taken += self.queue.take(1)
        return taken, [self.since[slot] for slot in taken]


def as_slots(slots: list[int]) -> Slots:
    return np.array(slots, np.int64)


def apply_step(step: tuple[object, ...], now: float, queue: SlotQueue, naive: NaiveQueue) -> None:
    kind, value = step[0], step[1] if len(step) > 1 else None
    if kind == "mark":
        queue.mark(value, now, step[2])  # type: ignore[arg-type]
        naive.mark(value, now, step[2])  # type: ignore[arg-type]
    elif kind == "mark_many":
        queue.mark_many(as_slots(value), now)  # type: ignore[arg-type]
        for slot in value:  # type: ignore[attr-defined]
            naive.mark(slot, now)
    elif kind == "take":
        assert queue.take(value).tolist() == naive.queue.take(value)  # type: ignore[arg-type]
    elif kind == "take_with_times":
        slots, times = queue.take_with_times(value, step[2])  # type: ignore[arg-type]
        assert (slots.tolist(), times.tolist()) == naive.take_with_times(value, step[2])  # type: ignore[arg-type]
    elif kind == "discard":
        assert queue.discard(value) == naive.queue.discard(value)  # type: ignore[arg-type]
    elif kind == "discard_many":
        assert [queue.discard(slot) for slot in value] == [naive.queue.discard(slot) for slot in value]  # type: ignore[attr-defined]
    else:
        queue.clear()
        naive.queue.clear()


@given(STEPS)
def test_it_does_what_the_queue_of_any_keys_does(steps: list[tuple[object, ...]]) -> None:
    queue, naive = SlotQueue(CAPACITY), NaiveQueue()
    for now, step in enumerate(steps, start=1):
        apply_step(step, float(now), queue, naive)
        waiting = list(naive.queue)
        assert list(queue) == queue.list_waiting().tolist() == waiting
        assert len(queue) == len(waiting)
        assert bool(queue) == bool(waiting)
        assert queue.superseded == naive.queue.superseded
        assert queue.oldest_since == naive.queue.oldest_since
        assert queue.find_waiting(np.arange(CAPACITY)).tolist() == [slot in naive.queue for slot in range(CAPACITY)]
        assert [slot in queue for slot in range(5)] == [slot in naive.queue for slot in range(5)]
    slots, times = queue.take_with_times(CAPACITY)
    assert (slots.tolist(), times.tolist()) == naive.take_with_times(CAPACITY)
    assert not queue


def test_a_discarded_slot_that_is_marked_again_waits_at_the_end() -> None:
    queue = SlotQueue(4)
    queue.mark_many(as_slots([0, 1, 2]), 1.0)
    assert queue.discard(1)
    queue.mark(1, 2.0)
    slots, times = queue.take_with_times(3)
    assert (slots.tolist(), times.tolist()) == ([0, 2, 1], [1.0, 1.0, 2.0])
    assert queue.superseded == 0


def test_what_it_returns_is_a_copy() -> None:
    queue = SlotQueue(4)
    queue.mark_many(as_slots([2, 3]), 1.0)
    queue.list_waiting()[:] = 0
    taken = queue.take(1)
    queue.mark_many(as_slots([1]), 2.0)
    taken[:] = 0
    assert list(queue) == [3, 1]


def test_places_are_used_again_and_do_not_grow_with_what_passes() -> None:
    queue = SlotQueue(CAPACITY)
    for begin in range(0, 100 * 30, 30):
        queue.mark_many(np.arange(begin, begin + 30) % CAPACITY, float(begin))
        assert queue.take(30).tolist() == (np.arange(begin, begin + 30) % CAPACITY).tolist()
    assert len(queue._ring) == FIRST_PLACES


def test_without_times_the_order_is_the_same() -> None:
    queue = SlotQueue(8, keeps_times=False)
    queue.mark_many(as_slots([5, 2]), 1.0)
    queue.mark(7, 2.0)
    queue.mark(5, 3.0)
    assert queue.take(8).tolist() == [5, 2, 7]
    assert queue.superseded == 1
    assert queue.oldest_since is None


def test_the_oldest_time_of_a_queue_without_times_is_an_error() -> None:
    queue = SlotQueue(8, keeps_times=False)
    queue.mark(1, 1.0)
    with pytest.raises(IndexError):
        _ = queue.oldest_since


def test_its_repr_shows_its_counts() -> None:
    queue = SlotQueue(3)
    queue.mark(2, 1.0)
    queue.mark(2, 2.0)
    assert repr(queue) == "SlotQueue(waiting=1, superseded=1)"
