"""Tests `streamd/http/sample_socket.py` against taking and answering one frame after another."""

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
from aiohttp import WSMessage, WSMsgType
from hypothesis import given
from hypothesis import strategies as st

from streamd.core.access.caller import ANYBODY, Caller
from streamd.core.errors import DrainingError, InvalidTimeError, StreamdError, UnavailableError
from streamd.core.state.rows import RowReader
from streamd.core.state.samples import CellSample
from streamd.http.sample_socket import MAX_PENDING, Outcome, SampleSocket
from streamd.http.wire.codecs import Encoding
from streamd.http.wire.single_samples import SingleDecoder
from streamd.http.wire.websocket_frames import frame_message

DECODER = SingleDecoder(RowReader(["cpu"]).cells_type)


@dataclass
class Daemon:
    """A taker, an agent and a handler of unusual frames that record what happens, in order."""

    at_once: int = 100
    """Samples that are taken before the taker stops early."""
    closes_after: int = 10**9
    """Turns after which the agent has left."""
    is_draining: bool = False
    events: list[str] = field(default_factory=list)
    sent: list[bytes] = field(default_factory=list)
    refused: int = 0
    turns: int = 0
    waits: int = 0

    def take_few(self, samples: Sequence[CellSample[Any]], caller: Caller) -> list[StreamdError | None]:
        if self.is_draining:
            raise DrainingError("the daemon is stopping")
        taken = samples[: self.at_once]
        self.events += [f"take {sample.server}" for sample in taken]
        return [InvalidTimeError("time is -1") if sample.time == -1 else None for sample in taken]

    def count_refused(self, error: StreamdError) -> None:
        self.refused += 1

    async def send_frames(self, frames: bytes) -> None:
        self.sent.append(frames)

    def write_frames(self, frames: bytes) -> None:
        self.sent.append(frames)

    async def wait_until_written(self) -> None:
        self.waits += 1

    async def is_over(self) -> bool:
        self.turns += 1
        return self.turns >= self.closes_after

    async def answer_frame(self, message: WSMessage, encoding: Encoding) -> bytes | None:
        self.events.append("alone")
        return None if message.data == "quiet" else b"alone"

    async def take(self, messages: Sequence[WSMessage], *, acks: bool = True) -> bool:
        socket = SampleSocket(self, self, DECODER, self.answer_frame, caller=ANYBODY, acks=acks)
        return await socket.take_batch(messages)


def single(number: int, time: float = 1, *, is_binary: bool = False) -> WSMessage:
    frame = {"id": number, "samples": [{"server": str(number), "time": time, "values": {"cpu": 1}}]}
    if is_binary:
        return WSMessage(WSMsgType.BINARY, msgspec.msgpack.encode(frame), None)
    return WSMessage(WSMsgType.TEXT, msgspec.json.encode(frame).decode(), None)


def unusual(text: str = "unusual") -> WSMessage:
    return WSMessage(WSMsgType.TEXT, text, None)


MESSAGES = st.lists(
    st.builds(single, st.integers(0, 9), st.sampled_from([1, -1]), is_binary=st.booleans())
    | st.sampled_from([unusual(), unusual("quiet"), unusual("x" * 5_000)])
)


@given(MESSAGES, st.integers(1, 4))
async def test_answers_and_their_order_are_those_of_one_frame_after_another(
    messages: list[WSMessage], at_once: int
) -> None:
    batched, one_by_one = Daemon(at_once=at_once), Daemon()
    assert await batched.take(messages)
    for message in messages:
        assert await one_by_one.take([message])
    assert batched.events == one_by_one.events
    assert b"".join(batched.sent) == b"".join(one_by_one.sent)


async def test_the_acks_of_a_batch_are_one_write() -> None:
    daemon = Daemon()
    assert await daemon.take([single(number) for number in range(20)])
    assert len(daemon.sent) == 1
    assert daemon.sent[0].count(b'"accepted":1') == 20


async def test_an_answer_is_sent_before_the_next_frame_is_taken_if_that_may_take_long() -> None:
    daemon = Daemon()
    await daemon.take([single(1), unusual(), single(2)])
    assert daemon.events == ["take 1", "alone", "take 2"]
    assert [b"alone" in frames for frames in daemon.sent] == [False, True, False]


async def test_others_have_their_turn_when_a_batch_is_more_work() -> None:
    daemon = Daemon(at_once=4)
    await daemon.take([single(number) for number in range(10)])
    assert daemon.turns == 2
    await daemon.take([unusual(), single(1)])
    assert daemon.turns == 3


@pytest.mark.parametrize("messages", [[single(1), single(2), single(3)], [single(1), unusual(), single(2)]])
async def test_nothing_more_is_taken_once_the_agent_has_left(messages: list[WSMessage]) -> None:
    daemon = Daemon(at_once=1, closes_after=1)
    assert not await daemon.take(messages)
    assert "take 2" not in daemon.events


async def test_without_acks_nothing_is_sent_for_samples() -> None:
    daemon = Daemon()
    assert await daemon.take([single(1), single(2, -1), unusual("quiet")], acks=False)
    assert daemon.events == ["take 1", "take 2", "alone"]
    assert not daemon.sent


@pytest.mark.parametrize("acks", [True, False])
async def test_each_frame_is_refused_while_the_daemon_stops(acks: bool) -> None:
    daemon = Daemon(is_draining=True)
    assert await daemon.take([single(1), single(2, is_binary=True)], acks=acks)
    message = {"type": "error", "code": "draining", "message": "the daemon is stopping"}
    expected = frame_message(msgspec.json.encode(message), Encoding.JSON)
    expected += frame_message(msgspec.msgpack.encode(message), Encoding.MSGPACK)
    assert b"".join(daemon.sent) == expected
    assert daemon.refused == 2


class Elsewhere:
    """Other processes: some batches are begun and answered when `answer_all` is called, in any order."""

    def __init__(self, daemon: Daemon, begins: list[bool], pick: random.Random, failure: StreamdError | None = None):
        self.begun = 0
        self._daemon = daemon
        self._begins = begins
        self._pick = pick
        self._failure = failure
        self._answers: list[Callable[[], None]] = []

    def begin(self, samples: Sequence[CellSample[Any]], caller: Caller, answer: Callable[[Outcome], None]) -> bool:
        if not (self._begins and self._begins.pop()):
            return False
        self.begun += 1
        try:
            errors: Outcome = self._failure or self._daemon.take_few(samples, caller)
        except StreamdError as failure:
            errors = failure
        self._answers.append(lambda: answer(errors))
        asyncio.get_running_loop().call_soon(self.answer_one)
        return True

    def answer_one(self) -> None:
        self._answers.pop(self._pick.randrange(len(self._answers)))()

    async def take(self, samples: Sequence[CellSample[Any]], caller: Caller) -> list[StreamdError | None]:
        if self._failure is not None:
            raise self._failure
        return self._daemon.take_few(samples, caller)


async def answer_all() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


@given(st.lists(MESSAGES, max_size=5), st.lists(st.booleans()), st.integers(0, 99), st.booleans())
async def test_answers_are_the_same_if_other_processes_take_some_samples(
    batches: list[list[WSMessage]], begins: list[bool], seed: int, acks: bool
) -> None:
    here, there = Daemon(), Daemon()
    elsewhere = Elsewhere(there, begins, random.Random(seed))
    socket = SampleSocket(there, there, DECODER, there.answer_frame, caller=ANYBODY, acks=acks, elsewhere=elsewhere)
    for messages in batches:
        assert await here.take(messages, acks=acks)
        assert await socket.take_batch(messages)
    await answer_all()
    assert there.events == here.events
    assert b"".join(there.sent) == b"".join(here.sent)


async def test_a_few_batches_are_read_before_the_first_is_answered() -> None:
    daemon = Daemon()
    elsewhere = Elsewhere(daemon, [True] * 10, random.Random(1))
    elsewhere.answer_one = lambda: None  # type: ignore[method-assign]
    socket = SampleSocket(daemon, daemon, DECODER, daemon.answer_frame, caller=ANYBODY, acks=True, elsewhere=elsewhere)
    for number in range(MAX_PENDING):
        assert await socket.take_batch([single(number)])
    waiting = asyncio.ensure_future(socket.take_batch([single(9)]))
    await answer_all()
    assert (elsewhere.begun, daemon.sent, waiting.done()) == (MAX_PENDING, [], False)
    for _ in range(MAX_PENDING):
        elsewhere._answers.pop()()
    assert await waiting
    assert [b"".join(daemon.sent).index(b'"id":%d' % number) for number in range(MAX_PENDING)] == sorted(
        b"".join(daemon.sent).index(b'"id":%d' % number) for number in range(MAX_PENDING)
    )
    assert daemon.waits == MAX_PENDING + 1, "an agent that does not read is not read from"


@pytest.mark.parametrize("begins", [True, False])
async def test_frames_are_refused_if_another_process_has_ended(begins: bool) -> None:
    daemon = Daemon()
    elsewhere = Elsewhere(daemon, [begins], random.Random(1), UnavailableError("a process has ended"))
    socket = SampleSocket(daemon, daemon, DECODER, daemon.answer_frame, caller=ANYBODY, acks=True, elsewhere=elsewhere)
    await socket.take_batch([single(1), single(2)])
    await answer_all()
    assert daemon.sent[0].count(b'"code":"unavailable"') == daemon.refused == 2
