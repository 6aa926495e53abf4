"""Tests `streamd/cluster/long_answers.py`: answers of any size come whole, and few are kept for a short time."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamd.cluster.log import NoAnswerError
from streamd.cluster.long_answers import KEPT_SECONDS, MAX_KEPT, LongAnswers, ask
from tests.support.made_log import MemoryLog
from tests.support.virtual_time import run_in_virtual_time


@given(size=st.integers(0, 60), part_bytes=st.integers(1, 20))
def test_an_answer_of_any_size_comes_whole(size: int, part_bytes: int) -> None:
    whole = bytes(range(size))

    async def answer(data: bytes) -> bytes:
        assert data == b"what?"
        return whole

    async def run() -> bytes:
        log = MemoryLog()
        await LongAnswers(answer, part_bytes=part_bytes).serve(log, "ask.a.x")
        return await ask(log.connect(), "ask.a.x", b"what?", timeout_seconds=1.0)

    assert run_in_virtual_time(run()) == whole


async def answer_long(_data: bytes) -> bytes:
    return b"0123456789"


async def test_the_rest_of_an_answer_is_not_kept_for_long() -> None:
    now = [0.0]
    answers = LongAnswers(answer_long, part_bytes=4, clock=lambda: now[0])
    log = MemoryLog()

    async def answer(data: bytes) -> bytes:
        answered = await answers.answer(data)
        now[0] += KEPT_SECONDS + 1
        return answered

    await log.serve("ask.a.x", answer)
    with pytest.raises(NoAnswerError, match="not kept any more"):
        await ask(log, "ask.a.x", b"", timeout_seconds=1.0)


async def test_the_oldest_of_many_answers_is_dropped() -> None:
    answers = LongAnswers(answer_long, part_bytes=4, clock=lambda: 0.0)
    log = MemoryLog()
    await answers.serve(log, "ask.a.x")
    begun = [await answers.answer(await _first_request()) for _ in range(MAX_KEPT + 5)]
    assert len({bytes(each) for each in begun}) == MAX_KEPT + 5
    assert len(answers._kept) == MAX_KEPT


async def _first_request() -> bytes:
    return b"\x93\xc4\x00\xa0\x00"


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x91\x01"])
async def test_bytes_that_are_no_request_are_refused(data: bytes) -> None:
    with pytest.raises(NoAnswerError, match="not one of this release"):
        await LongAnswers(answer_long).answer(data)
