"""A window store with a memory, and naive models of both, that are driven by random sequences of rows.

Rows come one by one, many of one step at once, and many of different steps at once.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from hypothesis import strategies as st

from streamd.core.arrays import Float32
from streamd.core.state.layout import Column, NamedArrays
from streamd.core.state.memory import MemoryStore
from streamd.core.state.memory_columns import make_memory_columns
from streamd.core.state.mixed_rows import find_whole_next_rows, write_whole_rows
from streamd.core.state.row_frames import SlotList, find_next_rows, view_columns, write_next_rows
from streamd.core.state.rows import PackedRow
from streamd.core.state.windows import WindowStore
from tests.support.fleet_scripts import (
    EVENTS,
    FEATURES,
    FIRST_STEP,
    SLOTS,
    Event,
    Send,
    Sizes,
    Twins,
    row_of,
    try_write,
)
from tests.support.naive_memory import NaiveMemory
from tests.support.rows_at_once import FULL, LISTS, make_rows

SEEDS = np.arange(1, SLOTS + 1, dtype=np.uint32)

END = 1e9
"""A time at which every grace is over."""

Part = Any
"""An `Event`; slots and the masks of their rows, all of one step; or a list of slots that get their next rows."""


@dataclass(frozen=True)
class MemorySizes:
    """The rows of a window, the rows of a mean, and the means of a memory."""

    context_length: int
    period: int
    length: int

    @property
    def windows(self) -> Sizes:
        return Sizes(self.context_length, 1, 99)

    @property
    def columns(self) -> tuple[Column, ...]:
        return make_memory_columns(FEATURES, self.length)

    def open_memory(self, arrays: NamedArrays, windows: NamedArrays) -> MemoryStore:
        """Return a memory over its arrays and those of the windows."""
        return MemoryStore(arrays, windows, period=self.period, seeds=SEEDS)


@st.composite
def memory_sizes(draw: st.DrawFn) -> MemorySizes:
    """Draw windows of one period or several, whole ones or not, and memories shorter and longer than the window."""
    period = draw(st.integers(1, 4))
    return MemorySizes(draw(st.integers(period, 9)), period, draw(st.integers(1, 12)))


_MASKS = st.one_of(st.just(FULL), st.lists(st.integers(1, FULL), min_size=3, max_size=3))
AT_ONCE: st.SearchStrategy[Part] = st.one_of(st.tuples(LISTS, _MASKS), LISTS)


def scripts() -> st.SearchStrategy[list[Part]]:
    """Draw rows that come one by one and many at once."""
    return st.lists(st.one_of(EVENTS, EVENTS, AT_ONCE), min_size=10, max_size=40)


class Sent(NamedTuple):
    """What `WindowStore.write_sample` takes."""

    slot: int
    step: int
    row: PackedRow
    status: int | None
    now: float


class MemoryFleet:
    """A window store with a memory, and both naive models."""

    def __init__(self, lengths: MemorySizes, store: WindowStore) -> None:
        self.lengths = lengths
        self.store = store
        assert store.memory is not None, "it keeps a memory"
        self.memory = store.memory
        self.twins = Twins(lengths.windows, store, [lengths.windows.naive() for _ in range(SLOTS)])
        self.naive = [NaiveMemory(lengths.period) for _ in range(SLOTS)]
        for slot in range(SLOTS):
            store.reset(slot)

    def feed(self, event: Event) -> None:
        """Feed an event to all."""
        before, newest = list(self.twins.naive), [server.newest for server in self.twins.naive]
        self.twins.feed(event)
        for slot, server in enumerate(self.twins.naive):
            if server is not before[slot]:
                self.naive[slot] = NaiveMemory(self.lengths.period)
            self.naive[slot].follow(server, newest[slot] if server is before[slot] else None)

    def prepare(self, event: Send) -> Sent:
        """Return the sample of an event, which was not sent yet."""
        return Sent(
            event.slot,
            self.twins.step_of(event),
            row_of(self.twins.cells_of(event)),
            event.status,
            self.twins.now + event.later,
        )

    def send(self, sent: Sent) -> None:
        """Write a sample to the store and to the naive models."""
        server, cells = self.twins.naive[sent.slot], np.frombuffer(sent.row.data, np.float32)
        newest = server.newest
        try_write(self.store, *sent)
        known = {feature: float(value) for feature, value in enumerate(cells) if value == value}
        server.write(sent.step, known, sent.status, sent.now)
        self.naive[sent.slot].follow(server, newest)

    def finish(self) -> None:
        """Close all open rows, and compute all means."""
        self.store.close_overdue_rows(END)
        self.memory.settle()
        for naive, server in zip(self.naive, self.twins.naive, strict=True):
            newest = server.newest
            server.close_overdue(END)
            naive.follow(server, newest)

    def play(self, script: list[Part], first: float = 10_000.0) -> None:
        """Feed all parts of a script; the values of rows that are written at once begin with `first`."""
        for number, part in enumerate(script):
            if isinstance(part, list):
                self._write_mixed(part, make_rows(len(part), first + 100.0 * number))
            elif isinstance(part, tuple):
                chosen, masks = part
                masks = masks if isinstance(masks, int) else masks[: len(chosen)]
                self._write_frame(chosen, make_rows(len(chosen), first + 100.0 * number, masks), masks)
            else:
                self.feed(part)

    def _write_frame(self, chosen: list[int], rows: Float32, given_masks: int | list[int]) -> None:
        """Write those rows that are usual, in the step after the newest row of the first slot."""
        step = (self.store.get_newest_step(chosen[0]) + 1) or FIRST_STEP
        masks = given_masks if isinstance(given_masks, int) else np.array(given_masks, np.uint64)
        slots = SlotList(self.store, np.array(chosen))
        is_next = find_next_rows(self.store, slots, step, masks)
        places = np.arange(len(chosen)) if is_next is None else np.flatnonzero(is_next)
        if is_next is not None and len(places):
            slots = SlotList(self.store, np.array(chosen)[places])
            masks = masks if isinstance(masks, int) else masks[places]
        if len(places):
            write_next_rows(self.store, slots, step, rows[places], masks)
        for place in places.tolist():
            self._follow_row(chosen[place], step, rows[place])

    def _write_mixed(self, chosen: list[int], rows: Float32) -> None:
        """Write the next row of each slot that has one."""
        slots = np.array(chosen)
        steps = self.store.arrays["newest"][slots] + 1
        places = np.flatnonzero(find_whole_next_rows(self.store, slots, steps) & (steps > 0))
        if len(places):
            write_whole_rows(self.store, view_columns(self.store), slots[places], steps[places], rows[places])
        for place in places.tolist():
            self._follow_row(chosen[place], int(steps[place]), rows[place])

    def _follow_row(self, slot: int, step: int, row: Float32) -> None:
        server = self.twins.naive[slot]
        newest = server.newest
        server.write(step, {feature: float(value) for feature, value in enumerate(row) if value == value}, None, 0.0)
        self.naive[slot].follow(server, newest)

    def check(self, store: WindowStore | None = None, back: int = 0, *, is_settled: bool = True) -> None:
        """Compare the memory of all windows, or what it was `back` steps before their newest row.

        Without `is_settled`, read it as another process does that does not know what is noted.
        """
        store = store or self.store
        slots = np.array([slot for slot in range(SLOTS) if store.get_newest_step(slot) >= back], np.int64)
        steps = store.arrays["newest"][slots] - back
        length = self.lengths.length
        found = np.full((SLOTS + 1, length, FEATURES), -1.0, np.float32)
        assert store.memory is not None
        if is_settled:
            store.memory.gather(slots, steps, found[: len(slots)])
        else:
            store.memory.read(slots, steps, found[: len(slots)], is_settled=False)
        assert (found[len(slots) :] == -1.0).all(), "rows beyond the batch are not touched"
        for place, (slot, step) in enumerate(zip(slots.tolist(), steps.tolist(), strict=True)):
            expected = self.naive[slot].make_memory(step + 1, length, FEATURES)
            np.testing.assert_allclose(found[place], expected, rtol=1e-6)
