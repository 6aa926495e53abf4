"""Tests `streamd/runtime/workers/ring.py`: against a naive queue, with ends that die and start again."""

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamd.runtime.workers.ring import RING_HEADER_BYTES, RingReader, RingWriter
from tests.support.killed_lines import run_killed

SIZE = 128
MESSAGES = st.binary(max_size=SIZE // 2)
RING = "streamd.runtime.workers.ring"


def make_buffer(size: int = SIZE) -> memoryview:
    return memoryview(bytearray(RING_HEADER_BYTES + size))


def read_all(reader: RingReader) -> list[bytes]:
    messages = []
    while (message := reader.pop()) is not None:
        messages.append(message)
    return messages


def test_messages_come_in_order_and_wrap_around() -> None:
    buffer = make_buffer()
    writer, reader = RingWriter(buffer), RingReader(buffer)
    for number in range(100):
        assert writer.push(bytes([number]) * (number % 50))
        assert reader.pop() == bytes([number]) * (number % 50)
    assert reader.pop() is None


def test_a_full_ring_refuses_and_changes_nothing() -> None:
    buffer = make_buffer()
    writer, reader = RingWriter(buffer), RingReader(buffer)
    assert writer.push(b"a" * 60)
    assert not writer.push(b"b" * 60)
    assert writer.push(b"c" * 40)
    assert read_all(reader) == [b"a" * 60, b"c" * 40]
    assert writer.free == SIZE


def test_a_message_that_never_fits_is_an_error() -> None:
    writer = RingWriter(make_buffer())
    with pytest.raises(ValueError, match="has 121 bytes, and the ring has space for 120"):
        writer.push(bytes(121))


def test_each_end_counts_the_processes_at_the_other_one() -> None:
    buffer = make_buffer()
    writer = RingWriter(buffer)
    readers = [RingReader(buffer), RingReader(buffer)]
    assert writer.readers == 2
    assert readers[0].writers == 1
    RingWriter(buffer)
    assert readers[1].writers == 2


def test_a_new_reader_can_drop_what_was_for_the_former_one() -> None:
    buffer = make_buffer()
    writer = RingWriter(buffer)
    writer.push(b"old")
    reader = RingReader(buffer)
    reader.skip_all()
    writer.push(b"new")
    assert read_all(reader) == [b"new"]


def test_a_message_that_is_not_wholly_visible_yet_is_left_for_later() -> None:
    buffer = make_buffer()
    writer, reader = RingWriter(buffer), RingReader(buffer)
    writer.push(b"12345678")
    place = RING_HEADER_BYTES + 8
    buffer[place : place + 1] = b"0"
    assert reader.pop() is None
    buffer[place : place + 1] = b"1"
    assert reader.pop() == b"12345678"


@given(st.lists(st.one_of(MESSAGES, st.sampled_from(["pop", "new writer", "new reader", "skip"]))))
def test_a_ring_is_a_bounded_queue(actions: list[bytes | str]) -> None:
    buffer = make_buffer()
    writer, reader, naive = RingWriter(buffer), RingReader(buffer), deque[bytes]()
    for action in actions:
        if isinstance(action, bytes):
            taken = sum(8 + -(-len(each) // 8) * 8 for each in (*naive, action))
            assert writer.push(action) == (taken <= SIZE)
            if taken <= SIZE:
                naive.append(action)
        elif action == "pop":
            assert reader.pop() == (naive.popleft() if naive else None)
        elif action == "new writer":
            writer = RingWriter(buffer)
        elif action == "new reader":
            reader = RingReader(buffer)
        else:
            reader.skip_all()
            naive.clear()
    assert read_all(reader) == list(naive)


@given(st.lists(MESSAGES, min_size=1, max_size=4), MESSAGES)
def test_a_writer_killed_anywhere_leaves_the_message_whole_or_absent(before: list[bytes], message: bytes) -> None:
    lines, was_stopped = 0, True
    while was_stopped:
        buffer = make_buffer(4 * SIZE)
        writer, reader = RingWriter(buffer), RingReader(buffer)
        for each in before:  # moves the positions, so that some messages wrap around
            writer.push(each * 2)
            reader.pop()
        was_stopped = run_killed(lambda writer=writer: writer.push(message), lines, RING)  # type: ignore[misc]
        assert RingWriter(buffer).push(b"the next one")
        assert read_all(reader) in ([message, b"the next one"], [b"the next one"])
        lines += 1


@given(st.lists(MESSAGES, min_size=1, max_size=4))
def test_a_reader_killed_anywhere_takes_a_message_once_or_leaves_it(messages: list[bytes]) -> None:
    lines, was_stopped = 0, True
    while was_stopped:
        buffer = make_buffer(4 * SIZE)
        writer = RingWriter(buffer)
        for each in messages:
            writer.push(each)
        was_stopped = run_killed(RingReader(buffer).pop, lines, RING)
        assert read_all(RingReader(buffer)) in (messages, messages[1:])
        lines += 1
