"""Tests `streamd/http/partial_messages.py` against aiohttp's own parser: what it holds of unfinished messages."""

import asyncio
import struct
from collections.abc import Sequence

from aiohttp._websocket.reader import WebSocketDataQueue, WebSocketReader
from hypothesis import given
from hypothesis import strategies as st

from streamd.http.partial_messages import INEXACT_BYTES, READ_OVERHEAD_BYTES, PartialMessage

TEXT, BINARY, CONTINUATION, PING = 1, 2, 0, 9


class StillProtocol:
    """A connection that is never paused."""

    _reading_paused = False

    def pause_reading(self) -> None:
        """Do nothing."""

    def resume_reading(self) -> None:
        """Do nothing."""


def make_frame(content: bytes, opcode: int = TEXT, is_final: bool = True) -> bytes:
    """Make a frame that is masked with zeros."""
    first = bytes([opcode | (0x80 if is_final else 0)])
    if len(content) < 126:
        size = bytes([0x80 | len(content)])
    elif len(content) < 2**16:
        size = b"\xfe" + struct.pack(">H", len(content))
    else:
        size = b"\xff" + struct.pack(">Q", len(content))
    return first + size + bytes(4) + content


class Receiver:
    """aiohttp's parser with its queue, and what is counted beside it."""

    def __init__(self) -> None:
        loop = asyncio.new_event_loop()
        self.queue = WebSocketDataQueue(StillProtocol(), 2**18, loop=loop)  # type: ignore[arg-type]
        loop.close()
        self.parser = WebSocketReader(self.queue, 2**22, False, True)
        self.partial = PartialMessage()
        self.partial.watch_queue(self.queue)

    def receive(self, data: bytes) -> bool:
        self.partial.begin_read()
        self.parser.feed_data(data)
        return self.partial.end_read(len(data))

    def read_all(self) -> int:
        """Read the messages that are complete; returns their number."""
        count = len(self.queue._buffer)
        for _ in range(count):
            read_one(self.queue)
        return count


def read_one(queue: WebSocketDataQueue) -> None:
    """Read a message that is there, without a loop."""
    try:
        queue.read().send(None)
    except StopIteration:
        return


def test_what_is_unfinished_is_counted_until_it_is_complete() -> None:
    receiver = Receiver()
    frame = make_frame(b"x" * 100_000)
    assert not receiver.receive(frame[:60_000])
    assert receiver.partial.held_bytes == 60_000 + READ_OVERHEAD_BYTES
    assert not receiver.receive(frame[60_000:90_000])
    assert receiver.partial.held_bytes == 90_000 + 2 * READ_OVERHEAD_BYTES
    assert receiver.receive(frame[90_000:])
    assert receiver.partial.held_bytes == 0
    assert receiver.partial.unread_bytes == 100_000 + 128


def test_single_bytes_count_as_much_as_they_hold() -> None:
    receiver = Receiver()
    for byte in make_frame(b"x" * 200)[:-1]:
        receiver.receive(bytes([byte]))
    assert receiver.partial.held_bytes >= 200 * READ_OVERHEAD_BYTES
    receiver.receive(b"x")
    assert receiver.partial.held_bytes == 0


def test_fragments_are_counted_until_the_last_one_and_pings_between_them_hide_nothing() -> None:
    receiver = Receiver()
    receiver.receive(make_frame(b"x" * 50_000, is_final=False))
    for _ in range(10):
        receiver.receive(make_frame(b"", PING) + make_frame(b"x" * 50_000, CONTINUATION, is_final=False))
        receiver.receive(make_frame(b"", PING) * 200)
    assert 550_000 <= receiver.partial.held_bytes <= 560_000
    receiver.receive(make_frame(b"", CONTINUATION))
    assert receiver.partial.held_bytes == 0


def test_the_begin_of_the_next_message_is_counted_with_the_end_of_the_last() -> None:
    receiver = Receiver()
    frame = make_frame(b"x" * 60_000, BINARY)
    receiver.receive(frame[:30_000])
    assert receiver.receive(frame[30_000:] + frame[:20_000])
    assert 20_000 <= receiver.partial.held_bytes <= 20_000 + 2 * READ_OVERHEAD_BYTES


def test_frames_of_usual_size_leave_nothing_over_however_many_come() -> None:
    receiver = Receiver()
    for number in range(500):
        receiver.receive(b"".join(make_frame(b"x" * (80 + (number * 7 + place) % 90)) for place in range(20)))
        receiver.read_all()
        assert receiver.partial.held_bytes == 0


@given(
    messages=st.lists(st.lists(st.integers(0, 20_000), min_size=1, max_size=4), min_size=1, max_size=6),
    cuts=st.lists(st.integers(1, 30_000), max_size=20),
)
def test_however_frames_are_cut_the_count_is_near_to_the_truth(messages: list[list[int]], cuts: Sequence[int]) -> None:
    """`messages` has the sizes of the fragments of each message, `cuts` the sizes of the reads."""
    stream, ends = b"", [0]
    for sizes in messages:
        for place, size in enumerate(sizes):
            opcode = CONTINUATION if place else TEXT
            stream += make_frame(b"x" * size, opcode, is_final=place == len(sizes) - 1)
        ends.append(len(stream))
    receiver, at, reads = Receiver(), 0, 0
    for cut in [*cuts, len(stream)]:
        data = stream[at : at + cut]
        if not data:
            break
        receiver.receive(data)
        receiver.read_all()
        at, reads = at + len(data), reads + 1
        unfinished = at - max(end for end in ends if end <= at)
        error = receiver.partial.held_bytes - unfinished
        assert -INEXACT_BYTES <= error <= READ_OVERHEAD_BYTES * reads + 14 * sum(map(len, messages))
