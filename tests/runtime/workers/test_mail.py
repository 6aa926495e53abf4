"""Tests `streamd/runtime/workers/mail.py`, `block.py` and `doorbell.py`: messages between processes, in their order."""

import asyncio
import os
from collections.abc import Iterator

import pytest

from streamd.core.state.layout import Column
from streamd.runtime.workers.block import WORKER_RING_BYTES, SharedBlock, make_block
from streamd.runtime.workers.doorbell import Doorbell, make_doorbell
from streamd.runtime.workers.mail import Mail

COLUMNS = (Column("numbers", "<i8"),)


class Office:
    """The mail of three processes, and what each has got."""

    def __init__(self) -> None:
        self.descriptor = make_block(COLUMNS, 4, 2)
        self.bells = [Doorbell(make_doorbell()) for _ in range(3)]
        self.blocks = [SharedBlock(self.descriptor, COLUMNS, 4, 2) for _ in range(3)]
        self.got: list[list[tuple[int, bytes]]] = [[], [], []]

    def open(self, number: int) -> Mail:
        mail = Mail(self.blocks[number], number, self.bells)
        mail.open(lambda source, message: self.got[number].append((source, message)))
        return mail

    async def wait(self, number: int, count: int) -> list[tuple[int, bytes]]:
        async with asyncio.timeout(5):
            while len(self.got[number]) < count:
                await asyncio.sleep(0.001)
        return self.got[number]


@pytest.fixture
def office() -> Iterator[Office]:
    """Three processes of one daemon; the test closes their mail."""
    office = Office()
    yield office
    for bell in office.bells:
        os.close(bell.descriptor)
    os.close(office.descriptor)


def test_every_process_sees_the_same_arrays(office: Office) -> None:
    office.blocks[0].arrays["numbers"][2] = 7
    assert office.blocks[2].arrays["numbers"].tolist() == [0, 0, 7, 0]


def test_each_pair_of_processes_has_its_own_rings(office: Office) -> None:
    pairs = [(source, target) for source in range(3) for target in range(3) if source != target]
    for number, pair in enumerate(pairs):
        office.blocks[0].get_ring(*pair)[:] = bytes([number]) * len(office.blocks[0].get_ring(*pair))
    for number, pair in enumerate(pairs):
        assert set(office.blocks[1].get_ring(*pair)) == {number}


async def test_messages_come_in_order_and_with_their_sender(office: Office) -> None:
    mails = [office.open(number) for number in range(3)]
    for number in range(200):
        mails[0].send(2, b"a%d" % number)
        mails[1].send(2, b"b%d" % number)
    got = await office.wait(2, 400)
    assert [message for source, message in got if source == 0] == [b"a%d" % number for number in range(200)]
    assert [message for source, message in got if source == 1] == [b"b%d" % number for number in range(200)]
    for mail in mails:
        mail.close()


async def test_what_finds_a_full_ring_waits_in_order(office: Office) -> None:
    sender = office.open(0)
    large = WORKER_RING_BYTES // 3
    for number in range(9):
        sender.send(1, bytes([number]) * large)
    assert sender.is_congested(1)
    assert not sender.is_congested(2)
    receiver = Mail(office.blocks[1], 1, office.bells)
    receiver.open(lambda source, message: office.got[1].append((source, message)))
    got = await office.wait(1, 7)  # the first two were for a former process
    assert [message[0] for _, message in got] == [2, 3, 4, 5, 6, 7, 8]
    assert not sender.is_congested(1)
    sender.close()
    receiver.close()


async def test_what_waits_for_a_process_that_is_gone_can_be_dropped(office: Office) -> None:
    sender = office.open(0)
    for _ in range(9):
        sender.send(1, bytes(WORKER_RING_BYTES // 3))
    sender.forget(1)
    assert not sender.is_congested(1)
    sender.close()


async def test_a_message_without_a_bell_is_found_all_the_same(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamd.runtime.workers.mail.MAIL_CHECK_SECONDS", 0.01)
    receiver, sender = office.open(1), office.open(0)
    monkeypatch.setattr(Doorbell, "ring", lambda self: None)  # killed before it rings
    sender.send(1, b"unannounced")
    assert await office.wait(1, 1) == [(0, b"unannounced")]
    sender.close()
    receiver.close()
