"""Tests `streamd/core/scheduling/owner_queue.py` against a list that is searched for the next owner."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamd.core.scheduling.owner_queue import OwnerQueue

OPERATIONS = st.lists(st.one_of(st.sampled_from("abc"), st.none(), st.integers(0, 5)))
"""An owner appends its next item, `None` pops, and a number discards the item of this place."""


@given(OPERATIONS)
def test_it_is_a_list_of_which_the_next_owner_is_served(operations: list[str | int | None]) -> None:
    queue: OwnerQueue[int] = OwnerQueue()
    items: list[tuple[str, int]] = []
    owners: list[str] = []  # those with items, the next one first
    for number, operation in enumerate(operations):
        if isinstance(operation, str):
            queue.append(operation, number)
            items.append((operation, number))
            owners += [] if operation in owners else [operation]
        elif operation is None and items:
            owner = owners.pop(0)
            expected = next(each for each in items if each[0] == owner)
            items.remove(expected)
            owners += [owner] if any(each[0] == owner for each in items) else []
            assert queue.pop() == expected[1]
        elif isinstance(operation, int) and operation < len(items):
            owner, item = items.pop(operation)
            queue.discard(owner, item)
            owners = [each for each in owners if any(one[0] == each for one in items)]
        assert len(queue) == len(items)


def test_what_is_not_there_is_not_discarded() -> None:
    queue: OwnerQueue[int] = OwnerQueue()
    queue.append("a", 1)
    queue.discard("a", 2)
    queue.discard("b", 1)
    assert queue.pop() == 1
    with pytest.raises(KeyError):
        queue.pop()
