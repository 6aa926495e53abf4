"""Tests `streamd/core/state/former_windows.py`: rows of former versions, after kills and damage, in this layout.

The former files are written by the former code (`tests/support/former_store.py`).
"""

import zlib
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamd.core.state.former_windows import compute_checksums, make_former_columns, read_former_windows
from streamd.core.state.layout import Layout, NamedArrays, make_zeros
from streamd.core.state.repairs import Repairs, repair_windows
from streamd.core.state.window_columns import NO_STEP, make_window_columns
from streamd.core.state.windows import WindowStore
from tests.support import former_store
from tests.support.fleet_scripts import FEATURES, SLOTS, Event, Send, Sizes, Twins, check_slot, events, row_of, sizes
from tests.support.former_store import FormerStore, mix_seed
from tests.support.kill_points import choose_kills
from tests.support.torn_writes import WatchedArray, make_watched_view
from tests.support.watched_memory import check_sound

SEEDS = np.arange(1, SLOTS + 1, dtype=np.uint32)
END = 1e9
WORDS = st.integers(0, 2**32 - 1)
SEQUENCES = events(min_size=5, max_size=30)


def make_layout(lengths: Sizes) -> Layout:
    return Layout(make_former_columns(lengths.context_length, FEATURES), SLOTS, {})


def feed_both(twins: Twins, former: FormerStore, sequence: list[Event]) -> None:
    """Feed samples to the former store, and to this version's and the naive one."""
    for event in sequence:
        if isinstance(event, Send):
            step, cells = twins.step_of(event), twins.cells_of(event)
            former.write_sample(event.slot, step, row_of(cells), event.status)
            twins.write(event.slot, step, cells, event.status)


def make_former(lengths: Sizes) -> tuple[NamedArrays, FormerStore]:
    arrays = make_zeros(make_former_columns(lengths.context_length, FEATURES), SLOTS)
    former = FormerStore(arrays, SEEDS.tolist(), lengths.late_steps)
    for slot in range(SLOTS):
        former.reset(slot)
    return arrays, former


def read(
    lengths: Sizes, arrays: NamedArrays, *, is_sealed: bool = True, is_torn: bool = False
) -> tuple[WindowStore, Repairs]:
    """Read former windows, and repair them as a start does."""
    new = read_former_windows(arrays, np.arange(SLOTS), SEEDS, is_sealed=is_sealed)
    assert list(new) == [column.name for column in make_window_columns(1, 1)]
    store = lengths.store({**new, "seeds": SEEDS})
    return store, repair_windows(store, range(SLOTS), 0.0, is_torn=is_torn)


@given(sizes(), SEQUENCES, st.booleans())
def test_former_windows_are_those_of_the_naive_model(lengths: Sizes, sequence: list[Event], is_sealed: bool) -> None:
    twins = Twins.make(lengths)
    arrays, former = make_former(lengths)
    feed_both(twins, former, sequence)
    if not is_sealed:
        remove_columns(arrays, "seals", "open_seal")
    store, repairs = read(lengths, arrays, is_sealed=is_sealed)
    assert repairs == Repairs()
    for slot, server in enumerate(twins.naive):
        check_sound(store, slot)
        check_slot(store, slot, server)
        assert store.get_latest_step(slot) == twins.store.get_latest_step(slot)
    assert sorted(store.close_overdue_rows(END)) == sorted(twins.store.close_overdue_rows(END))
    for slot in range(SLOTS):
        for name in ("values", "marks"):
            np.testing.assert_array_equal(store.arrays[name][slot], twins.store.arrays[name][slot])


@given(sizes(), SEQUENCES)
def test_former_windows_after_a_power_loss_have_every_row(lengths: Sizes, sequence: list[Event]) -> None:
    """The newest step may be another one, if its row has neither a value nor a status."""
    twins = Twins.make(lengths)
    arrays, former = make_former(lengths)
    feed_both(twins, former, sequence)
    store, repairs = read(lengths, arrays, is_torn=True)
    assert (repairs.lost_rows, repairs.unreadable) == ({}, {})
    assert rows_by_step(store) == rows_by_step(twins.store)


def remove_columns(arrays: NamedArrays, *names: str) -> None:
    for name in names:
        arrays[name][:] = 0


@given(sizes(), SEQUENCES)
def test_windows_of_the_first_version_are_read(lengths: Sizes, sequence: list[Event]) -> None:
    twins = Twins.make(lengths)
    arrays, former = make_former(lengths)
    feed_both(twins, former, sequence)
    remove_columns(arrays, "seals", "open_seal", "newest_check", "open_check")
    arrays["open_status"] &= 15
    store, repairs = read(lengths, arrays, is_sealed=False)
    assert repairs == Repairs()
    for slot, server in enumerate(twins.naive):
        check_slot(store, slot, server)
        assert store.get_latest_step(slot) == twins.store.get_latest_step(slot)


@pytest.mark.parametrize("name", ["newest", "open_step", "journal"])
@pytest.mark.parametrize("bit", [42, 60, 63])
def test_an_impossible_number_of_an_early_version_makes_its_slot_unreadable(name: str, bit: int) -> None:
    lengths = Sizes(4, 1, 99)
    arrays, former = make_former(lengths)
    for slot in range(SLOTS):
        former.write_sample(slot, 10, row_of({0: 1.0, 1: 2.0, 2: 3.0}), None)
        former.write_sample(slot, 11, row_of({0: 1.0}), None)
    arrays[name][1] ^= -(2**63) if bit == 63 else 1 << bit
    remove_columns(arrays, "seals", "open_seal", "newest_check", "open_check")
    arrays["open_status"] &= 15
    store, repairs = read(lengths, arrays, is_sealed=False)
    assert list(repairs.unreadable) == [1]
    assert not repairs.lost_rows
    assert [store.get_latest_step(slot) for slot in (0, 2)] == [11, 11]


# ---------------------------------------------------------------- kills
@given(sizes(), events(min_size=3, max_size=15), events(min_size=1, max_size=1), st.booleans())
def test_a_former_file_of_a_process_that_was_killed_at_any_write_is_read(
    lengths: Sizes, sequence: list[Event], last: list[Event], is_sealed: bool
) -> None:
    layout, copies = make_layout(lengths), []
    buffer = bytearray(layout.nbytes)
    arrays = layout.make_views(buffer)
    watched: Any = {name: WatchedArray(array, lambda: copies.append(bytes(buffer))) for name, array in arrays.items()}
    with mock.patch.object(former_store, "make_scalar_view", make_watched_view):
        former = FormerStore(watched, SEEDS.tolist(), lengths.late_steps)
    for slot in range(SLOTS):
        former.reset(slot)
    twins = Twins.make(lengths)
    feed_both(twins, former, sequence)
    copies[:] = [bytes(buffer)]
    before = rows_by_step(twins.store)
    feed_both(twins, former, last)
    after = rows_by_step(twins.store)
    for copy in choose_kills(copies, copies[-1]):
        found = layout.make_views(bytearray(copy))
        if not is_sealed:
            remove_columns(found, "seals", "open_seal")
        store, repairs = read(lengths, found, is_sealed=is_sealed)
        assert (repairs.lost_rows, repairs.unreadable, repairs.repaired) == ({}, {}, set())
        check_between(rows_by_step(store), before, after)


Cells = dict[tuple[int, int, int], float]


def rows_by_step(store: WindowStore) -> Cells:
    """Return the values of all windows and open rows, by slot, step and feature."""
    cells: Cells = {}
    for slot in range(SLOTS):
        newest, open_step = store.get_newest_step(slot), int(store.arrays["open_step"][slot])
        steps = range(newest - store.context_length + 1, newest + 1) if newest != NO_STEP else ()
        rows = {step: store.read_row(slot, step) for step in steps}
        if open_step != NO_STEP:
            rows[open_step] = store.arrays["open_values"][slot]
        cells |= {
            (slot, step, feature): float(row[feature])
            for step, row in rows.items()
            for feature in np.flatnonzero(~np.isnan(row)).tolist()
        }
    return cells


def check_between(found: Cells, before: Cells, after: Cells) -> None:
    """Check that each value was there before or after a change, and that none is missing which was in both."""
    for cell, value in found.items():
        assert value in (before.get(cell), after.get(cell))
    assert before.keys() & after.keys() <= found.keys()


# ---------------------------------------------------------------- damage
@pytest.mark.parametrize("is_torn", [False, True])
def test_each_damaged_bit_leaves_right_rows_or_is_named(is_torn: bool) -> None:
    lengths = Sizes(4, 1, 99)
    layout = make_layout(lengths)
    content = bytearray(layout.nbytes)
    former = FormerStore(layout.make_views(content), SEEDS.tolist(), 99)
    for slot in range(SLOTS):
        former.reset(slot)
    whole = {0: 1.0, 1: 2.0, 2: 3.0}
    for step in (100, 101, 102, 103, 104):
        former.write_sample(0, step, row_of({**whole, 0: float(step)}), 2)
    former.write_sample(0, 103, row_of({1: 9.0}), None)
    former.write_sample(1, 200, row_of(whole), None)
    former.write_sample(1, 202, row_of({2: 5.0}), 5)
    former.write_sample(2, 300, row_of({0: 6.0}), None)
    expected = rows_by_step(read(lengths, layout.make_views(bytearray(content)), is_torn=is_torn)[0])
    repaired = set()
    for column in layout.columns:
        for place in range(column.count_bytes(SLOTS)):
            damaged = bytearray(content)
            damaged[layout.offsets[column.name] + place] ^= 1 << place % 8
            store, repairs = read(lengths, layout.make_views(damaged), is_torn=is_torn)
            lost = [*repairs.unreadable]
            found = {cell: value for cell, value in rows_by_step(store).items() if cell[0] not in lost}
            assert found.items() <= expected.items()
            assert found == expected or repairs.unreadable or repairs.lost_rows
            repaired |= {column.name} if found == expected else set()
    assert {"values", "marks", "newest", "newest_check"} <= repaired, "the second copy or another number proves it"


@given(st.lists(st.tuples(WORDS, WORDS, WORDS, WORDS), min_size=1, max_size=9), st.integers(0, 2**31), WORDS)
def test_former_checksums_are_those_of_zlib(drawn: list[tuple[int, int, int, int]], step: int, seed: int) -> None:
    rows = np.array(drawn, np.uint32)
    count = len(rows)
    found = compute_checksums(rows, np.full(count, seed, np.uint32), np.full(count, step), np.full(count, 0x85))
    assert found.tolist() == [zlib.crc32(row.tobytes(), mix_seed(seed, step, 0x85)) or 1 for row in rows]
