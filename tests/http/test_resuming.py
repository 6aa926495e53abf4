"""Tests `streamd/http/resuming.py`: a reader that continues from the id it had last misses no forecast.

The reader takes a part of what waits, leaves before some of its frames arrive, and comes back, also to another process
of the daemon, which hears later of what is posted.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamd.core.errors import InvalidSelectionError
from streamd.core.selection import ServerGlobs, make_forecast_slice
from streamd.core.state.board import ForecastBoard, make_board_columns
from streamd.http import resuming
from streamd.http.resuming import ReaderPosition, parse_event_id
from streamd.runtime.hub import Hub, Subscription
from tests.support.http_harness import CONTRACT

SERVERS = 6
NAMES = [f"s{number}" for number in range(SERVERS)]


@dataclass
class FakeWorker:
    """A process that sends the forecasts of a board that another one posts on."""

    arrays: dict[str, Any]
    sent: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.board = ForecastBoard(self.arrays)
        self.hub = Hub(SERVERS, NAMES, {})
        self.service: Any = SimpleNamespace(
            state=SimpleNamespace(board=self.board),
            hub=self.hub,
            resumes_before=0,
            limit_reader_id=None,
            note_sent=lambda slots: self.sent.extend(slots.tolist()),
        )

    def publish(self, slots: Sequence[int], last_serial: int) -> None:
        self.hub.publish(self.board.publish_up_to(np.array(slots, np.int64), last_serial), 0.0)


@dataclass
class FakeReader:
    """A reader and the part of the route that sends it frames; `newest` are the serials that arrived, by slot."""

    newest: dict[int, int] = field(default_factory=dict)
    last_id: int | None = None
    ids: list[int] = field(default_factory=list)
    frames: list[tuple[int, dict[int, int]]] = field(default_factory=list)
    """What was sent and has not arrived."""
    worker: FakeWorker | None = None
    subscription: Subscription | None = None
    position: ReaderPosition | None = None

    async def connect(self, worker: FakeWorker) -> None:
        part = make_forecast_slice(CONTRACT, None, None)
        self.worker = worker
        self.subscription = worker.hub.subscribe(ServerGlobs(["*"]), part)
        self.position = ReaderPosition(worker.service, self.subscription, self.last_id, has_ids=True)
        self.ids = [self.position.last_id]
        self.last_id = self.position.last_id
        await self.position.replay()

    def disconnect(self, lost: int) -> None:
        """Leave before the last `lost` frames arrive."""
        self.receive(len(self.frames) - lost)
        self.frames = []
        if self.worker is not None and self.subscription is not None:
            self.worker.hub.unsubscribe(self.subscription)
        self.worker = None

    def send(self, count: int) -> None:
        """Send one frame of up to `count` forecasts, as the route does."""
        if self.worker is None or self.position is None:
            return
        slots, board = self.position.take_unread(count), self.worker.board
        sent = {slot: board.get_serial(slot) for slot in slots.tolist()}
        sent = {slot: serial for slot, serial in sent.items() if 0 < serial <= board.last_serial}
        if sent:
            self.ids.append(self.position.choose_id())
            self.frames.append((self.ids[-1], sent))
            self.position.note_sent(np.array([*sent]))

    def receive(self, count: int) -> None:
        """Receive the oldest frames that were sent."""
        for identifier, sent in self.frames[: max(count, 0)]:
            self.last_id = identifier
            self.newest |= sent
        self.frames = self.frames[max(count, 0) :]


def make_arrays() -> dict[str, Any]:
    return {
        column.name: np.zeros((SERVERS, *column.shape), np.dtype(column.dtype))
        for column in make_board_columns(CONTRACT)
    }


def post(engine: ForecastBoard, slots: Sequence[int]) -> None:
    values = np.zeros(CONTRACT.forecast_shape, np.float32)
    for slot in slots:
        engine.post(slot, step=1, context=1, model=b"m", values=values)


slot_lists = st.lists(st.integers(0, SERVERS - 1), min_size=1, max_size=4, unique=True)
actions = st.lists(
    st.one_of(
        st.tuples(st.just("post"), slot_lists),
        st.tuples(st.just("publish"), st.integers(0, 1)),
        st.tuples(st.just("send"), st.integers(1, 3)),
        st.tuples(st.just("receive"), st.integers(0, 3)),
        st.tuples(st.just("reconnect"), st.tuples(st.integers(0, 1), st.integers(0, 3))),
    ),
    max_size=40,
)


async def play(steps: Sequence[tuple[str, Any]]) -> FakeReader:
    """Play the steps, then let the reader come back once more and read all; returns it."""
    arrays = make_arrays()
    engine = ForecastBoard(arrays)
    workers = [FakeWorker(arrays), FakeWorker(arrays)]
    unpublished: list[list[int]] = [[], []]
    reader = FakeReader()
    await reader.connect(workers[0])

    def publish(number: int) -> None:
        workers[number].publish(sorted(set(unpublished[number])), engine.last_serial)
        unpublished[number] = []

    def post_all(slots: list[int]) -> None:
        post(engine, slots)
        for each in unpublished:
            each.extend(slots)

    handlers: dict[str, Callable[[Any], None]] = {
        "post": post_all,
        "publish": publish,
        "send": reader.send,
        "receive": reader.receive,
    }
    for name, argument in steps:
        if name == "reconnect":
            number, lost = argument
            reader.disconnect(lost)
            await reader.connect(workers[number])
        else:
            handlers[name](argument)
        assert reader.ids == sorted(reader.ids), "ids never fall"
    for number in (0, 1):
        publish(number)
    reader.disconnect(lost=1)
    await reader.connect(workers[1])
    while reader.subscription is not None and reader.subscription.waiting:
        reader.send(2)
    reader.receive(len(reader.frames))
    posted = {slot: engine.get_serial(slot) for slot in range(SERVERS) if engine.get_serial(slot)}
    assert reader.newest == posted, "the newest forecast of each server has arrived"
    return reader


@given(actions)
def test_a_reader_that_continues_misses_nothing(steps: list[tuple[str, Any]]) -> None:
    asyncio.run(play(steps))


@settings(max_examples=40)
@given(actions)
def test_it_misses_nothing_if_the_lowest_serial_is_found_seldom(steps: list[tuple[str, Any]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resuming, "WAITING_A_FRAME", 1)
        asyncio.run(play(steps))


def test_a_daemon_without_the_rule_would_be_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The id of a frame alone, without regard to what waits, loses a forecast: the check above can fail."""
    monkeypatch.setattr(ReaderPosition, "choose_id", lambda self: self._newest_taken)
    steps: list[tuple[str, Any]] = [
        *(("post", [0, 1]), ("publish", 0), ("post", [0]), ("publish", 0)),  # 0 has waited longest, and is the newest
        *(("send", 1), ("receive", 1), ("reconnect", (1, 0))),
    ]
    with pytest.raises(AssertionError, match="the newest forecast of each server"):
        asyncio.run(play(steps))
    monkeypatch.undo()
    asyncio.run(play(steps))


async def test_the_age_of_a_forecast_that_is_replayed_is_not_measured() -> None:
    arrays = make_arrays()
    engine, worker = ForecastBoard(arrays), FakeWorker(arrays)
    post(engine, [0])
    worker.publish([0], engine.last_serial)
    reader = FakeReader(last_id=0)
    await reader.connect(worker)
    post(engine, [1])
    worker.publish([1], engine.last_serial)
    reader.send(2)
    reader.receive(1)
    assert set(reader.newest) == {0, 1}
    assert worker.sent == [1]


@pytest.mark.parametrize("given", ["", "-1", "1.5", "x", "9" * 19, "٣"])
def test_what_no_event_can_have_is_no_id(given: str) -> None:
    with pytest.raises(InvalidSelectionError, match="expected the id of an event"):
        parse_event_id(given)
    assert parse_event_id("9" * 18) == 10**18 - 1
