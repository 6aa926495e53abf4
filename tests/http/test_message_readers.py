"""Tests `streamd/http/message_readers.py`: messages that are buffered become batches, in their order.

Real sockets are in `routes/test_ingest_socket.py` and `test_connections.py`.
"""

from collections import deque

from aiohttp import WSMessage, WSMsgType
from hypothesis import given
from hypothesis import strategies as st

from streamd.http.message_readers import BATCHED_BYTES, BatchReader
from streamd.http.turn_reader import SMALL_BYTES


class BufferedQueue:
    """The queue of messages that aiohttp has parsed."""

    def __init__(self, messages: list[WSMessage]) -> None:
        self._buffer = deque((message, len(message.data)) for message in messages)

    async def read(self) -> WSMessage:
        return self._buffer.popleft()[0]


class OneByOne:
    """Reads the first message of each batch, as `FrameReader` does: it answers pings itself."""

    def __init__(self, queue: BufferedQueue) -> None:
        self._queue = queue
        self.noted = 0

    async def __anext__(self) -> WSMessage:
        while self._queue._buffer:
            message = await self._queue.read()
            if message.type is WSMsgType.CLOSE:
                break
            if message.type is not WSMsgType.PING:
                return message
        raise StopAsyncIteration

    def note_read(self, messages: int) -> None:
        self.noted += messages


def make_message(kind: WSMsgType, size: int) -> WSMessage:
    return WSMessage(kind, "x" * size if kind is WSMsgType.TEXT else bytes(size), None)


DATA = st.builds(
    make_message,
    st.sampled_from([WSMsgType.TEXT, WSMsgType.BINARY]),
    st.sampled_from([0, 1, 100, 2_000, SMALL_BYTES - 1, SMALL_BYTES, 20_000]),
)
CONTROL = st.builds(make_message, st.sampled_from([WSMsgType.PING, WSMsgType.CLOSE]), st.just(2))


@given(st.lists(DATA | DATA | DATA | CONTROL, max_size=60), st.sampled_from([1, 3, 32]))
async def test_batches_have_the_messages_in_order_and_within_limits(messages: list[WSMessage], most: int) -> None:
    queue = BufferedQueue(messages)
    frames = OneByOne(queue)
    batches = [batch async for batch in BatchReader(frames, queue, most)]  # type: ignore[arg-type]
    closes = [place for place, message in enumerate(messages) if message.type is WSMsgType.CLOSE]
    read = messages[: closes[0]] if closes else messages
    expected = [message for message in read if message.type is not WSMsgType.PING]
    assert [message for batch in batches for message in batch] == expected
    for batch in batches:
        assert len(batch) <= most
        sizes = [len(message.data) for message in batch]
        assert all(size < SMALL_BYTES for size in sizes[1:]), "a large message begins a batch"
        assert sum(sizes[:-1]) < BATCHED_BYTES or len(batch) == 1
    assert frames.noted == len(expected) - len(batches)


async def test_small_messages_that_are_buffered_are_one_batch() -> None:
    queue = BufferedQueue([make_message(WSMsgType.TEXT, 200) for _ in range(40)])
    sizes = [len(batch) async for batch in BatchReader(OneByOne(queue), queue, 32)]  # type: ignore[arg-type]
    assert sizes == [32, 8]
