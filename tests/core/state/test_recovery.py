"""Tests `streamd/core/state/recovery.py`: killed after any write to memory, no acknowledged row is lost or invented."""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamd.core.state.window_columns import NO_STEP
from streamd.core.state.windows import WindowStore
from tests.support import kill_points
from tests.support.fleet_scripts import (
    EVENTS,
    SLOTS,
    Event,
    GracePassed,
    Reset,
    Send,
    Sizes,
    Twins,
    check_slot,
    events,
    row_of,
    sizes,
    try_write,
    window_of,
)
from tests.support.kill_points import COUNT, choose_kills
from tests.support.naive_windows import NaiveServer
from tests.support.torn_writes import make_watched_view
from tests.support.watched_memory import Memory, check_sound, make_fed_memory, restart

END = 1e9
"""A time at which every grace is over."""


@given(sizes(), events(min_size=5, max_size=25), EVENTS, st.booleans())
def test_a_store_killed_at_any_write_is_recovered(
    lengths: Sizes, acked: list[Event], last: Event, is_shared: bool
) -> None:
    memory, twins = make_fed_memory(lengths, acked)
    before = [dict(cells_of(server)) for server in twins.naive]
    step = twins.step_of(last) if isinstance(last, Send) else NO_STEP
    cells = twins.cells_of(last) if isinstance(last, Send) else {}

    memory.watch()
    now = twins.now + last.later if isinstance(last, Send | GracePassed) else twins.now
    feed(memory.store, last, step, cells, now)

    # The naive model takes the last event too, and closes all open rows.
    feed_naive(lengths, twins.naive, last, step, cells, now)
    for server in twins.naive:
        server.close_overdue(END)
    for arrays in memory.after_some_stores():
        # A slot that is being reset belongs to no server at this moment: the directory has released it.
        slots = [slot for slot in range(SLOTS) if not (isinstance(last, Reset) and last.slot == slot)]
        store, _ = restart(lengths, arrays, slots, now, is_shared=is_shared)
        for slot in slots:
            check_sound(store, slot)
            mine = {(step, feature): value for feature, value in cells.items()}
            sent = mine if isinstance(last, Send) and last.slot == slot else {}
            check_cells(store, slot, before[slot], sent)
        # The sender got no acknowledgement and sends it again: then all is as without the kill.
        feed(store, last, step, cells, now)
        store.close_overdue_rows(END)
        for slot, server in enumerate(twins.naive):
            check_slot(store, slot, server)
            check_sound(store, slot)


def feed(store: WindowStore, event: Event, step: int, cells: dict[int, float], now: float) -> None:
    if isinstance(event, Send):
        try_write(store, event.slot, step, row_of(cells), event.status, now)
    elif isinstance(event, GracePassed):
        store.close_overdue_rows(now)
    else:
        store.reset(event.slot)


def feed_naive(
    lengths: Sizes, servers: list[NaiveServer], event: Event, step: int, cells: dict[int, float], now: float
) -> None:
    if isinstance(event, Send):
        servers[event.slot].write(step, cells, event.status, now)
    elif isinstance(event, GracePassed):
        for server in servers:
            server.close_overdue(now)
    else:
        servers[event.slot] = lengths.naive()


Cell = tuple[int, int]
"""Step and feature."""


def cells_of(server: NaiveServer) -> dict[Cell, float]:
    """Return every acknowledged value by step and feature."""
    return {(step, feature): value for step, row in server.rows.items() for feature, value in row.values.items()}


def check_cells(store: WindowStore, slot: int, acked: dict[Cell, float], sent: dict[Cell, float]) -> None:
    """Assert that every acknowledged value of the window is stored, and that each stored value was sent."""
    found = dict(stored_cells(store, slot))
    for cell, value in found.items():
        assert value in (acked.get(cell), sent.get(cell)), f"{cell} is invented"
    newest, open_step = store.get_newest_step(slot), int(store.arrays["open_step"][slot])
    for cell, value in acked.items():
        step = cell[0]
        if step == open_step or (newest != NO_STEP and newest - store.context_length < step <= newest):
            assert found.get(cell) in (value, sent.get(cell, value)), f"{cell} was acknowledged"
        else:
            assert newest != NO_STEP, f"{cell} was acknowledged"
            assert step <= newest - store.context_length, f"{cell} was acknowledged and is in no row"


def stored_cells(store: WindowStore, slot: int) -> Iterator[tuple[Cell, float]]:
    """Read the window and the open row from the arrays, with their steps."""
    arrays, length = store.arrays, store.context_length
    newest, open_step = store.get_newest_step(slot), int(arrays["open_step"][slot])
    rows = {step: arrays["values"][slot, step % length] for step in range(newest - length + 1, newest + 1)}
    if newest == NO_STEP:
        rows = {}
    if open_step != NO_STEP:
        assert open_step > newest, "a row is either closed or open"
        rows[open_step] = arrays["open_values"][slot]
    for step, row in rows.items():
        for feature in np.flatnonzero(~np.isnan(row)).tolist():
            yield (step, feature), float(row[feature])


# ---------------------------------------------------------------- single cases
def test_an_open_row_continues_to_fill_with_a_new_grace() -> None:
    lengths = Sizes(4, 1, 99)
    arrays = lengths.arrays()
    before = lengths.store(arrays)
    before.reset(0)
    before.write_sample(0, 10, row_of({0: 1.0, 1: 2.0, 2: 3.0}), None, 0.0)
    before.write_sample(0, 11, row_of({0: 4.0}), 3, 0.0)
    store, interrupted = restart(lengths, arrays, [0], 500.0)
    assert interrupted == 0
    assert store.get_next_deadline() == 510.0
    assert store.close_overdue_rows(509.0) == []
    assert store.write_sample(0, 11, row_of({1: 5.0, 2: 6.0}), None, 501.0) == 1
    assert store.get_newest_step(0) == 11
    assert window_of(store, 0)[1][-1] == 3


def test_the_features_of_the_previous_row_are_derived_again() -> None:
    lengths = Sizes(4, 1, 99)
    arrays = lengths.arrays()
    before = lengths.store(arrays)
    before.reset(0)
    before.write_sample(0, 10, row_of({0: 1.0}), None, 0.0)
    before.close_overdue_rows(END)
    store, _ = restart(lengths, arrays, [0], 0.0)
    assert store.write_sample(0, 11, row_of({0: 2.0}), None, 0.0) == 1


def test_interrupted_changes_are_counted() -> None:
    lengths = Sizes(4, 1, 99)
    arrays = lengths.arrays()
    store = lengths.store(arrays)
    for slot in range(SLOTS):
        store.reset(slot)
        store.write_sample(slot, 10, row_of({0: 1.0, 1: 2.0, 2: 3.0}), None, 0.0)
    arrays["journal"][1] = 10
    _, interrupted = restart(lengths, arrays, [0, 1, 2], 0.0)
    assert interrupted == 1


@given(sizes(), events())
def test_recovering_a_complete_store_changes_nothing(lengths: Sizes, sequence: list[Event]) -> None:
    twins = Twins.make(lengths)
    for event in sequence:
        twins.feed(event)
    before = {name: array.copy() for name, array in twins.store.arrays.items()}
    store, interrupted = restart(lengths, twins.store.arrays, list(range(SLOTS)), 0.0)
    assert interrupted == 0
    for name, array in before.items():
        np.testing.assert_array_equal(store.arrays[name], array)
    assert store.have.tolist() == twins.store.have.tolist()


def test_the_watch_sees_every_store() -> None:
    """If a write escaped the watch, the property above would prove nothing."""
    memory = Memory(Sizes(4, 1, 99))
    memory.store.reset(0)
    memory.watched = True
    for step in (10, 11, 11, 9, 20):
        first = len(memory.copies)
        before = bytes(memory._buffer)
        memory.store.write_sample(0, step, row_of({0: float(step), 2: 1.0}), 5, 0.0)
        changes = [before, *memory.copies[first:]]
        assert changes[-1] == bytes(memory._buffer), "the last store was seen"
        for former, copy in pairwise(changes):
            words = np.frombuffer(former, np.uint64) != np.frombuffer(copy, np.uint64)
            assert words.sum() <= 1, "one store at a time"


def test_the_examples_together_are_killed_at_every_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kill_points, "EXHAUSTIVE", False)
    chosen = [choose_kills(range(60), seed.to_bytes(2, "little")) for seed in range(200)]
    assert {len(each) for each in chosen} == {COUNT}
    assert all(each == sorted({0, *each, 59}) for each in chosen)
    assert {moment for each in chosen for moment in each} == set(range(60))
    assert choose_kills(range(COUNT), b"") == list(range(COUNT))


def test_an_unwatched_array_is_refused() -> None:
    with pytest.raises(AssertionError, match="watched"):
        make_watched_view(np.zeros(3))


def test_a_sample_that_is_too_old_writes_nothing() -> None:
    memory = Memory(Sizes(4, 1, 1))
    memory.store.reset(0)
    memory.store.write_sample(0, 10, row_of({0: 1.0, 1: 2.0, 2: 3.0}), None, 0.0)
    memory.watched = True
    assert try_write(memory.store, 0, 8, row_of({0: 1.0}), 5, 0.0) is None
    assert memory.copies == []
