"""Tests `streamd/core/state/mixed_rows.py`: rows of many steps are written as one after the other, also if killed."""

from typing import Any

import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st

from streamd.core.state.mixed_rows import find_whole_next_rows, write_whole_rows
from streamd.core.state.row_frames import view_columns
from tests.support.fleet_scripts import (
    FEATURES,
    FIRST_STEP,
    SLOTS,
    Event,
    Sizes,
    Twins,
    check_slot,
    events,
    sizes,
    try_write,
    window_of,
)
from tests.support.rows_at_once import LISTS, check_whole_or_absent, make_rows, pack, snapshot
from tests.support.watched_columns import watch_columns
from tests.support.watched_memory import check_sound, make_fed_memory, restart

AHEAD = st.lists(st.sampled_from([1, 1, 1, 1, 0, 2, -1]), min_size=SLOTS, max_size=SLOTS)


@given(sizes(), st.lists(st.tuples(LISTS, AHEAD) | events(1, 1), min_size=1, max_size=25))
def test_rows_that_are_written_at_once_are_as_those_that_are_written_one_by_one(lengths: Sizes, script: Any) -> None:
    at_once, one_by_one = Twins.make(lengths), Twins.make(lengths)
    for twins in (at_once, one_by_one):
        for slot in range(SLOTS):
            twins.write(slot, FIRST_STEP + 3 * slot, dict.fromkeys(range(FEATURES), 1.0), None)
    for number, part in enumerate(script):
        if isinstance(part, list):
            event: Event = part[0]
            assert at_once.feed(event)[0] == one_by_one.feed(event)[0]
            continue
        chosen, ahead = np.array(part[0]), np.array(part[1])[: len(part[0])]
        newest = np.array([at_once.store.get_newest_step(slot) for slot in chosen.tolist()])
        steps, rows = np.maximum(newest, FIRST_STEP) + ahead, make_rows(len(chosen), 100.0 * number)
        places = np.flatnonzero(find_whole_next_rows(at_once.store, chosen, steps))
        if not len(places):
            continue
        due = write_whole_rows(
            at_once.store, view_columns(at_once.store), chosen[places], steps[places], rows[places]
        ).tolist()
        for place in places.tolist():
            slot, step, closed = int(chosen[place]), int(steps[place]), one_by_one.store.closed_rows
            is_due = try_write(one_by_one.store, slot, step, pack(rows[place]), None, one_by_one.now)
            assert one_by_one.store.closed_rows == closed + 1, "the row was usual"
            assert is_due == int(slot in due)
            for twins in (at_once, one_by_one):
                twins.naive[slot].write(step, dict(enumerate(rows[place].tolist())), None, twins.now)
        assert snapshot(at_once.store) == snapshot(one_by_one.store)
    at_once.check()


@given(sizes(), events(min_size=3, max_size=15), LISTS, st.booleans())
def test_a_store_that_is_killed_while_it_writes_many_rows_is_recovered(
    lengths: Sizes, acked: list[Event], chosen: list[int], is_shared: bool
) -> None:
    memory, twins = make_fed_memory(lengths, acked)
    steps = np.array([memory.store.get_newest_step(slot) + 1 for slot in chosen])
    with watch_columns(memory.store):
        is_next = find_whole_next_rows(memory.store, np.array(chosen), steps)
        is_next &= steps >= FIRST_STEP  # the first row of a server is not usual
        assume(is_next.any())
        written, steps = np.array(chosen)[is_next], steps[is_next]
        before = [window_of(memory.store, slot) for slot in range(SLOTS)]
        rows = make_rows(len(written), 5_000.0)
        memory.watch()
        write_whole_rows(memory.store, view_columns(memory.store), written, steps, rows)
    memory.watched = False
    for slot, step, row in zip(written.tolist(), steps.tolist(), rows, strict=True):
        twins.naive[slot].write(step, dict(enumerate(row.tolist())), None, twins.now)
    for slot, server in enumerate(twins.naive):
        check_slot(memory.store, slot, server)
        check_sound(memory.store, slot)

    assert len(memory.copies) > len(written) * (FEATURES + 5), "each cell is written alone"
    for arrays in memory.after_some_stores():
        store, _ = restart(lengths, arrays, list(range(SLOTS)), twins.now, is_shared=is_shared)
        for slot in range(SLOTS):
            check_sound(store, slot)
            place = written.tolist().index(slot) if slot in written else None
            step, row = (0, None) if place is None else (int(steps[place]), rows[place])
            check_whole_or_absent(store, slot, step, before[slot], row)
        # The sender got no acknowledgement and sends the rows again: then all is as without the kill.
        for slot, step, row in zip(written.tolist(), steps.tolist(), rows, strict=True):
            try_write(store, slot, step, pack(row), None, twins.now)
        for slot, server in enumerate(twins.naive):
            check_slot(store, slot, server)
