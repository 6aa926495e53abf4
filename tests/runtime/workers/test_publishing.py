"""Tests `streamd/core/state/board.py` and the hub of a worker while the engine process posts: nothing comes twice.

The board is shared memory: the engine posts at any moment, and the worker hears of it later. Both may be killed.
"""

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from streamd.core.arrays import Slots
from streamd.core.selection import ForecastSlice, ServerGlobs
from streamd.core.state.board import ForecastBoard, make_board_columns
from streamd.core.state.forecast_seals import compute_checks
from streamd.core.state.layout import make_zeros
from streamd.runtime.hub import Hub, Subscription
from tests.support.contracts import make_contract

SLOTS = 4
NAMES = [f"web-{slot}" for slot in range(SLOTS)]
CONTRACT = make_contract()
SHAPE = CONTRACT.forecast_shape
PART = ForecastSlice((0,), (0,), 1, "float32")


@dataclass
class Reader:
    """A reader of events; `got` has its serials of each slot over all its connections."""

    subscription: Subscription
    read: int = 0
    """The serial after which it resumed."""
    last_id: int = 0
    got: dict[int, list[int]] = field(default_factory=lambda: {slot: [] for slot in range(SLOTS)})


class Machine:
    """One engine process, one worker and its reader over one board."""

    def __init__(self) -> None:
        self.arrays = make_zeros(make_board_columns(CONTRACT), SLOTS)
        self.engine = ForecastBoard(self.arrays)
        self.mail: deque[tuple[Slots, int]] = deque()
        self.unheard = 0
        self.unannounced: list[tuple[Slots, int]] = []
        self.announced: dict[int, list[int]] = {slot: [] for slot in range(SLOTS)}
        self.worker = ForecastBoard(self.arrays)
        self.hub = Hub(SLOTS, NAMES, {})
        self.reader = Reader(self.subscribe())
        self.is_new = False  # whether the reader has connected again, so that its gaps are not counted

    def subscribe(self) -> Subscription:
        return self.hub.subscribe(ServerGlobs(["*"]), PART)

    # ------------------------------------------------------------ the engine process
    def post(self, slots: Sequence[int]) -> None:
        values = np.zeros((len(slots), *SHAPE), np.float32)
        numbers = np.array(slots, np.int64)
        serials = self.engine.post_many(numbers, numbers, numbers + 1, b"m", values, compute_checks(values))
        self.unannounced.append((numbers, self.engine.last_serial))
        for slot, serial in zip(slots, serials.tolist(), strict=True):
            self.announced[slot].append(serial)

    def announce(self) -> None:
        self.mail.extend(self.unannounced)
        self.unannounced.clear()

    def kill_engine(self) -> None:
        """What it did not send is lost; what it sent is in the ring. The next one welcomes the worker.

        It finds the newest forecast of each slot on the board. Of those that were replaced there before anybody heard
        of them, nobody can tell.
        """
        unheard = Counter(slot for slots, _ in self.unannounced for slot in slots.tolist())
        self.unheard += unheard.total() - len(unheard)
        self.unannounced.clear()
        self.engine = ForecastBoard(self.arrays)
        last_serial = self.engine.last_serial
        self.hear(len(self.mail))
        self.publish(self.worker.find_unpublished(last_serial), last_serial)

    # ------------------------------------------------------------ the worker
    def hear(self, count: int) -> None:
        for _ in range(min(count, len(self.mail))):
            self.publish(*self.mail.popleft())

    def publish(self, slots: Slots, last_serial: int) -> None:
        fresh = self.worker.publish_up_to(slots, last_serial)
        if len(fresh):
            self.hub.publish(fresh, 0.0)

    def kill_worker(self) -> None:
        """Its mail is lost, and the next one hears of the highest serial with its welcome."""
        self.announce()
        self.mail.clear()
        self.worker = ForecastBoard(self.arrays)
        self.worker.last_serial = self.engine.last_serial
        self.hub = Hub(SLOTS, NAMES, {})
        self.connect()

    # ------------------------------------------------------------ the reader
    def connect(self) -> None:
        """Connect again, and resume after the last event: as `ForecastRoutes.open_stream`.

        The id of an event stays below all that waited when it was sent, so what is above the last id may come again.
        """
        for got in self.reader.got.values():
            got[:] = [serial for serial in got if serial <= self.reader.last_id]
        self.hub.unsubscribe(self.reader.subscription)
        self.reader.subscription = self.subscribe()
        self.reader.read = self.worker.limit_serial(self.reader.last_id)
        slots = self.worker.find_later_than(self.reader.read)
        self.reader.subscription.post(slots, [NAMES[slot] for slot in slots.tolist()])
        self.is_new = True

    def take(self, count: int) -> None:
        """Take forecasts: as `ForecastRoutes._push_events`."""
        reader, board = self.reader, self.worker
        for _ in range(count):
            for slot in reader.subscription.take(1).tolist():
                serial = board.get_serial(slot)
                if 0 < serial <= reader.read:
                    continue
                if not board.find_published(np.array([serial]))[0]:
                    reader.subscription.count_dropped(1)
                    continue
                waiting = board.find_lowest_serial(reader.subscription.waiting_slots)
                reader.last_id = max(min(serial, waiting - 1), 0)
                reader.got[slot].append(serial)

    def check(self) -> None:
        for slot, got in self.reader.got.items():
            assert got == sorted(set(got)), "a forecast came twice, or after a newer one"
            assert set(got) <= set(self.announced[slot])

    def finish(self) -> None:
        """Let everything be heard of and read: the reader has the newest forecast of each slot."""
        self.announce()
        self.hear(len(self.mail))
        self.take(10 * SLOTS)
        self.check()
        for slot, posted in self.announced.items():
            assert self.reader.got[slot][-1:] == posted[-1:]
        missed = sum(map(len, self.announced.values())) - sum(map(len, self.reader.got.values()))
        if not self.is_new:
            assert self.reader.subscription.dropped == missed - self.unheard


some_slots = st.lists(st.integers(0, SLOTS - 1), min_size=1, unique=True)
steps = st.one_of(
    st.tuples(st.just("post"), some_slots),
    st.tuples(st.sampled_from(["hear", "take"]), st.integers(1, 3)),
    st.tuples(st.sampled_from(["announce"])),
)
kills = st.one_of(steps, st.tuples(st.sampled_from(["connect", "kill_engine", "kill_worker"])))


@given(st.lists(steps, max_size=40))
def test_a_reader_gets_nothing_twice_and_each_gap_is_counted(sequence: list[tuple[str, object]]) -> None:
    machine = Machine()
    for name, *arguments in sequence:
        getattr(machine, name)(*arguments)
        machine.check()
    machine.finish()


@given(st.lists(kills, max_size=40))
def test_a_reader_that_resumes_gets_nothing_twice_up_to_its_last_id(
    sequence: list[tuple[str, object]],
) -> None:
    machine = Machine()
    for name, *arguments in sequence:
        getattr(machine, name)(*arguments)
        machine.check()
    machine.finish()
