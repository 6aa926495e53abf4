"""Tests `streamd/core/state/resident_index.py`.

Whatever happens to the host's windows, a device that stores the rows that the index names has the same windows.
"""

from dataclasses import dataclass, field

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from streamd.core.arrays import Numbers
from streamd.core.state.layout import make_zeros
from streamd.core.state.resident_index import ResidentIndex, WindowNumbers
from streamd.core.state.rows import PackedRow
from streamd.core.state.window_columns import make_window_columns
from streamd.core.state.windows import WindowStore

LENGTH, FEATURES, SLOTS = 5, 2, 3
FULL = (1 << FEATURES) - 1


@dataclass
class Machine:
    """A real store, and a device that is given the missing rows only."""

    now: float = 0.0
    store: WindowStore = field(init=False)
    generations: Numbers = field(default_factory=lambda: np.zeros(SLOTS, np.int64))

    def __post_init__(self) -> None:
        arrays = make_zeros(make_window_columns(LENGTH, FEATURES), SLOTS)
        self.store = WindowStore(arrays, need=1, late_steps=LENGTH, grace_seconds=10.0)
        for slot in range(SLOTS):
            self.store.reset(slot)
        self.index = ResidentIndex(SLOTS, LENGTH)
        self.values = np.full((SLOTS * LENGTH, FEATURES), -7, np.float32)
        self.marks = np.full(SLOTS * LENGTH, 99, np.uint8)

    def write(self, slot: int, ahead: int, value: float, mask: int) -> None:
        """Write a row some steps ahead of the newest one, or amend one behind it."""
        self.now += 1.0
        step = max(self.store.get_latest_step(slot), 20) + ahead
        row = PackedRow(np.full(FEATURES, value, np.float32).tobytes(), mask)
        self.store.write_sample(slot, step, row, int(value) % 16, self.now)

    def forget(self, slot: int) -> None:
        """Give the slot to another server."""
        self.generations[slot] += 1
        self.store.reset(slot)

    def move(self, slots: list[int]) -> None:
        """Give the device what it lacks; its windows must then be the host's."""
        places = np.array(slots, np.int64)
        arrays = self.store.arrays
        host = WindowNumbers(arrays["newest"][places], self.store.volatile["changes"][places], self.generations[places])
        missing = self.index.find_missing(places, host)
        positions = missing.locate(places, LENGTH)
        assert len(positions) == missing.counts.sum()
        self.values[positions] = arrays["values"].reshape(-1, FEATURES)[positions]
        self.marks[positions] = arrays["marks"].reshape(-1)[positions]
        self.index.note_moved(places, host, missing)
        for slot in slots:
            rows = slice(slot * LENGTH, (slot + 1) * LENGTH)
            np.testing.assert_array_equal(self.values[rows], arrays["values"][slot])
            np.testing.assert_array_equal(self.marks[rows], arrays["marks"][slot])


SLOT = st.integers(0, SLOTS - 1)
WRITE = st.tuples(
    st.just("write"), SLOT, st.integers(-LENGTH + 2, LENGTH + 2), st.integers(0, 99), st.integers(1, FULL)
)
MOVE = st.tuples(st.just("move"), st.lists(SLOT, min_size=1, max_size=2 * SLOTS))
FORGET = st.tuples(st.just("forget"), SLOT)


@given(st.lists(st.one_of(WRITE, WRITE, MOVE, MOVE, FORGET), max_size=40))
def test_a_device_that_stores_what_it_lacks_has_the_host_s_windows(events: list[tuple[object, ...]]) -> None:
    machine = Machine()
    for name, *arguments in events:
        getattr(machine, str(name))(*arguments)
    machine.move(list(range(SLOTS)))


def test_rows_that_were_appended_are_all_that_is_missing() -> None:
    machine = Machine()
    for _ in range(LENGTH):
        machine.write(0, 1, 3.0, FULL)
    machine.move([0])
    assert (machine.index.whole_windows, machine.index.uploaded_rows) == (1, LENGTH)
    machine.write(0, 1, 4.0, FULL)
    machine.move([0, 0])
    assert (machine.index.whole_windows, machine.index.uploaded_rows) == (1, LENGTH + 2)
    machine.write(0, 3, 5.0, FULL)  # two steps are missing: they are rows as well
    machine.move([0])
    assert (machine.index.whole_windows, machine.index.uploaded_rows) == (1, LENGTH + 5)
    machine.write(0, -1, 6.0, FULL)
    machine.move([0])
    assert machine.index.whole_windows == 2
    machine.move([0])
    assert machine.index.whole_windows == 2


def test_an_amended_row_is_not_taken_for_an_appended_one() -> None:
    machine = Machine()
    machine.write(0, 1, 3.0, FULL)
    machine.move([0])
    machine.write(0, -0, 4.0, FULL)
    machine.write(0, 2, 5.0, FULL)
    machine.move([0])
    assert machine.index.whole_windows == 2


def test_a_window_that_is_being_changed_is_missing_until_it_is_whole() -> None:
    machine = Machine()
    machine.write(1, 1, 3.0, FULL)
    machine.store.begin_change(1)
    for _ in range(2):
        machine.move([1])
    assert machine.index.whole_windows == 2


def test_what_is_forgotten_is_missing() -> None:
    machine = Machine()
    machine.write(1, 1, 3.0, FULL)
    machine.write(2, 1, 3.0, FULL)
    machine.move([1, 2])
    machine.index.forget(np.array([1]))
    machine.move([1, 2])
    assert machine.index.whole_windows == 3
    machine.index.clear()
    machine.move([1, 2])
    assert machine.index.whole_windows == 5


def test_the_count_of_changes_may_wrap() -> None:
    machine = Machine()
    machine.store.volatile["changes"][0] = 2**32 - 2
    machine.write(0, 1, 3.0, FULL)
    assert machine.store.volatile["changes"][0] == 0
    machine.move([0])
    machine.store.volatile["changes"][0] = 2**32 - 2
    machine.index = ResidentIndex(SLOTS, LENGTH)
    machine.move([0])
    machine.write(0, 1, 4.0, FULL)
    machine.move([0])
    assert machine.index.uploaded_rows == LENGTH + 1
