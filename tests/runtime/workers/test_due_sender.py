"""Tests `streamd/runtime/workers/due_sender.py`: due servers in one message a turn, each once while the engine lags."""

import asyncio

import numpy as np

from streamd.runtime.workers.due_sender import DueSender
from streamd.runtime.workers.mail import Mail
from streamd.runtime.workers.messages import DueReport, decode_message, unpack_slots


class SlowMail(Mail):
    """Mail whose ring may be full; it records what is sent."""

    def __init__(self) -> None:
        self.is_full = False
        self.sent: list[dict[int, int]] = []

    def send(self, target: int, message: bytes) -> None:
        report = decode_message(message)
        assert isinstance(report, DueReport)
        self.sent.append(
            dict(zip(unpack_slots(report.slots).tolist(), unpack_slots(report.rows).tolist(), strict=True))
        )

    def is_congested(self, target: int) -> bool:
        return self.is_full


async def test_the_servers_of_one_turn_go_together() -> None:
    mail = SlowMail()
    sender = DueSender(mail, 2)
    assert len(sender.route_due_many(np.array([3, 4]))) == 0
    assert sender.route_due(7, 2)
    assert sender.route_due(7, 1)
    assert not sender.is_empty
    await asyncio.sleep(0)
    assert mail.sent == [{3: 1, 4: 1}, {7: 3}]
    assert sender.is_empty


async def test_while_the_engine_process_is_slow_rows_are_counted_and_none_is_lost() -> None:
    mail = SlowMail()
    sender = DueSender(mail, 2)
    mail.is_full = True
    for _ in range(3):
        sender.route_due_many(np.array([1, 2]))
        sender.route_due(2, 2)
        await asyncio.sleep(0.003)
    assert mail.sent == []
    mail.is_full = False
    async with asyncio.timeout(5):
        while not mail.sent:
            await asyncio.sleep(0.001)
    assert mail.sent == [{1: 3, 2: 9}]
