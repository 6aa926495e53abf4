"""Tests `streamd/runtime/aggregation/turns.py`: one slice of work in each turn of the event loop."""

import asyncio

from streamd.runtime.aggregation.turns import LoopTurns


async def test_bodies_take_turns_and_others_come_in_between() -> None:
    turns, order = LoopTurns(), list[str]()

    async def work(name: str) -> None:
        for _ in range(3):
            await turns.wait()
            order.append(name)

    async def answer() -> None:
        await asyncio.sleep(0)
        order.append("answer")

    await asyncio.gather(*(work(name) for name in "abcdefgh"), answer())
    assert order.index("answer") <= 1
    works = [each for each in order if each != "answer"]
    assert works == list("abcdefgh") * 3
