"""Tests `streamd/runtime/workers/parcels.py`: every row is handed on once, in order, and each ticket answered once."""

import asyncio
import random
from array import array
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamd.core.access.caller import ANYBODY, Caller
from streamd.core.errors import InvalidTimeError, StreamdError, UnavailableError
from streamd.core.state.rows import PackedRow
from streamd.core.state.samples import CellSample
from streamd.runtime.workers import parcels
from streamd.runtime.workers.messages import HandOnRows, TakenRows
from streamd.runtime.workers.parcels import NO_STATUS, Errors, Parcels, Ticket, UsualRow

ME, FULL = 0, 3


class Others:
    """Workers that answer when `answer_one` is called, in any order among them; the slot of a sample says what comes.

    Slots from 20 on have to be taken by name, and those from 30 on are rejected then. Worker 9 is gone.
    """

    def __init__(self) -> None:
        self.slots: dict[int, list[int]] = {}
        self.open: list[Callable[[], None]] = []
        self.by_name: list[str] = []
        self.messages: list[HandOnRows] = []
        self.parcels = Parcels(ME, FULL, self.ask, self.take_rows, self.take_by_name)

    def ask(self, owner: int, make: Callable[[int], HandOnRows]) -> "asyncio.Future[TakenRows]":
        answer: asyncio.Future[TakenRows] = asyncio.get_running_loop().create_future()
        if owner == 9:
            answer.set_exception(UnavailableError("it has ended"))
            return answer
        message = make(7)
        others = self._take(owner, message)
        self.open.append(lambda: answer.set_result(TakenRows(7, others)))
        return answer

    def take_rows(self, message: HandOnRows) -> list[int]:
        return self._take(ME, message)

    def _take(self, owner: int, message: HandOnRows) -> list[int]:
        self.messages.append(message)
        slots = array("q", message.slots).tolist()
        assert array("I", message.checks).tolist() == [slot + 1 for slot in slots]
        assert array("d", message.times).tolist() == [slot + 0.5 for slot in slots]
        assert message.rows == b"".join(make_row(slot).data for slot in slots)
        self.slots.setdefault(owner, []).extend(slots)
        return [place for place, slot in enumerate(slots) if slot >= 20]

    async def take_by_name(self, samples: Sequence[CellSample[Any]], caller: Caller) -> Errors:
        await asyncio.sleep(0)
        self.by_name += [sample.server for sample in samples]
        return [InvalidTimeError("bad") if int(sample.server) >= 30 else None for sample in samples]

    def answer(self, pick: random.Random) -> None:
        while self.open:
            self.open.pop(pick.randrange(len(self.open)))()


def make_row(slot: int) -> PackedRow:
    return PackedRow(slot.to_bytes(8, "little"), FULL)


def make_usual(slot: int, status: int = NO_STATUS) -> UsualRow:
    return slot, slot + 1, slot + 0.5, make_row(slot), status


def add(others: Others, rows: Sequence[tuple[int, int]], answers: list[Any]) -> None:
    """Add a batch of `(owner, slot)`; its outcome will be appended to `answers`."""
    samples = [CellSample(str(slot), 0.0, msgspec.Struct()) for _, slot in rows]
    ticket = Ticket(samples, ANYBODY, answers.append)
    others.parcels.add(ticket, [owner for owner, _ in rows], [make_usual(slot) for _, slot in rows])


async def turn() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


BATCHES = st.lists(st.lists(st.tuples(st.sampled_from([0, 1, 2, 9]), st.integers(0, 39)), max_size=6), max_size=8)


@given(BATCHES, st.integers(0, 99))
async def test_every_batch_is_answered_once_and_rows_keep_their_order(
    batches: list[list[tuple[int, int]]], seed: int
) -> None:
    others, pick, outcomes = Others(), random.Random(seed), list[list[Any]]()
    for batch in batches:
        outcome: list[Any] = []
        outcomes.append(outcome)
        add(others, batch, outcome)
        if pick.random() < 0.5:
            await turn()
        if pick.random() < 0.5:
            others.answer(pick)
    for _ in range(2 * len(batches) + 2):
        await turn()
        others.answer(pick)
    for owner in (0, 1, 2):
        assert others.slots.get(owner, []) == [slot for batch in batches for each, slot in batch if each == owner]
    again = [str(slot) for batch in batches for owner, slot in batch if slot >= 20 and owner != 9]
    assert sorted(others.by_name) == sorted(again)
    for batch, outcome in zip(batches, outcomes, strict=True):
        (found,) = outcome
        if any(owner == 9 for owner, _ in batch):
            assert isinstance(found, UnavailableError)
            continue
        assert isinstance(found, list)
        expected = ["invalid_time" if slot >= 30 else None for _, slot in batch]
        assert [getattr(error, "code", None) for error in found] == (expected if any(expected) else [])


async def test_rows_of_one_turn_are_one_message_and_more_are_gathered_until_it_is_answered() -> None:
    others, answers = Others(), list[Any]()
    for slot in range(3):
        add(others, [(1, slot)], answers)
    await turn()
    assert [len(message.slots) // 8 for message in others.messages] == [3]
    for slot in range(3, 8):
        add(others, [(1, slot)], answers)
        await turn()
    assert len(others.messages) == 1
    others.answer(random.Random(0))
    await turn()
    assert [len(message.slots) // 8 for message in others.messages] == [3, 5]
    assert answers == [[]] * 3


@pytest.mark.parametrize(("rows", "count"), [(parcels.MANY_ROWS, 2), (parcels.MANY_ROWS - 1, 1)])
async def test_many_rows_do_not_wait_for_an_answer(rows: int, count: int) -> None:
    others, answers = Others(), list[Any]()
    add(others, [(1, 0)], answers)
    await turn()
    add(others, [(1, 1)] * rows, answers)
    await turn()
    assert len(others.messages) == count


async def test_a_message_has_a_bounded_size(monkeypatch: pytest.MonkeyPatch) -> None:
    others, answers = Others(), list[Any]()
    monkeypatch.setattr(parcels, "MAX_ROWS_BYTES", 80)
    add(others, [(1, slot) for slot in range(15)], answers)
    others.answer(random.Random(0))
    await turn()
    others.answer(random.Random(0))
    assert [len(message.rows) for message in others.messages] == [80, 40]
    await turn()
    assert answers == [[]]


async def test_a_mask_and_a_status_travel_with_their_row() -> None:
    others, answers = Others(), list[Any]()
    ticket = Ticket([CellSample("1", 0.0, msgspec.Struct())] * 2, ANYBODY, answers.append)
    lacking = (5, 6, 5.5, PackedRow(make_row(5).data, 1), 3)
    others.parcels.add(ticket, [0, 0], [make_usual(4), lacking])
    await turn()
    assert (others.messages[0].masks, others.messages[0].statuses) == ({1: 1}, {1: 3})
    assert answers == [[]]


async def test_an_empty_batch_is_answered_at_once() -> None:
    answers: list[Errors | StreamdError] = []
    add(Others(), [], answers)
    assert answers == [[]]
