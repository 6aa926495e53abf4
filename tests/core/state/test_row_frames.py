"""Tests `streamd/core/state/row_frames.py`: many rows at once are written as one after the other, also if killed."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from streamd.core.arrays import Float32, Slots
from streamd.core.state.layout import NamedArrays
from streamd.core.state.row_frames import SlotList, find_next_rows, find_slice, write_next_rows
from streamd.core.state.windows import WindowStore
from tests.support.fleet_scripts import (
    FEATURES,
    FIRST_STEP,
    SLOTS,
    Event,
    Sizes,
    Twins,
    check_slot,
    events,
    row_of,
    sizes,
    try_write,
    window_of,
)
from tests.support.rows_at_once import FULL, LISTS, check_whole_or_absent, make_rows, pack, snapshot
from tests.support.watched_columns import make_watched_list
from tests.support.watched_memory import check_sound, make_fed_memory, restart


def write_usual(store: WindowStore, slots: SlotList, step: int, rows: Float32, masks: Any) -> tuple[Slots, Slots]:
    """Write the rows that may be written; returns their places and the slots that became due."""
    is_next = find_next_rows(store, slots, step, masks)
    if is_next is None:
        return np.arange(len(slots)), write_next_rows(store, slots, step, rows, masks)
    chosen = np.flatnonzero(is_next)
    if not len(chosen):
        return chosen, chosen
    masks = masks if isinstance(masks, int) else masks[chosen]
    return chosen, write_next_rows(store, SlotList(store, slots.slots[chosen]), step, rows[chosen], masks)


@st.composite
def frames(draw: st.DrawFn) -> list[Any]:
    """Draw a script of frames and of single events; a frame has its slots, its step relative to the first slot's newest
    row, and one mask or one for each row."""
    masks = st.one_of(st.just(FULL), st.integers(1, FULL), st.lists(st.integers(1, FULL), min_size=3, max_size=3))
    frame = st.tuples(LISTS, st.sampled_from([1, 1, 1, 1, 1, 0, 2, -1]), masks)
    return draw(st.lists(st.one_of(frame, frame, events(1, 1)), min_size=1, max_size=25))


@given(sizes(), frames())
def test_rows_that_are_written_at_once_are_as_those_that_are_written_one_by_one(lengths: Sizes, script: Any) -> None:
    at_once, one_by_one = Twins.make(lengths), Twins.make(lengths)
    for twins in (at_once, one_by_one):
        for slot in range(SLOTS):
            twins.write(slot, FIRST_STEP, dict.fromkeys(range(FEATURES), 1.0), None)
    lists = {tuple(slots): SlotList(at_once.store, np.array(slots)) for slots in ([0, 1, 2], [1, 2], [2, 0, 1])}
    for number, part in enumerate(script):
        if isinstance(part, list):
            event: Event = part[0]
            assert at_once.feed(event)[0] == one_by_one.feed(event)[0]
            continue
        chosen, ahead, masks = part
        step = max(at_once.store.get_newest_step(chosen[0]), FIRST_STEP) + ahead
        masks = masks if isinstance(masks, int) else np.array(masks[: len(chosen)], np.uint64)
        rows = make_rows(len(chosen), 100.0 * number, masks if isinstance(masks, int) else masks.tolist())
        slots = lists.get(tuple(chosen)) or SlotList(at_once.store, np.array(chosen))
        places, due = write_usual(at_once.store, slots, step, rows, masks)
        for place in places.tolist():
            closed = one_by_one.store.closed_rows
            is_due = try_write(one_by_one.store, chosen[place], step, pack(rows[place]), None, one_by_one.now)
            assert one_by_one.store.closed_rows == closed + 1, "the row was usual"
            assert is_due == int(chosen[place] in due.tolist())
        for twins in (at_once, one_by_one):
            for place in places.tolist():
                cells = {feature: float(v) for feature, v in enumerate(rows[place]) if v == v}
                twins.naive[chosen[place]].write(step, cells, None, twins.now)
        assert snapshot(at_once.store) == snapshot(one_by_one.store)
    at_once.check()


@given(sizes(), events(min_size=3, max_size=15), LISTS, st.booleans())
def test_a_store_that_is_killed_while_it_writes_many_rows_is_recovered(
    lengths: Sizes, acked: list[Event], chosen: list[int], is_shared: bool
) -> None:
    memory, twins = make_fed_memory(lengths, acked)
    step = memory.store.get_newest_step(chosen[0]) + 1
    everything = make_watched_list(memory.store, np.array(chosen))
    is_next = find_next_rows(memory.store, everything, step, FULL)
    written = chosen if is_next is None else np.array(chosen)[is_next].tolist()
    assume(written)
    before = [window_of(memory.store, slot) for slot in range(SLOTS)]
    rows = make_rows(len(written), 5_000.0)
    place = step % memory.store.context_length
    former = read_places(memory.store.arrays, place)

    memory.watch()
    slots = everything if is_next is None else make_watched_list(memory.store, np.array(written))
    write_next_rows(memory.store, slots, step, rows, FULL)
    for slot, row in zip(written, rows, strict=True):
        twins.naive[slot].write(step, dict(enumerate(row.tolist())), None, twins.now)
    for slot, server in enumerate(twins.naive):
        check_slot(memory.store, slot, server)
        check_sound(memory.store, slot)

    assert len(memory.copies) > len(written) * (FEATURES + 5), "each cell is written alone"
    sealed = read_places(memory.store.arrays, place)
    for arrays in memory.after_some_stores():
        left = read_places(arrays, place)
        store, _ = restart(lengths, arrays, list(range(SLOTS)), twins.now, is_shared=is_shared)
        for slot in range(SLOTS):
            check_sound(store, slot)
            row = rows[written.index(slot)] if slot in written else None
            check_whole_or_absent(store, slot, step, before[slot], row)
            if slot in written and left[slot] in (former[slot], sealed[slot]):
                is_written = left[slot] == sealed[slot]
                assert store.get_newest_step(slot) == (step if is_written else step - 1), "no row is left empty"
                assert not is_written or not np.isnan(window_of(store, slot)[0][-1]).all()
        # The sender got no acknowledgement and sends the rows again: then all is as without the kill.
        for slot, row in zip(written, rows, strict=True):
            try_write(store, slot, step, pack(row), None, twins.now)
        for slot, server in enumerate(twins.naive):
            check_slot(store, slot, server)


def read_places(arrays: NamedArrays, place: int) -> list[tuple[bytes, int, int]]:
    """Return the row, the mark and the seal at a place of the ring of each slot."""
    rows, marks, seals = (arrays[name][:, place] for name in ("values", "marks", "seals"))
    return [(rows[slot].tobytes(), int(marks[slot]), int(seals[slot])) for slot in range(SLOTS)]


def open_a_row(store: WindowStore) -> None:
    store.write_sample(1, 14, row_of({0: 1.0}), None, 0.0)


def close_the_row(store: WindowStore) -> None:
    store.write_sample(1, 14, pack(make_rows(1, 1.0)[0]), None, 0.0)


def forget_a_server(store: WindowStore) -> None:
    store.reset(1)


@pytest.mark.parametrize("change", [open_a_row, close_the_row, forget_a_server])
def test_what_is_remembered_of_the_last_rows_counts_as_long_as_nothing_else_changed(
    change: Callable[[WindowStore], None],
) -> None:
    store = Twins.make(Sizes(4, 2, 99)).store
    slots = SlotList(store, np.arange(SLOTS))
    for step in (10, 11):
        for slot in range(SLOTS):
            store.write_sample(slot, step, pack(make_rows(1, 1.0)[0]), None, 0.0)
    for step in (12, 13):
        assert find_next_rows(store, slots, step, FULL) is None
        write_next_rows(store, slots, step, make_rows(SLOTS, step), FULL)
    change(store)
    found = find_next_rows(store, slots, 14, FULL)
    assert found is not None
    assert found.tolist() == [True, False, True]


def test_a_row_without_an_expected_feature_is_not_usual() -> None:
    store = Twins.make(Sizes(4, 2, 99)).store
    for slot in range(SLOTS):
        store.write_sample(slot, 10, pack(make_rows(1, 1.0)[0]), None, 0.0)
    masks = np.array([FULL, FULL - 1, FULL], np.uint64)
    found = find_next_rows(store, SlotList(store, np.arange(SLOTS)), 11, masks)
    assert found is not None
    assert found.tolist() == [True, False, True]


@pytest.mark.parametrize(
    ("slots", "found"),
    [([3, 4, 5], slice(3, 6)), ([7], slice(7, 8)), ([3, 5, 4], None), ([3, 4, 6], None), ([2, 1], None), ([], None)],
)
def test_neighbouring_slots_are_a_slice(slots: list[int], found: slice | None) -> None:
    given = np.array(slots, np.int64)
    assert find_slice(given) == found if found is not None else find_slice(given) is given
