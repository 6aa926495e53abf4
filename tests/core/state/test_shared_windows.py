"""Tests `streamd/core/state/windows.py`: what other processes see of a store through the arrays that they share."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamd.core.state.layout import NamedArrays, make_zeros
from streamd.core.state.recovery import rewind
from streamd.core.state.rows import PackedRow
from streamd.core.state.window_columns import NO_STEP, make_volatile_columns, make_window_columns
from streamd.core.state.windows import WindowStore
from tests.support.fleet_scripts import EVENTS, SLOTS, Event, Reset, Send, Sizes, Twins, events, sizes, window_of
from tests.support.watched_memory import make_fed_memory

ALL = np.arange(SLOTS)


def read_window(store: WindowStore, slot: int) -> str:
    """Return everything that a reader takes of a window."""
    return str((store.get_newest_step(slot), store.have[slot], window_of(store, slot)))


@given(sizes(), events(min_size=5, max_size=20), EVENTS)
def test_a_window_is_the_same_as_long_as_its_number_of_changes_is_the_same_and_even(
    lengths: Sizes, sequence: list[Event], last: Event
) -> None:
    memory, twins = make_fed_memory(lengths, sequence)
    memory.watch()
    twins.feed(last)
    windows: dict[tuple[int, int], str] = {}
    for arrays in memory.after_each_store():
        store = lengths.store(arrays, arrays)
        changes = store.read_changes(ALL)
        torn = store.find_torn(ALL, changes)
        assert torn.tolist() == [change % 2 == 1 for change in changes.tolist()]
        for slot in np.flatnonzero(~torn).tolist():
            window = read_window(store, slot)
            assert windows.setdefault((slot, int(changes[slot])), window) == window


@given(sizes(), events(), st.booleans())
def test_changes_tell_whether_only_new_rows_are_missing(
    lengths: Sizes, sequence: list[Event], drops_rows: bool
) -> None:
    """A copy is made at some moment. Later, if both numbers grew alike, the rows that it has are still right."""
    twins = Twins.make(lengths)
    store = twins.store
    for event in sequence[:10]:
        twins.feed(event)
    counted = store.read_changes(ALL).tolist()
    copied = [(counted[slot], store.get_newest_step(slot), rows_of(store, slot)) for slot in ALL.tolist()]
    for event in sequence[10:]:
        twins.feed(event)
    if drops_rows:
        rewind(store, 0, store.get_newest_step(0) - 1)
    for slot, (changes, newest, rows) in enumerate(copied):
        moved = store.get_newest_step(slot) - newest
        if newest != NO_STEP and int(store.read_changes(ALL)[slot]) - changes == 2 * moved:
            now = rows_of(store, slot)
            assert all(str(rows[step]) == str(now[step]) for step in rows.keys() & now.keys())
            assert moved >= 0


def rows_of(store: WindowStore, slot: int) -> dict[int, list[float]]:
    """Return the rows of a window by step, the empty ones too, each with its mark."""
    newest, length = store.get_newest_step(slot), store.context_length
    steps = range(newest - length + 1, newest + 1) if newest != NO_STEP else ()
    marks = store.arrays["marks"][slot]
    return {step: [*store.read_row(slot, step).tolist(), float(marks[step % length])] for step in steps}


def test_the_open_row_is_no_change_of_the_window() -> None:
    twins = Twins.make(Sizes(4, 1, 99))
    twins.feed(Send(0, 1, frozenset({0, 1, 2}), None, 0.0))
    before = twins.store.read_changes(ALL)
    twins.feed(Send(0, 1, frozenset({0}), None, 0.0))
    assert not twins.store.find_torn(ALL, before).any()
    twins.feed(Reset(0))
    assert twins.store.find_torn(ALL, before).tolist() == [True, False, False]


def test_the_number_of_changes_wraps_around() -> None:
    twins = Twins.make(Sizes(4, 1, 99))
    twins.store.volatile["changes"][:] = 2**32 - 2
    twins.feed(Send(0, 1, frozenset({0, 1, 2}), None, 0.0))
    twins.store.reset(1)
    assert twins.store.read_changes(ALL).tolist() == [0, 0, 2**32 - 2]
    twins.store.volatile["changes"][0] = 2**32 - 2
    twins.feed(Send(0, 0, frozenset({1}), None, 0.0))
    assert twins.store.read_changes(ALL)[0] == 0


def test_the_shared_arrays_show_what_the_store_knows() -> None:
    lengths = Sizes(4, 2, 99)
    volatile = make_zeros(make_volatile_columns(), SLOTS)
    store = lengths.store(lengths.arrays(), volatile)
    for slot in range(SLOTS):
        store.reset(slot)
    store.write_sample(0, 10, make_row(3, 0b111), None, 0.0)
    store.write_sample(0, 11, make_row(3, 0b011), None, 0.0)
    assert volatile["have"].tolist() == [1, 0, 0]
    assert volatile["expected"].tolist() == [7, 0, 0]
    assert volatile["open_mask"].tolist() == [3, 0, 0]


@pytest.mark.parametrize("features", [63, 64, 65, 100])
def test_a_row_of_many_features_closes_when_it_is_complete(features: int) -> None:
    arrays = make_many(features)
    store = WindowStore(arrays, need=1, late_steps=3, grace_seconds=10.0)
    store.reset(0)
    full = (1 << features) - 1
    assert store.has_mask_arrays == (features <= 64)
    assert store.write_sample(0, 10, make_row(features, full & ~1), None, 0.0) == 0
    assert store.write_sample(0, 10, make_row(features, 1), None, 0.0) == 1
    assert store.write_sample(0, 11, make_row(features, full >> 1), None, 0.0) == 0
    assert store.write_sample(0, 11, make_row(features, 1 << features - 1), None, 0.0) == 1
    assert store.write_sample(0, 12, make_row(features, full), None, 0.0) == 1
    assert not np.isnan(store.read_row(0, 11)).any()


def make_many(features: int) -> NamedArrays:
    return make_zeros(make_window_columns(4, features), 1)


def make_row(features: int, mask: int) -> PackedRow:
    row = np.full(features, np.nan, np.float32)
    row[[column for column in range(features) if mask >> column & 1]] = 1.5
    return PackedRow(row.tobytes(), mask)
