"""Tests `benchmarks/floods/daemon.py`: the log of the turns of a loop."""

import asyncio
import io
import json
import time

from benchmarks.floods.daemon import PERIOD_SECONDS, TurnLog

BUSY_SECONDS = 0.03


async def test_the_longest_turn_of_a_loop_is_logged_by_its_cpu_time() -> None:
    file = io.StringIO()

    async def run_busily() -> int:
        end = time.thread_time() + BUSY_SECONDS
        while time.thread_time() < end:
            pass
        while not file.getvalue():
            await asyncio.sleep(PERIOD_SECONDS / 10)
        return 0

    assert await TurnLog(file).run(run_busily()) == 0
    first = json.loads(file.getvalue().splitlines()[0])
    assert first["cpu"] >= BUSY_SECONDS
    assert first["wall"] >= BUSY_SECONDS
