"""Tests `streamd/core/state/memory.py`, `memory_reading.py`, `period_means.py` and `memory_repairs.py`.

Against a naive model that has every row: with any sequence of samples, the memory is that of the definition, also after
a kill at any write.
"""

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from streamd.core.arrays import Float32
from streamd.core.contract import MEMORY_LENGTH
from streamd.core.memory_means import compute_memory
from streamd.core.state import memory as memory_module
from streamd.core.state.layout import Layout, NamedArrays, make_zeros
from streamd.core.state.memory import MemoryStore
from streamd.core.state.memory_columns import NO_PERIOD
from streamd.core.state.memory_repairs import repair_memory
from streamd.core.state.recovery import rewind
from streamd.core.state.repairs import repair_windows
from streamd.core.state.seals import NO_SEAL
from streamd.core.state.window_columns import NO_STEP, make_step_check, make_window_columns
from streamd.core.state.windows import WindowStore
from tests.support.fleet_scripts import EVENTS, FEATURES, SENDS, SLOTS, Event, Send, row_of, try_write
from tests.support.kill_points import choose_kills
from tests.support.memory_fleet import AT_ONCE, END, SEEDS, MemoryFleet, MemorySizes, Part, memory_sizes, scripts
from tests.support.rows_at_once import pack
from tests.support.torn_writes import WatchedArray
from tests.support.watched_memory import Memory

DAY = MemorySizes(context_length=24, period=2, length=30)
"""A window of 12 periods."""


def make_store(lengths: MemorySizes) -> WindowStore:
    arrays = lengths.windows.arrays() | {"seeds": SEEDS}
    return lengths.windows.store(arrays, None, lengths.open_memory(make_zeros(lengths.columns, SLOTS), arrays))


def make_fleet(lengths: MemorySizes) -> MemoryFleet:
    return MemoryFleet(lengths, make_store(lengths))


def reopen(lengths: MemorySizes, arrays: NamedArrays, *, is_torn: bool = False) -> tuple[WindowStore, int]:
    """Open a store over the arrays of another one; returns it, and the number of means that were dropped."""
    store = lengths.windows.store(arrays | {"seeds": SEEDS}, None, lengths.open_memory(arrays, arrays))
    slots = [slot for slot in range(SLOTS) if arrays["newest"][slot] or arrays["open_step"][slot]]
    repair_windows(store, slots, 0.0, is_torn=is_torn)
    assert store.memory is not None
    return store, repair_memory(store.memory, slots, is_torn=is_torn)


def copy_arrays(store: WindowStore) -> NamedArrays:
    assert store.memory is not None
    return {name: array.copy() for name, array in (store.arrays | store.memory.arrays).items()}


@settings(max_examples=40)
@given(memory_sizes(), scripts(), st.booleans())
def test_the_memory_is_that_of_the_definition(lengths: MemorySizes, script: list[Part], reads_often: bool) -> None:
    fleet = make_fleet(lengths)
    for number, part in enumerate(script):
        fleet.play([part], 10_000.0 + 100.0 * number)
        if reads_often:
            fleet.check()
    fleet.check()


@settings(max_examples=40)
@given(memory_sizes(), scripts(), st.integers(1, 4))
def test_a_window_that_ended_up_to_a_period_before_has_its_memory(
    lengths: MemorySizes, script: list[Part], back: int
) -> None:
    assume(lengths.context_length // lengths.period <= lengths.length)
    fleet = make_fleet(lengths)
    fleet.play(script)
    fleet.check(back=min(back, lengths.period))


@settings(max_examples=40)
@given(memory_sizes(), st.lists(AT_ONCE | SENDS.filter(lambda send: send.ahead > 0), min_size=10, max_size=40))
def test_another_process_reads_means_that_are_only_noted(lengths: MemorySizes, script: list[Part]) -> None:
    assume(lengths.context_length // lengths.period <= lengths.length)
    fleet = make_fleet(lengths)
    for number, part in enumerate(script):
        fleet.play([part], 10_000.0 + 100.0 * number)
        fleet.check(is_settled=False)


@settings(max_examples=40)
@given(memory_sizes(), scripts())
def test_a_restart_changes_nothing(lengths: MemorySizes, script: list[Part]) -> None:
    fleet = make_fleet(lengths)
    fleet.play(script)
    store, dropped = reopen(lengths, copy_arrays(fleet.store))  # what was noted, and not computed, is lost
    assert dropped == 0
    fleet.check(store)


@settings(max_examples=25)
@given(memory_sizes(), scripts())
def test_a_state_without_a_memory_gets_that_of_its_windows(lengths: MemorySizes, script: list[Part]) -> None:
    assume(lengths.context_length // lengths.period <= lengths.length)
    fleet = make_fleet(lengths)
    fleet.play(script)
    store, _ = reopen(lengths, copy_arrays(fleet.store) | make_zeros(lengths.columns, SLOTS))
    for slot, naive in enumerate(fleet.naive):
        oldest = store.get_newest_step(slot) - lengths.context_length + 1
        naive.rows = {step: row for step, row in naive.rows.items() if step - step % lengths.period >= oldest}
    fleet.check(store)


# ---------------------------------------------------------------- kills
@settings(max_examples=25)
@given(memory_sizes(), st.lists(EVENTS, min_size=5, max_size=25), SENDS)
def test_a_store_that_is_killed_at_any_write_has_its_memory_again(
    lengths: MemorySizes, acked: list[Event], last: Send
) -> None:
    memory = Memory(lengths.windows, lengths.columns, lengths.open_memory)
    memory.arrays["seeds"][:] = SEEDS
    fleet = MemoryFleet(lengths, memory.store)
    for event in acked:
        fleet.feed(event)
    sent = fleet.prepare(last)
    memory.watch()
    fleet.send(sent)
    fleet.finish()
    for arrays in memory.after_some_stores():
        store, _ = reopen(lengths, arrays)
        # The sender got no acknowledgement and sends it again: then all is as without the kill.
        try_write(store, *sent)
        store.close_overdue_rows(END)
        fleet.check(store)


@settings(max_examples=25)
@given(memory_sizes(), scripts(), AT_ONCE)
def test_means_of_many_servers_that_are_killed_while_they_are_written_are_computed_again(
    lengths: MemorySizes, script: list[Part], last: Part
) -> None:
    layout = Layout((*make_window_columns(lengths.context_length, FEATURES), *lengths.columns), SLOTS, {})
    buffer, copies = bytearray(layout.nbytes), []
    arrays = layout.make_views(buffer)
    watched: Any = {name: WatchedArray(array, lambda: copies.append(bytes(buffer))) for name, array in arrays.items()}
    windows = arrays | {"seeds": SEEDS}
    fleet = MemoryFleet(lengths, lengths.windows.store(windows, None, lengths.open_memory(watched, arrays)))
    fleet.play(script)
    copies.clear()
    fleet.play([last], 50_000.0)
    fleet.memory.settle()
    for copy in choose_kills(copies, bytes(buffer)) if copies else ():
        fleet.check(reopen(lengths, layout.make_views(bytearray(copy)))[0])


# ---------------------------------------------------------------- damage
@settings(max_examples=40)
@given(scripts(), st.data())
def test_a_damaged_mean_is_computed_again_or_missing(script: list[Part], data: st.DataObject) -> None:
    lengths = MemorySizes(4, 2, 12)
    fleet = make_fleet(lengths)
    fleet.play(script)
    fleet.finish()
    arrays = copy_arrays(fleet.store)
    damaged = arrays[data.draw(st.sampled_from([column.name for column in lengths.columns]))].view(np.uint8).reshape(-1)
    damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= data.draw(st.integers(1, 255))
    store, _ = reopen(lengths, arrays)
    stored = np.argwhere(arrays["periods"][:, :] != NO_PERIOD)
    for slot, place in stored.tolist():
        period, end = int(arrays["periods"][slot, place]) - 1, store.get_newest_step(slot) + 1
        expected = [fleet.naive[slot].get_mean(period, end, feature) for feature in range(FEATURES)]
        np.testing.assert_allclose(arrays["means"][slot, place], expected, rtol=1e-6)


def test_a_mean_of_another_server_of_the_slot_is_dropped() -> None:
    store = make_store(DAY)
    store.reset(0)
    write_rows(store, 0, 100, 40)
    arrays = copy_arrays(store) | {"seeds": SEEDS}
    other = DAY.windows.store(arrays, None, MemoryStore(arrays, arrays, period=2, seeds=SEEDS + 1))
    assert other.memory is not None
    arrays["newest"][0] = NO_STEP  # the window is another one's too
    assert repair_memory(other.memory, [0], is_torn=False) == 20
    assert np.isnan(read(other, 0, 139)).all()


def test_a_torn_memory_has_no_mean_after_the_newest_row() -> None:
    store = make_store(DAY)
    store.reset(0)
    write_rows(store, 0, 100, 40)
    arrays = copy_arrays(store)
    arrays["newest"][0] = 119
    arrays["newest_check"][0] = make_step_check(119)
    memory = DAY.open_memory(arrays, arrays)
    repair_memory(memory, [0], is_torn=True)
    assert memory.arrays["periods"][0].max() == 119 // 2 + 1


def test_rows_that_the_ring_lost_do_not_spoil_their_mean() -> None:
    store = make_store(DAY)
    store.reset(0)
    write_rows(store, 0, 100, 40)
    before = read(store, 0, 139)
    arrays = copy_arrays(store)
    lost = 131 % DAY.context_length
    arrays["values"][0, lost], arrays["marks"][0, lost], arrays["seals"][0, lost] = np.nan, 0, NO_SEAL
    np.testing.assert_array_equal(read(reopen(DAY, arrays)[0], 0, 139), before)


def test_a_place_never_has_the_period_of_another_mean() -> None:
    lengths = MemorySizes(4, 2, 3)
    arrays = lengths.windows.arrays()
    plain = make_zeros(lengths.columns, SLOTS)

    def check() -> None:
        for place, period in enumerate(plain["periods"][0].tolist()):
            assert period == NO_PERIOD or plain["means"][0, place, 0] == 2 * (period - 1) + 0.5

    watched: Any = {name: WatchedArray(array, check) for name, array in plain.items()}
    store = lengths.windows.store(arrays, None, lengths.open_memory(watched, arrays))
    store.reset(0)
    write_rows(store, 0, 100, 40)
    np.testing.assert_array_equal(read(store, 0, 139)[:, 0], [134.5, 136.5, 138.5])


# ---------------------------------------------------------------- single cases
def write_rows(store: WindowStore, slot: int, first: int, count: int) -> None:
    """Write whole rows whose first feature is the step."""
    for step in range(first, first + count):
        store.write_sample(slot, step, row_of({0: float(step), 1: 1.0, 2: 2.0}), None, 0.0)
    assert store.memory is not None
    store.memory.settle()


def read(store: WindowStore, slot: int, step: int) -> Float32:
    assert store.memory is not None
    found: Float32 = np.zeros((1, store.memory.length, FEATURES), np.float32)
    store.memory.gather(np.array([slot]), np.array([step]), found)
    return found.reshape(-1, FEATURES)


def test_rows_that_are_dropped_as_ahead_are_in_no_mean() -> None:
    store = make_store(DAY)
    store.reset(0)
    write_rows(store, 0, 100, 10)
    write_rows(store, 0, 120, 10)
    rewind(store, 0, 109)
    np.testing.assert_array_equal(read(store, 0, 109)[-5:, 0], [100.5, 102.5, 104.5, 106.5, 108.5])
    write_rows(store, 0, 110, 2)
    write_rows(store, 0, 140, 2)
    assert np.isnan(read(store, 0, 141)[-15:-1]).all(), "of the hours from 112 to 140 no row is left"
    np.testing.assert_array_equal(read(store, 0, 141)[[-16, -1], 0], [110.5, 140.5])


def test_means_of_the_largest_numbers_do_not_overflow() -> None:
    store = make_store(DAY)
    store.reset(0)
    largest = float(np.finfo(np.float32).max)
    for step in (100, 101):
        store.write_sample(0, step, row_of({0: largest, 1: -largest, 2: 0.0}), None, 0.0)
    np.testing.assert_array_equal(read(store, 0, 101)[-1], [largest, -largest, 0.0])


def test_a_slot_of_another_server_has_no_memory() -> None:
    store = make_store(DAY)
    for slot in (0, 1):
        store.reset(slot)
        write_rows(store, slot, 100, 20)
    store.reset(0)
    assert np.isnan(read(store, 0, 119)).all()
    assert not np.isnan(read(store, 1, 119)[-10:]).any()


@pytest.mark.parametrize("slots", [1, 3])
def test_means_are_computed_when_many_slots_wait(monkeypatch: pytest.MonkeyPatch, slots: int) -> None:
    monkeypatch.setattr(memory_module, "MAX_UNSETTLED_SLOTS", slots)
    store = make_store(DAY)
    assert store.memory is not None
    for slot in range(SLOTS):
        store.reset(slot)
        for step in (100, 101):
            store.write_sample(slot, step, row_of({0: 1.0, 1: 1.0, 2: 1.0}), None, 0.0)
        computed = (store.memory.arrays["periods"] != NO_PERIOD).sum(axis=1).tolist()
        ended = (slot + 1) // slots * slots
        assert computed == [1] * ended + [0] * (SLOTS - ended)


@settings(max_examples=12)
@given(st.integers(0, 2**32 - 1), st.integers(0, 11))
def test_a_week_at_five_minutes_is_that_of_training(seed: int, share: int) -> None:
    random = np.random.default_rng(seed)
    end = 12 * 5_000 + share
    rows = random.normal(1_000.0, 300.0, (170 * 12 + share, FEATURES)).astype(np.float32)
    rows[random.random(len(rows)) < random.choice([0.0, 0.1, 0.95])] = np.nan
    rows[random.random(rows.shape) < 0.05] = np.nan
    rows[-1] = 1.0
    lengths = MemorySizes(288, 12, MEMORY_LENGTH)
    store = make_store(lengths)
    store.reset(1)
    for step, row in enumerate(rows, end - len(rows)):
        if not np.isnan(row).all():
            store.write_row(1, step, pack(row))
    expected = compute_memory(rows[None], np.array([share]), MEMORY_LENGTH, 12)[0]
    np.testing.assert_allclose(read(store, 1, end - 1), expected, rtol=1e-6)
