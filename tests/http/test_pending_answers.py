"""Tests `streamd/http/pending_answers.py`: the order of what is sent is that of what was expected."""

import asyncio
import random

from hypothesis import given
from hypothesis import strategies as st

from streamd.http.pending_answers import PendingAnswers


@given(st.lists(st.binary(max_size=2), max_size=8), st.randoms(use_true_random=False))
def test_answers_are_sent_in_order_as_soon_as_those_before_them_are(answers: list[bytes], pick: random.Random) -> None:
    sent: list[bytes] = []
    pending = PendingAnswers(sent.append)
    places = [pending.expect() for _ in answers]
    given_so_far: set[int] = set()
    for number in pick.sample(range(len(answers)), len(answers)):
        places[number].give(answers[number])
        given_so_far.add(number)
        first_missing = next(each for each in range(len(answers) + 1) if each not in given_so_far)
        assert b"".join(sent) == b"".join(answers[:first_missing])
        assert len(pending) == len(answers) - first_missing
    assert all(sent), "nothing is sent for frames without an answer"


async def test_a_wait_ends_when_enough_are_sent() -> None:
    pending = PendingAnswers(lambda data: None)
    first, second = pending.expect(), pending.expect()
    waiting = asyncio.ensure_future(pending.wait_below(1))
    second.give(b"second")
    await asyncio.sleep(0)
    assert not waiting.done()
    first.give(b"first")
    await waiting
    await pending.wait_below(1)
