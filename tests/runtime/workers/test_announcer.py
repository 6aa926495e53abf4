"""Tests `streamd/runtime/workers/announcer.py`: each worker hears of every forecast, a slow one of each slot once."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from streamd.runtime.service import Service
from streamd.runtime.workers.announcer import ForecastAnnouncer
from streamd.runtime.workers.messages import Message, Posted, Serving, unpack_slots
from streamd.runtime.workers.peers import Peers


class FakePeers:
    """One worker, number 0, that may be slow."""

    def __init__(self) -> None:
        self.sent: list[Message] = []
        self.is_slow = False
        self.presence = SimpleNamespace(here=[0])
        self.mail = SimpleNamespace(is_congested=lambda worker: self.is_slow)

    def send(self, target: int, message: Message) -> None:
        self.sent.append(message)

    def tell(self, message: Message) -> None:
        self.sent.append(message)


def make_announcer(peers: FakePeers) -> tuple[ForecastAnnouncer, Any]:
    service = SimpleNamespace(model="first", state=SimpleNamespace(board=SimpleNamespace(last_serial=0)))
    announcer = ForecastAnnouncer(cast("Peers", peers))
    announcer.open(cast("Service", service))
    return announcer, service


def publish(announcer: ForecastAnnouncer, service: Any, *slots: int) -> None:
    service.state.board.last_serial += len(slots)
    announcer.publish(np.array(slots, np.int64), 0.0)


def read(message: Message) -> tuple[list[int], int]:
    assert isinstance(message, Posted)
    return unpack_slots(message.slots).tolist(), message.last_serial


async def test_a_slow_worker_hears_of_each_slot_once_when_it_is_back() -> None:
    peers = FakePeers()
    announcer, service = make_announcer(peers)
    publish(announcer, service, 3, 1)
    peers.is_slow = True
    publish(announcer, service, 5, 1)
    await asyncio.sleep(0.01)
    publish(announcer, service, 1)
    publish(announcer, service)
    assert len(peers.sent) == 1
    peers.is_slow = False
    async with asyncio.timeout(5):
        while len(peers.sent) < 2:
            await asyncio.sleep(0.001)
    publish(announcer, service, 2)
    assert [read(message) for message in peers.sent] == [([3, 1], 2), ([1, 5], 5), ([2], 6)]


async def test_nothing_is_kept_for_a_worker_that_has_ended() -> None:
    peers = FakePeers()
    announcer, service = make_announcer(peers)
    peers.is_slow = True
    publish(announcer, service, 5)
    announcer.forget(0)
    peers.is_slow = False
    await asyncio.sleep(0.01)
    assert peers.sent == []


async def test_another_version_is_told_before_its_forecasts() -> None:
    peers = FakePeers()
    announcer, service = make_announcer(peers)
    service.model = "second"
    publish(announcer, service, 4)
    assert [type(message) for message in peers.sent] == [Serving, Posted]
