"""Tests `streamd/core/state/windows.py` and `rings.py` against a naive model, with any sequence of samples."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamd.core.state import rings
from streamd.core.state.rings import MIN_WINDOWS_PER_RUN
from streamd.core.state.rows import PackedRow
from streamd.core.state.window_columns import NO_STEP
from streamd.core.state.windows import WindowStore
from tests.support.fleet_scripts import (
    FEATURES,
    GRACE_SECONDS,
    SLOTS,
    Event,
    Sizes,
    Twins,
    events,
    row_of,
    sizes,
    try_write,
    window_of,
)


@given(sizes(), events())
def test_windows_are_those_of_the_naive_model(lengths: Sizes, sequence: list[Event]) -> None:
    twins = Twins.make(lengths)
    for event in sequence:
        due, expected = twins.feed(event)
        assert due == expected
        twins.check()


@given(sizes(), events())
def test_closed_and_warming_rows_are_counted(lengths: Sizes, sequence: list[Event]) -> None:
    twins, due = Twins.make(lengths), 0
    former = [(0, 0)]
    for event in sequence:
        before = list(twins.naive)
        found, _ = twins.feed(event)
        if isinstance(found, list):
            due += len(found)
        elif isinstance(found, int):  # None: too old, or a reset
            due += found
        replaced = [server for server in before if all(server is not other for other in twins.naive)]
        former += [(server.closed_rows, server.warming_rows) for server in replaced]
    counts = former + [(server.closed_rows, server.warming_rows) for server in twins.naive]
    assert twins.store.closed_rows == sum(closed for closed, _ in counts)
    assert twins.store.warming_rows == sum(warming for _, warming in counts)
    assert twins.store.closed_rows == twins.store.warming_rows + due


@given(sizes(), events(), st.permutations(range(SLOTS)))
def test_the_windows_of_a_batch_equal_each_window_alone(
    lengths: Sizes, sequence: list[Event], order: list[int]
) -> None:
    twins = Twins.make(lengths)
    for event in sequence:
        twins.feed(event)
    slots = [slot for slot in order if twins.naive[slot].newest is not None]
    values = np.zeros((SLOTS + 1, lengths.context_length, FEATURES), np.float32)
    statuses = np.zeros((SLOTS + 1, lengths.context_length), np.int32)
    for row, slot in enumerate(slots):
        twins.store.gather_window(slot, values[row], statuses[row])
    for row, slot in enumerate(slots):
        alone, statuses_alone = window_of(twins.store, slot)
        np.testing.assert_array_equal(values[row], alone)
        assert statuses[row].tolist() == statuses_alone
    assert not values[len(slots) :].any(), "rows beyond the batch are not touched"


ALWAYS_RUN_BY_RUN, NEVER = 1, 1_000


@given(
    sizes(),
    events(),
    st.lists(st.integers(0, SLOTS - 1), max_size=30),
    st.booleans(),
    st.sampled_from([ALWAYS_RUN_BY_RUN, MIN_WINDOWS_PER_RUN, NEVER]),
)
def test_many_windows_at_once_equal_one_by_one(
    lengths: Sizes, sequence: list[Event], slots: list[int], together: bool, windows_a_run: int
) -> None:
    twins = Twins.make(lengths)
    for event in sequence:
        twins.feed(event)
    if together:
        slots.sort(key=lambda slot: twins.store.get_newest_step(slot))
    count, length = len(slots), lengths.context_length
    values = np.full((count + 1, length, FEATURES), -1.0, np.float32)
    categories = np.full((count + 1, length, 2), -1, np.int32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rings, "MIN_WINDOWS_PER_RUN", windows_a_run)
        twins.store.gather_windows(np.array(slots, np.int64), values[:count], categories[:count, :, 1])
    for row, slot in enumerate(slots):
        alone, statuses_alone = window_of(twins.store, slot)
        np.testing.assert_array_equal(values[row], alone)
        assert categories[row, :, 1].tolist() == statuses_alone
    assert (values[count:] == -1.0).all(), "rows beyond the batch are not touched"
    assert (categories[:, :, 0] == -1).all()


@pytest.mark.parametrize("begin", [0, 1, 2, 3])
def test_the_window_of_the_last_slot_is_complete_wherever_it_begins(begin: int) -> None:
    store = make_store(context_length=4)
    for slot in range(SLOTS):
        for step in range(8, 12 + begin):
            store.write_sample(slot, step, full_row(float(10 * slot + step)), step % 16, 0.0)
    slots = np.array([SLOTS - 1, 0] * MIN_WINDOWS_PER_RUN)
    values = np.empty((len(slots), 4, FEATURES), np.float32)
    statuses = np.empty((len(slots), 4), np.int32)
    store.gather_windows(slots, values, statuses)
    steps = np.arange(8 + begin, 12 + begin)
    np.testing.assert_array_equal(values[..., 0], 10 * slots[:, None] + steps)
    np.testing.assert_array_equal(statuses, np.tile(steps % 16, (len(slots), 1)))


def test_an_array_that_is_not_contiguous_is_refused() -> None:
    store, slots = make_store(context_length=4), np.zeros(MIN_WINDOWS_PER_RUN, np.int64)
    values = np.empty((len(slots), 4, FEATURES + 1), np.float32)[..., 1:]
    with pytest.raises(ValueError, match="contiguous"):
        store.gather_windows(slots, values, np.empty((len(slots), 4), np.int32))


def make_store(context_length: int = 4, need: int = 1, late_steps: int = 99) -> WindowStore:
    twins = Twins.make(Sizes(context_length, need, late_steps))
    return twins.store


def row(*features: int, value: float = 1.0) -> PackedRow:
    return row_of(dict.fromkeys(features, value))


def full_row(value: float = 1.0) -> PackedRow:
    return row(*range(FEATURES), value=value)


# ---------------------------------------------------------------- the rules, case by case
def test_a_row_closes_when_it_has_what_the_previous_row_had() -> None:
    store = make_store()
    assert store.write_sample(0, 10, row(0), None, 0.0) == 0
    assert store.get_newest_step(0) == NO_STEP, "the first row waits for every feature"
    assert store.write_sample(0, 11, row(0), None, 0.0) == 2, "10 by the later step, 11 as it has what 10 had"
    assert store.get_newest_step(0) == 11


def test_a_later_step_closes_a_row_and_may_close_its_own() -> None:
    store = make_store()
    store.write_sample(0, 10, full_row(1.0), None, 0.0)
    store.write_sample(0, 11, row(0), None, 0.0)
    assert store.write_sample(0, 12, full_row(2.0), None, 0.0) == 2


def test_grace_closes_a_row_no_sooner_and_no_later() -> None:
    store = make_store()
    store.write_sample(1, 10, row(0), None, 50.0)
    assert store.get_next_deadline() == 50.0 + GRACE_SECONDS
    assert store.close_overdue_rows(50.0 + GRACE_SECONDS - 0.001) == []
    assert store.close_overdue_rows(50.0 + GRACE_SECONDS) == [1]
    assert store.get_next_deadline() is None


def test_the_grace_of_a_row_counts_from_its_first_sample() -> None:
    store = make_store()
    store.write_sample(0, 10, row(0), None, 50.0)
    store.write_sample(0, 10, row(1), None, 59.0)
    assert store.close_overdue_rows(60.0) == [0]


@pytest.mark.parametrize(
    ("late_steps", "behind", "taken"), [(2, 2, True), (2, 3, False), (99, 3, True), (99, 4, False)]
)
def test_a_sample_may_lie_as_far_behind_as_the_tolerance_and_the_window(
    late_steps: int, behind: int, taken: bool
) -> None:
    store = make_store(late_steps=late_steps)
    store.write_sample(0, 100, full_row(1.0), None, 0.0)
    before = store.arrays["values"].copy()
    answer = try_write(store, 0, 100 - behind, full_row(2.0), None, 0.0)
    assert answer == (0 if taken else None)
    assert taken != np.array_equal(before, store.arrays["values"], equal_nan=True)


def test_a_split_row_fills_without_any_tolerance() -> None:
    store = make_store(late_steps=0)
    assert [store.write_sample(0, 100, row(feature), None, 0.0) for feature in range(3)] == [0, 0, 1]
    assert try_write(store, 0, 99, full_row(1.0), None, 0.0) is None


def test_only_the_newest_row_of_the_same_server_makes_a_sample_too_old() -> None:
    store = make_store()
    store.write_sample(0, 1_000, full_row(1.0), None, 0.0)
    assert store.write_sample(1, 10, full_row(1.0), None, 0.0) == 1
    assert try_write(store, 0, 10, full_row(1.0), None, 0.0) is None


def test_a_late_sample_makes_no_server_due() -> None:
    store = make_store()
    store.write_sample(0, 10, full_row(1.0), None, 0.0)
    assert store.write_sample(0, 9, full_row(2.0), None, 0.0) == 0
    assert store.have[0] == 2


def test_a_gap_longer_than_the_window_leaves_one_row() -> None:
    store = make_store()
    for step in range(10, 20):
        store.write_sample(0, step, full_row(1.0), None, 0.0)
    assert store.have[0] == 4
    store.write_sample(0, 1_000, full_row(2.0), 3, 0.0)
    values, statuses = window_of(store, 0)
    assert store.have[0] == 1
    assert np.isnan(values[:-1]).all()
    assert statuses == [0, 0, 0, 3]


def test_a_status_alone_opens_a_row_that_does_not_count() -> None:
    store = make_store(need=2)
    store.write_sample(0, 10, full_row(1.0), None, 0.0)
    store.write_sample(0, 11, row(), 7, 0.0)
    assert store.close_overdue_rows(1_000.0) == []
    assert store.have[0] == 1
    assert window_of(store, 0)[1][-1] == 7


def test_slots_do_not_affect_each_other() -> None:
    store = make_store()
    store.write_sample(1, 10, full_row(1.0), 5, 0.0)
    before = {name: array[1].copy() for name, array in store.arrays.items()}
    for slot in (0, 2):
        for step in range(10, 31):
            store.write_sample(slot, step, full_row(9.0), 9, 0.0)
        store.write_sample(slot, 500, full_row(9.0), 9, 0.0)
        store.reset(slot)
    for name, array in before.items():
        np.testing.assert_array_equal(store.arrays[name][1], array)
