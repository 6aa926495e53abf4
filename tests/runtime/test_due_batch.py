"""Tests `streamd/runtime/due_batch.py` against queueing each server at once."""

from hypothesis import given
from hypothesis import strategies as st

from streamd.core.arrays import Slots
from streamd.core.scheduling.slot_queue import SlotQueue
from streamd.runtime.due_batch import FEW_SLOTS, DueBatch

CAPACITY = 20


class Queue:
    """A queue of slots that counts the calls of it."""

    def __init__(self) -> None:
        self.slots = SlotQueue(CAPACITY)
        self.calls = 0

    def mark_due(self, slot: int, rows: int) -> None:
        self.calls += 1
        self.slots.mark(slot, 0.0, rows)

    def mark_due_many(self, slots: Slots) -> None:
        self.calls += 1
        self.slots.mark_many(slots, 0.0)


MARKS = st.tuples(st.integers(0, CAPACITY - 1), st.sampled_from([1, 1, 1, 2]))


@given(st.lists(st.lists(MARKS, max_size=30), max_size=4))
def test_the_queue_is_the_same_as_if_each_server_was_queued_at_once(batches: list[list[tuple[int, int]]]) -> None:
    batched, at_once = Queue(), Queue()
    batch = DueBatch(batched)
    for marks in batches:
        for slot, rows in marks:
            batch.add(slot, rows)
            at_once.mark_due(slot, rows)
        batch.flush()
        assert list(batched.slots) == list(at_once.slots)
        assert batched.slots.superseded == at_once.slots.superseded


def test_many_servers_are_queued_by_one_call() -> None:
    queue = Queue()
    batch = DueBatch(queue)
    for slot in range(FEW_SLOTS + 1):
        batch.add(slot, 1)
    assert queue.calls == 0
    batch.flush()
    batch.flush()
    assert queue.calls == 1
