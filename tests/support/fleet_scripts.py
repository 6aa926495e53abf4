"""Random sequences of samples, and a window store and its naive model that are driven by them."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count

import numpy as np
from hypothesis import strategies as st

from streamd.core.arrays import Float32
from streamd.core.errors import TooOldError
from streamd.core.state.layout import Layout, NamedArrays
from streamd.core.state.memory import MemoryStore
from streamd.core.state.rows import PackedRow
from streamd.core.state.window_columns import NO_STEP, make_window_columns
from streamd.core.state.windows import WindowStore
from tests.support.naive_windows import NaiveServer

FEATURES = 3
SLOTS = 3
FIRST_STEP = 1_000
GRACE_SECONDS = 10.0


@dataclass(frozen=True)
class Sizes:
    """The lengths of a store; small, so that every ring is filled more than once."""

    context_length: int
    need: int
    late_steps: int

    def naive(self) -> NaiveServer:
        return NaiveServer(self.context_length, FEATURES, self.need, self.late_steps, GRACE_SECONDS)

    def arrays(self) -> NamedArrays:
        layout = Layout(make_window_columns(self.context_length, FEATURES), SLOTS, {})
        return layout.make_views(bytearray(layout.nbytes))

    def store(
        self, arrays: NamedArrays, volatile: NamedArrays | None = None, memory: MemoryStore | None = None
    ) -> WindowStore:
        return WindowStore(
            arrays,
            need=self.need,
            late_steps=self.late_steps,
            grace_seconds=GRACE_SECONDS,
            seeds=arrays.get("seeds"),
            volatile=volatile,
            memory=memory,
        )


@dataclass(frozen=True)
class Send:
    """A sample `ahead` steps after its server's newest row, `later` seconds after the previous event."""

    slot: int
    ahead: int
    features: frozenset[int]
    status: int | None
    later: float


@dataclass(frozen=True)
class GracePassed:
    """Time passes, and overdue rows are closed."""

    later: float


@dataclass(frozen=True)
class Reset:
    """The slot gets another server."""

    slot: int


Event = Send | GracePassed | Reset


def sizes() -> st.SearchStrategy[Sizes]:
    """Draw contexts of 1 to 8 rows, with any `need` within and any tolerance up to beyond the context."""
    return st.integers(1, 8).flatmap(
        lambda length: st.builds(
            Sizes, st.just(length), st.integers(1, min(length, 3)), st.sampled_from([0, 1, 2, length - 1, length, 99])
        )
    )


# Frequent steps are listed more often, above all the next step and the open row.
_AHEAD = [1] * 5 + [0] * 5 + [-1, -1, -1, -2, -3, -6, 2, 2, 2, 3, 3, 5, 7, 8, 9, 20]
_FEATURES = [*[frozenset(range(FEATURES))] * 2, *map(frozenset, ({0}, {1}, {2}, {0, 1}, {1, 2}, {0, 2}, ()))]
SENDS = st.builds(
    Send,
    st.sampled_from([0] * 6 + [1] * 3 + [2]),
    st.sampled_from(_AHEAD),
    st.sampled_from(_FEATURES),
    st.sampled_from([None, None, 0, 1, 7, 15]),
    st.sampled_from([0.0, 0.0, 1.0, 5.0]),
)
_OTHERS: dict[str, st.SearchStrategy[Event]] = {
    "send": SENDS,
    "grace": st.builds(GracePassed, st.sampled_from([0.0, 1.0, 5.0, GRACE_SECONDS, 25.0])),
    "reset": st.builds(Reset, st.sampled_from([0, 0, 1, 2])),
}
EVENTS = st.sampled_from(["send"] * 20 + ["grace"] * 3 + ["reset"]).flatmap(_OTHERS.__getitem__)


def events(min_size: int = 20, max_size: int = 50) -> st.SearchStrategy[list[Event]]:
    """Draw samples in order and not, with gaps, late, repeated and split; sometimes time passes or a slot is reset."""
    return st.lists(EVENTS, min_size=min_size, max_size=max_size)


@dataclass
class Twins:
    """A window store and the naive model with the same input."""

    sizes: Sizes
    store: WindowStore
    naive: list[NaiveServer]
    now: float = 100.0
    numbers: Iterator[int] = field(default_factory=lambda: count(1))

    @classmethod
    def make(cls, sizes: Sizes) -> "Twins":
        twins = cls(sizes, sizes.store(sizes.arrays()), [sizes.naive() for _ in range(SLOTS)])
        for slot in range(SLOTS):
            twins.store.reset(slot)
        return twins

    def step_of(self, event: Send) -> int:
        latest = self.naive[event.slot].latest
        return max(0, (FIRST_STEP if latest is None else latest) + event.ahead)

    def cells_of(self, event: Send) -> dict[int, float]:
        """Return values that no other sample has, so that a misplaced one is detected."""
        return {feature: float(next(self.numbers)) for feature in sorted(event.features)}

    def feed(self, event: Event) -> tuple[object, object]:
        """Feed an event to both; returns what became due in the store and in the naive model."""
        if isinstance(event, Send):
            self.now += event.later
            step, cells = self.step_of(event), self.cells_of(event)
            return self.write(event.slot, step, cells, event.status)
        if isinstance(event, GracePassed):
            self.now += event.later
            closed = [server.close_overdue(self.now) for server in self.naive]
            return sorted(self.store.close_overdue_rows(self.now)), [slot for slot, due in enumerate(closed) if due]
        self.store.reset(event.slot)
        self.naive[event.slot] = self.sizes.naive()
        return None, None

    def write(self, slot: int, step: int, cells: dict[int, float], status: int | None) -> tuple[int | None, int | None]:
        expected = self.naive[slot].write(step, cells, status, self.now)
        return try_write(self.store, slot, step, row_of(cells), status, self.now), expected

    def check(self) -> None:
        """Compare everything that both show."""
        for slot, server in enumerate(self.naive):
            check_slot(self.store, slot, server)
        opened = [server.opened for server in self.naive if server.filling is not None]
        assert self.store.get_next_deadline() == (min(opened) + GRACE_SECONDS if opened else None)


def try_write(store: WindowStore, slot: int, step: int, row: PackedRow, status: int | None, now: float) -> int | None:
    """Write a sample; returns how many rows became due by it, or None if it is too old."""
    try:
        return store.write_sample(slot, step, row, status, now)
    except TooOldError:
        return None


def row_of(cells: dict[int, float]) -> PackedRow:
    """Pack a sample's row."""
    data = np.full(FEATURES, np.nan, np.float32)
    for feature, value in cells.items():
        data[feature] = value
    return PackedRow(data.tobytes(), sum(1 << feature for feature in cells))


def check_slot(store: WindowStore, slot: int, server: NaiveServer) -> None:
    """Compare one server's window in the store with the naive window."""
    assert store.get_newest_step(slot) == (NO_STEP if server.newest is None else server.newest)
    assert store.have[slot] == server.have
    assert store.is_ready(slot) == (server.have >= server.need)
    if server.newest is None:
        return
    values, statuses = window_of(store, slot)
    expected_values, expected_statuses = server.window()
    np.testing.assert_array_equal(values, expected_values)
    assert statuses == expected_statuses


def window_of(store: WindowStore, slot: int) -> tuple[Float32, list[int]]:
    """Gather one window, as the pipeline does."""
    values = np.full((store.context_length, store.features), -1, np.float32)
    statuses = np.full(store.context_length, -1, np.int32)
    store.gather_window(slot, values, statuses)
    return values, statuses.tolist()
