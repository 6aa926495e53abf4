"""A window store's arrays in memory, copied after each write, and what a recovered store must fulfil."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from typing import Any
from unittest import mock

import numpy as np

from streamd.core.state import closed_rows, filling_rows, windows
from streamd.core.state.directory import VOLATILE_DIRECTORY_COLUMNS
from streamd.core.state.layout import Column, Layout, NamedArrays
from streamd.core.state.memory import MemoryStore
from streamd.core.state.repairs import repair_windows
from streamd.core.state.seals import NO_SEAL, compute_seal
from streamd.core.state.window_columns import NO_STEP, PRESENT, make_volatile_columns, make_window_columns
from streamd.core.state.windows import WindowStore
from tests.support.fleet_scripts import FEATURES, SLOTS, Event, Sizes, Twins
from tests.support.kill_points import choose_kills
from tests.support.torn_writes import WatchedArray, make_watched_view


class Memory:
    """All arrays of a store, also those that are in no file; while `watched`, they are copied after every write.

    `more` are columns of another store, which `make_memory` makes of all watched arrays and of the plain ones.
    """

    def __init__(
        self,
        lengths: Sizes,
        more: tuple[Column, ...] = (),
        make_memory: Callable[[Any, NamedArrays], MemoryStore] | None = None,
    ) -> None:
        columns = make_window_columns(lengths.context_length, FEATURES)
        volatile = (*make_volatile_columns(), *VOLATILE_DIRECTORY_COLUMNS)
        self._layout = Layout((*columns, *volatile, *more), SLOTS, {})
        self._buffer = bytearray(self._layout.nbytes)
        self.watched = False
        self.copies: list[bytes] = []
        self.arrays = self._layout.make_views(self._buffer)
        self.arrays["seeds"][:] = range(1, SLOTS + 1)
        torn: Any = {name: WatchedArray(array, self._stored) for name, array in self.arrays.items()}
        with ExitStack() as patches:
            for module in (windows, closed_rows, filling_rows):
                patches.enter_context(mock.patch.object(module, "make_scalar_view", make_watched_view))
            memory = None if make_memory is None else make_memory(torn, self.arrays)
            self.store = lengths.store(torn, torn, memory)

    def _stored(self) -> None:
        if self.watched:
            self.copies.append(bytes(self._buffer))

    def watch(self) -> None:
        """Copy the arrays as they are now, and after each write from now on."""
        self.watched = True
        self._stored()

    def after_each_store(self) -> Iterator[NamedArrays]:
        """Yield the arrays as a killed process would have left them, after each store and before the first."""
        yield from map(self._view, self.copies)

    def after_some_stores(self) -> Iterator[NamedArrays]:
        """Yield the arrays as `after_each_store` does, of the stores only that are chosen for this content."""
        yield from map(self._view, choose_kills(self.copies, self.copies[-1]))

    def _view(self, copy: bytes) -> NamedArrays:
        return self._layout.make_views(bytearray(copy))


def make_fed_memory(lengths: Sizes, sequence: Iterable[Event]) -> tuple[Memory, Twins]:
    """Return the memory of a store that took these events, and the store with its naive model."""
    memory = Memory(lengths)
    twins = Twins(lengths, memory.store, [lengths.naive() for _ in range(SLOTS)])
    for slot in range(SLOTS):
        memory.store.reset(slot)
    for event in sequence:
        twins.feed(event)
    return memory, twins


def restart(
    lengths: Sizes, arrays: NamedArrays, slots: list[int], now: float, *, is_shared: bool = False
) -> tuple[WindowStore, int]:
    """Open a new store over the remaining arrays; after a kill, every row is proven by its seal.

    With `is_shared`, the arrays that are in no file remain too, because other processes have them.
    """
    store = lengths.store(arrays, arrays if is_shared else None)
    repairs = repair_windows(store, slots, now, is_torn=False)
    assert not repairs.lost_rows
    assert not repairs.repaired
    assert not repairs.unreadable
    return store, repairs.interrupted


def check_sound(store: WindowStore, slot: int) -> None:
    """Assert that the marks, seals and counts are right, and no change is in progress."""
    arrays, length = store.arrays, store.context_length
    ring, marks, newest = arrays["values"][slot], arrays["marks"][slot], store.get_newest_step(slot)
    there = ~np.isnan(ring).all(axis=1)
    np.testing.assert_array_equal((marks & PRESENT) != 0, there)
    for step in range(newest - length + 1, newest + 1) if newest != NO_STEP else ():
        place = step % length
        seal = compute_seal(ring[place].tobytes(), int(store.seeds[slot]), step, int(marks[place]))
        assert arrays["seals"][slot, place] == (seal if marks[place] else NO_SEAL)
    assert store.have[slot] == there.sum()
    assert arrays["journal"][slot] == NO_STEP
    assert store.volatile["changes"][slot] % 2 == 0
