"""Tests `streamd/runtime/loop_turns.py`: one slice of work in each turn of the event loop."""

import asyncio

from streamd.runtime.loop_turns import LoopTurns


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


async def test_a_sender_of_many_bodies_gets_no_more_turns_than_one_of_a_single_body() -> None:
    turns, order = LoopTurns(), list[str]()

    async def work(owner: str) -> None:
        for _ in range(3):
            await turns.wait(owner)
            order.append(owner)

    many = [asyncio.create_task(work("many")) for _ in range(20)]
    await asyncio.sleep(0)
    await work("single")
    assert order.count("many") <= 4
    await asyncio.gather(*many)
    assert (order.count("many"), len(turns)) == (60, 0)


async def test_cancelled_waits_take_no_turn_and_stop_nobody() -> None:
    turns, order = LoopTurns(), list[str]()

    async def work(name: str) -> None:
        await turns.wait(name)
        order.append(name)

    cancelled = [asyncio.create_task(work("a")) for _ in range(50)]
    last = asyncio.create_task(work("b"))
    await asyncio.sleep(0)
    assert len(turns) == 51
    for task in cancelled:
        task.cancel()
    for _ in range(4):
        await asyncio.sleep(0)
    assert (order, len(turns), last.done()) == (["b"], 0, True)
    await asyncio.gather(*cancelled, return_exceptions=True)
