"""Tests `streamd/cluster/rows/row_publisher.py` and `row_queue.py`.

One append at a time for each shard, and each row is in the log once.
"""

import asyncio
from collections.abc import AsyncIterator

import pytest

from streamd.cluster.rows.append_tickets import AppendWait
from streamd.cluster.rows.row_publisher import RowPublisher
from streamd.cluster.rows.row_queue import MAX_ROWS_MESSAGE_BYTES
from streamd.core.cluster.row_batches import iterate_sections, make_section
from streamd.core.errors import UnavailableError
from tests.support.made_log import MemoryLog, make_memory_log
from tests.support.shard_rig import NAMES


def make_publisher(log: MemoryLog, *, buffer_bytes: int = 2**20, timeout_seconds: float = 60.0) -> RowPublisher:
    return RowPublisher(log, NAMES, run="run", buffer_bytes=buffer_bytes, publish_timeout_seconds=timeout_seconds)


@pytest.fixture
def log() -> MemoryLog:
    return make_memory_log(NAMES, 2)


@pytest.fixture
async def publisher(log: MemoryLog) -> AsyncIterator[RowPublisher]:
    publisher = make_publisher(log)
    yield publisher
    await publisher.close()


def read_log(log: MemoryLog, shard: int = 0) -> list[list[bytes]]:
    """The sections of each message."""
    messages = log.broker.get_stream(NAMES.rows_stream(shard)).messages.values()
    return [[bytes(body) for _, body in iterate_sections(message.data)] for message in messages]


async def send(publisher: RowPublisher, *bodies: bytes, shard: int = 0) -> None:
    with AppendWait(publisher) as wait:
        for body in bodies:
            publisher.add_section(shard, make_section(1, body), wait.ticket)
        await wait.finish()


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_what_was_acked_is_in_the_log(log: MemoryLog, publisher: RowPublisher) -> None:
    await send(publisher, b"one", b"two")
    assert read_log(log) == [[b"one", b"two"]]
    assert publisher.queued_bytes == 0


async def test_what_comes_during_an_append_is_the_next_message(log: MemoryLog, publisher: RowPublisher) -> None:
    log.hold_answers = True
    senders = [asyncio.create_task(send(publisher, b"1"))]
    await turns()
    senders += [asyncio.create_task(send(publisher, body)) for body in (b"2", b"3")]
    other = asyncio.create_task(send(publisher, b"4", shard=1))
    await turns()
    assert (read_log(log), read_log(log, 1)) == ([[b"1"]], [[b"4"]]), "each shard appends for itself"
    assert not any(sender.done() for sender in (*senders, other))
    log.release()
    await asyncio.gather(*senders, other)
    assert read_log(log) == [[b"1"], [b"2", b"3"]]


async def test_messages_have_a_limit(log: MemoryLog, publisher: RowPublisher) -> None:
    body = b"x" * (MAX_ROWS_MESSAGE_BYTES // 2 - 100)
    await send(publisher, body, body, body)
    assert [len(message) for message in read_log(log)] == [2, 1]


async def test_an_append_whose_answer_was_lost_counts_once(log: MemoryLog, publisher: RowPublisher) -> None:
    log.lose_answers = 2
    await send(publisher, b"one")
    await send(publisher, b"two")
    assert read_log(log) == [[b"one"], [b"two"]]
    assert publisher.retries == 2


async def test_rows_wait_while_the_log_is_away_and_are_appended_later(log: MemoryLog, publisher: RowPublisher) -> None:
    log.broker.set_away(True)
    sender = asyncio.create_task(send(publisher, b"one"))
    await turns()
    assert (publisher.waiting_shards, sender.done()) == (1, False)
    log.broker.set_away(False)
    await sender
    assert read_log(log) == [[b"one"]]


async def test_a_sender_that_waited_too_long_is_told_so_and_its_rows_are_kept(log: MemoryLog) -> None:
    publisher = make_publisher(log, timeout_seconds=0.02)
    log.broker.set_away(True)
    with pytest.raises(UnavailableError, match=r"did not answer within 0\.02 s"):
        await send(publisher, b"one")
    assert (publisher.expired, publisher.queued_bytes > 0) == (1, True)
    log.broker.set_away(False)
    await publisher.wait_empty()
    assert read_log(log) == [[b"one"]]
    await publisher.close()


async def test_more_than_the_buffer_is_refused_at_once(log: MemoryLog) -> None:
    publisher = make_publisher(log, buffer_bytes=100)
    log.broker.set_away(True)
    first = asyncio.create_task(send(publisher, b"x" * 100))
    await turns()
    with pytest.raises(UnavailableError, match="buffer_mb"):
        await send(publisher, b"y")
    assert publisher.refused == 1
    log.broker.set_away(False)
    await first
    await send(publisher, b"y")
    assert len(read_log(log)) == 2
    await publisher.close()


async def test_a_full_log_refuses_and_later_takes_rows(log: MemoryLog, publisher: RowPublisher) -> None:
    stream = log.broker.get_stream(NAMES.rows_stream(0))
    plan = stream.plan
    stream.plan = type(plan)(name=plan.name, subjects=plan.subjects, max_bytes=10)
    with pytest.raises(UnavailableError, match="the row log of shard 0 is full"):
        await send(publisher, b"one" * 10)
    assert publisher.queued_bytes == 0
    stream.plan = plan
    await send(publisher, b"two")
    assert read_log(log) == [[b"two"]]


async def test_single_rows_of_all_senders_share_messages(log: MemoryLog, publisher: RowPublisher) -> None:
    answers: list[object] = []
    for number in range(3):
        ticket = publisher.open_ticket(answers.append)
        publisher.add_row(0, f"web-{number}", 1.0, b"\0" * 8, status=None, may_evict=False, ticket=ticket)
        ticket.settle()
    assert answers == []
    await publisher.wait_empty()
    assert answers == [None] * 3
    assert len(read_log(log)) == 1
    assert publisher.queued_bytes == 0


async def test_a_section_stays_behind_the_rows_before_it(log: MemoryLog, publisher: RowPublisher) -> None:
    with AppendWait(publisher) as wait:
        publisher.add_row(0, "web", 1.0, b"\0" * 8, status=None, may_evict=False, ticket=wait.ticket)
        publisher.add_section(0, make_section(3, b"web"), wait.ticket)
        publisher.add_row(0, "web", 2.0, b"\0" * 8, status=None, may_evict=True, ticket=wait.ticket)
        await wait.finish()
    message = log.broker.get_stream(NAMES.rows_stream(0)).messages[1].data
    assert [kind for kind, _ in iterate_sections(message)] == [1, 3, 1]


async def test_a_sender_that_leaves_changes_nothing_for_the_others(log: MemoryLog, publisher: RowPublisher) -> None:
    log.hold_requests = True
    leaving, staying = (asyncio.create_task(send(publisher, body)) for body in (b"1", b"2"))
    await turns()
    leaving.cancel()
    await asyncio.gather(leaving, return_exceptions=True)
    log.release()
    await staying
    assert read_log(log) == [[b"1", b"2"]]
    assert publisher.expired == 0


async def test_those_who_wait_are_told_when_the_node_stops(log: MemoryLog) -> None:
    publisher = make_publisher(log)
    log.broker.set_away(True)
    sender = asyncio.create_task(send(publisher, b"one"))
    await turns()
    await publisher.close()
    with pytest.raises(UnavailableError, match="has stopped"):
        await sender
    with pytest.raises(UnavailableError, match="is stopping"):
        await send(publisher, b"two")


async def test_answered_tickets_are_not_kept(log: MemoryLog) -> None:
    publisher = make_publisher(log)
    for _ in range(50):
        await send(publisher, b"one")
    assert len(publisher._tickets) == 1
    await publisher.close()
