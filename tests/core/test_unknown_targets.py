"""Tests `streamd/core/unknown_targets.py`: against a plain look at every row of every window."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from streamd.core.arrays import Float32, Numbers
from streamd.core.unknown_targets import (
    LastValues,
    TargetFlags,
    UnknownSearch,
    find_unknown,
    list_unknown,
    read_unknown,
)

FEATURES, LENGTH = 3, 4
CELLS = st.sampled_from([np.nan, np.nan, np.nan, 0.0, -1.5, np.float32(9e29), *map(np.float32, (3e38, -1e30, np.inf))])
COLUMNS = st.lists(st.integers(0, FEATURES - 1), min_size=1, max_size=FEATURES, unique=True)


@st.composite
def draw_windows(draw: st.DrawFn) -> Float32:
    """Draw windows in which values are rare, so that targets without one are frequent."""
    shape = (draw(st.integers(0, 5)), draw(st.integers(1, LENGTH)), FEATURES)
    windows: Float32 = draw(arrays(np.float32, shape, elements=CELLS))
    if draw(st.booleans()):  # a view of larger buffers, as a lane's inputs are
        windows = np.concatenate([windows, windows])[: len(windows)]
    return windows


def find_plainly(windows: Float32, columns: list[int]) -> list[list[bool]]:
    def is_missing(number: float) -> bool:
        return number != number or abs(number) >= float(np.float32(1e30))

    return [[all(is_missing(row[column]) for row in window) for column in columns] for window in windows.tolist()]


@given(draw_windows(), COLUMNS)
def test_a_target_is_unknown_if_no_row_has_a_value(windows: Float32, columns: list[int]) -> None:
    before = windows.copy()
    found = find_unknown(windows, np.array(columns))
    assert found.shape == (len(windows), len(columns))
    assert found.tolist() == find_plainly(windows, columns)
    np.testing.assert_array_equal(windows, before)


@given(draw_windows(), COLUMNS, st.data())
def test_what_was_found_already_is_not_looked_for(windows: Float32, columns: list[int], data: st.DataObject) -> None:
    staged = data.draw(st.integers(0, len(windows)))
    expected = find_plainly(windows, columns)
    found = np.array(expected[:staged], np.bool_).reshape(staged, len(columns))
    elsewhere = windows.copy()
    elsewhere[:staged] = 7.0  # the first windows do not lie with the others
    assert UnknownSearch(np.array(columns), found).search(elsewhere).tolist() == expected
    assert UnknownSearch(np.array(columns)).search(windows).tolist() == expected


def test_a_value_long_ago_is_a_value() -> None:
    windows = np.full((2, 288, 2), np.nan, np.float32)
    windows[0, 0, 1] = windows[1, 287, 1] = 0.0
    assert find_unknown(windows, np.array([1, 0])).tolist() == [[False, True], [False, True]]


# ---------------------------------------------------------------- the steps of the last values
SLOTS = 3


class Rings:
    """Windows that get new rows, or are replaced, and a copy that gets what is new of some of them at a time."""

    def __init__(self, columns: list[int]) -> None:
        self.columns = columns
        self.values = np.full((SLOTS, LENGTH, FEATURES), np.nan, np.float32)
        self.newest = np.full(SLOTS, 1, np.int64)
        self.copied = np.full(SLOTS, -1, np.int64)
        """The newest step of each copy; below 0, the copy gets the whole window next."""
        self.last_values = LastValues(SLOTS, LENGTH, np.array(columns))

    def append(self, slot: int, row: Float32) -> None:
        self.newest[slot] += 1
        self.values[slot, self.newest[slot] % LENGTH] = row

    def amend(self, slot: int, row: Float32) -> None:
        """Write an older row: the copy gets the whole window next."""
        self.values[slot, (self.newest[slot] - 1) % LENGTH] = row
        self.copied[slot] = -1

    def replace(self, slot: int, row: Float32) -> None:
        """Give the slot to another server, whose steps may be far behind."""
        self.values[slot] = np.nan
        self.newest[slot] = 2
        self.copied[slot] = -1
        self.append(slot, row)

    def find_missing(self, slots: Numbers) -> tuple[Numbers, Numbers, Numbers]:
        """Return the numbers of missing rows, and of each row its slot and its place."""
        behind = self.newest[slots] - self.copied[slots]
        counts = np.where((self.copied[slots] < 0) | (behind >= LENGTH), LENGTH, behind)
        owners, places = [], []
        for slot, count in zip(slots.tolist(), counts.tolist(), strict=True):
            first = 0 if count == LENGTH else int(self.copied[slot]) + 1  # whole windows are moved from place 0 on
            owners += [slot] * count
            places += [step % LENGTH for step in range(first, first + count)]
        return counts, np.array(owners, np.int64), np.array(places, np.int64)

    def copy(self, slots: list[int]) -> TargetFlags:
        given_ = np.array(slots, np.int64)
        counts, owners, places = self.find_missing(given_)
        rows = self.values[owners, places]
        found = self.last_values.note_rows(given_, self.newest[given_], counts, rows, places)
        self.copied[given_] = self.newest[given_]
        return found


ROW = arrays(np.float32, FEATURES, elements=CELLS)
SLOT = st.integers(0, SLOTS - 1)
CHANGE = st.tuples(st.sampled_from(["append", "append", "append", "amend", "replace"]), SLOT, ROW)
COPY = st.tuples(st.just("copy"), st.lists(SLOT, min_size=1, max_size=2 * SLOTS))


@given(COLUMNS, st.lists(st.one_of(CHANGE, CHANGE, COPY), max_size=40))
def test_the_last_values_know_what_whole_windows_would_show(
    columns: list[int], events: list[tuple[object, ...]]
) -> None:
    rings = Rings(columns)
    for name, *arguments in [*events, ("copy", list(range(SLOTS)))]:
        found = getattr(rings, str(name))(*arguments)
        if name == "copy":
            (slots,) = arguments
            assert found.tolist() == find_plainly(rings.values[np.array(slots)], columns)


@pytest.mark.parametrize("missing", [0, LENGTH - 1, LENGTH])
def test_a_target_becomes_unknown_when_its_last_value_leaves_the_window(missing: int) -> None:
    rings = Rings([0, 1])
    rings.append(0, np.ones(FEATURES, np.float32))
    for _ in range(missing):
        rings.append(0, np.array([1.0, np.nan, np.nan], np.float32))
        rings.copy([0])
    assert rings.copy([0]).tolist() == [[False, missing == LENGTH]]


def test_a_window_of_one_row_has_no_other() -> None:
    last_values = LastValues(1, 1, np.array([0]))
    slot, newest, one = np.array([0]), np.array([5]), np.array([1])
    assert last_values.note_rows(slot, newest, one, np.ones((1, 1), np.float32), np.array([0])).tolist() == [[False]]
    lost = last_values.note_rows(slot, newest, one, np.full((1, 1), np.nan, np.float32), np.array([0]))
    assert lost.tolist() == [[True]]


# ---------------------------------------------------------------- forecasts
def test_an_unknown_target_is_read_from_a_forecast() -> None:
    forecasts = np.zeros((2, 3, 4, 5), np.float32)
    forecasts[1, 2] = np.nan
    assert read_unknown(forecasts).tolist() == [[False, False, False], [False, False, True]]
    assert read_unknown(forecasts[1].astype(np.float16)).tolist() == [False, False, True]


def test_names_are_listed_in_the_order_of_the_targets() -> None:
    assert list_unknown(("mem", "cpu", "net"), np.array([True, False, True])) == ["mem", "net"]
    assert list_unknown(("mem",), np.array([False])) == []
