"""Tests `streamd/cluster/nodes/load_turns.py`: only some shards load at a time, and none keeps the others waiting."""

import asyncio

from streamd.cluster.nodes.load_turns import LoadTurns
from tests.support.virtual_time import run_in_virtual_time


async def load(turns: LoadTurns, seconds: float, ends: list[float]) -> None:
    async with turns.take():
        await asyncio.sleep(seconds)
    ends.append(asyncio.get_running_loop().time())


def test_so_many_load_at_a_time() -> None:
    async def test() -> None:
        began, ends, turns = asyncio.get_running_loop().time(), list[float](), LoadTurns(2, seconds=10.0)
        await asyncio.gather(*(load(turns, 1.0, ends) for _ in range(6)))
        assert [round(end - began) for end in ends] == [1, 1, 2, 2, 3, 3]

    run_in_virtual_time(test())


def test_one_that_takes_long_lets_the_next_one_begin_once() -> None:
    async def test() -> None:
        began, ends, turns = asyncio.get_running_loop().time(), list[float](), LoadTurns(1, seconds=2.0)
        await asyncio.gather(load(turns, 100.0, ends), *(load(turns, 1.0, ends) for _ in range(3)))
        assert [round(end - began) for end in ends] == [3, 4, 5, 100]
        ends.clear()
        began = asyncio.get_running_loop().time()
        await asyncio.gather(*(load(turns, 1.0, ends) for _ in range(2)))
        assert [round(end - began) for end in ends] == [1, 2], "what ended late gave its turn back once"

    run_in_virtual_time(test())


def test_one_that_is_cut_off_gives_its_turn_back() -> None:
    async def test() -> None:
        turns, ends = LoadTurns(1, seconds=10.0), list[float]()
        first = asyncio.create_task(load(turns, 5.0, ends))
        waiting = asyncio.create_task(load(turns, 5.0, ends))
        await asyncio.sleep(0.1)
        for task in (waiting, first):
            task.cancel()
        await asyncio.gather(first, waiting, return_exceptions=True)
        began = asyncio.get_running_loop().time()
        await load(turns, 1.0, ends)
        assert round(ends[0] - began) == 1

    run_in_virtual_time(test())
