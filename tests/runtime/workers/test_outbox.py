"""Tests `streamd/runtime/workers/outbox.py`: every message of samples that are handed on by name fits into a ring."""

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest

from streamd.core.state.rows import RowReader
from streamd.core.state.samples import CellSample
from streamd.runtime.workers.block import WORKER_RING_BYTES
from streamd.runtime.workers.messages import HandOnSingles, TakenSingles
from streamd.runtime.workers.outbox import MAX_SINGLES, Outbox
from streamd.runtime.workers.worker_gate import WorkerGate

pytestmark = pytest.mark.asyncio


class AcceptingGate:
    """Stands for the gate: keeps each message, and answers that all of its samples were accepted."""

    def __init__(self) -> None:
        self.messages: list[HandOnSingles] = []

    def ask(self, owner: int, make: Callable[[int], HandOnSingles]) -> "asyncio.Future[TakenSingles]":
        self.messages.append(make(len(self.messages)))
        answer: asyncio.Future[TakenSingles] = asyncio.get_running_loop().create_future()
        answer.set_result(TakenSingles(len(self.messages), []))
        return answer


@pytest.mark.parametrize("features", [1, 14, 1_000])
async def test_a_message_of_samples_fits_into_a_ring(features: int) -> None:
    names = [f"feature_{place}" for place in range(features)]
    cells: Any = RowReader(names).cells_type
    sample = CellSample("s" * 256, 1_700_000_000.5, cells(*([1.2345678] * features)))
    gate = AcceptingGate()
    outbox = Outbox(cast(WorkerGate, gate))
    batch = [sample] * max(min(32, 16_384 // (20 * features)), 1)  # frames of a batch have 16 KiB together

    answers = [outbox.hand_on(1, batch, may_evict=False) for _ in range(100)]

    assert await asyncio.gather(*answers) == [[]] * 100
    assert max(len(message.samples) for message in gate.messages) < WORKER_RING_BYTES // 2
    assert len(gate.messages) >= 100 * len(batch) // (MAX_SINGLES + 32)
