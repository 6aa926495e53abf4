"""Tests `streamd/core/state/slot_ranges.py`: the index selects the same slots in the same order."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from streamd.core.state.slot_ranges import make_slot_index

SLOTS = st.one_of(
    st.lists(st.integers(0, 9), max_size=10, unique=True),
    st.builds(lambda first, count: list(range(first, first + count)), st.integers(0, 5), st.integers(0, 5)),
)


@given(SLOTS)
def test_the_index_selects_the_slots_in_their_order(slots: list[int]) -> None:
    index = make_slot_index(np.array(slots, np.int64))
    assert np.arange(10)[index].tolist() == slots
    neighbours = bool(slots) and slots == list(range(slots[0], slots[0] + len(slots)))
    assert isinstance(index, slice) == neighbours
