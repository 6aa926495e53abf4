"""A window store's arrays in memory, copied after each write, and what a recovered store must fulfil."""

from collections.abc import Iterator
from typing import Any
from unittest import mock

import numpy as np

from streamd.core.state import windows
from streamd.core.state.layout import Layout, NamedArrays
from streamd.core.state.repairs import repair_windows
from streamd.core.state.windows import NO_STEP, PRESENT, WindowStore
from tests.support.fleet_scripts import FEATURES, SLOTS, Sizes
from tests.support.torn_writes import WatchedArray, make_watched_view


class Memory:
    """The arrays of a store; while `watched`, a copy of all of them is kept after every write to one."""

    def __init__(self, lengths: Sizes) -> None:
        self._layout = Layout(windows.make_window_columns(lengths.context_length, FEATURES), SLOTS, {})
        self._buffer = bytearray(self._layout.nbytes)
        self.watched = False
        self.copies: list[bytes] = []
        self.arrays = self._layout.make_views(self._buffer)
        torn: Any = {name: WatchedArray(array, self._stored) for name, array in self.arrays.items()}
        with mock.patch.object(windows, "make_scalar_view", make_watched_view):
            self.store = lengths.store(torn)

    def _stored(self) -> None:
        if self.watched:
            self.copies.append(bytes(self._buffer))

    def after_each_store(self) -> Iterator[NamedArrays]:
        """Yield the arrays as a killed process would have left them, after each store and before the first."""
        for copy in self.copies:
            yield self._layout.make_views(bytearray(copy))


def restart(lengths: Sizes, arrays: NamedArrays, slots: list[int], now: float) -> tuple[WindowStore, int]:
    """Open a new store over the remaining arrays; after a kill, every row is proven by its seal."""
    store = lengths.store(arrays)
    repairs = repair_windows(store, slots, now, is_sealed=True, is_torn=False)
    assert not repairs.lost_rows
    assert not repairs.repaired
    assert not repairs.unreadable
    return store, repairs.interrupted


def check_sound(store: WindowStore, slot: int) -> None:
    """Assert that both copies of the ring are equal, marks and counts are right, and no change is in progress."""
    arrays, length = store.arrays, store.context_length
    ring, marks = arrays["values"][slot], arrays["marks"][slot]
    np.testing.assert_array_equal(ring[:length], ring[length:])
    np.testing.assert_array_equal(marks[:length], marks[length:])
    there = ~np.isnan(ring[:length]).all(axis=1)
    np.testing.assert_array_equal((marks[:length] & PRESENT) != 0, there)
    assert store.have[slot] == there.sum()
    assert arrays["journal"][slot] == NO_STEP
