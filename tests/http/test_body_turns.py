"""Tests `streamd/http/body_turns.py`: one large body at a time, and each sender in its turn."""

import asyncio
from collections.abc import Generator

from hypothesis import given
from hypothesis import strategies as st

from streamd.http.body_turns import BodyTurns, finish_steps


class Bodies:
    """Bodies of several owners that want their turn."""

    def __init__(self) -> None:
        self.turns = BodyTurns()
        self.running: list[str] = []
        self.taken: list[str] = []
        self.ends: dict[str, asyncio.Event] = {}

    def start(self, owner: str, name: str) -> "asyncio.Task[None]":
        self.ends[name] = asyncio.Event()
        return asyncio.create_task(self._handle(owner, name))

    async def _handle(self, owner: str, name: str) -> None:
        async with self.turns.take_turn(owner):
            self.running.append(name)
            self.taken.append(name)
            try:
                await self.ends[name].wait()
            finally:
                self.running.remove(name)

    async def finish_running(self) -> None:
        self.ends[self.running[0]].set()
        await settle()


async def settle() -> None:
    """Let every task run as far as it can."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_one_body_is_handled_at_a_time_and_owners_take_turns() -> None:
    bodies = Bodies()
    tasks = [bodies.start("greedy", f"greedy-{number}") for number in range(4)]
    tasks += [bodies.start("a", "a-0"), bodies.start("b", "b-0"), bodies.start("a", "a-1")]
    await settle()
    for left in range(6, -1, -1):
        assert len(bodies.running) == 1
        assert len(bodies.turns) == left
        await bodies.finish_running()
    await asyncio.gather(*tasks)
    assert bodies.taken == ["greedy-0", "greedy-1", "a-0", "b-0", "greedy-2", "a-1", "greedy-3"]


async def test_who_stops_waiting_frees_the_place_at_once() -> None:
    bodies = Bodies()
    first, leaving, last = (bodies.start(owner, owner) for owner in ("first", "leaving", "last"))
    await settle()
    leaving.cancel()
    await settle()
    assert len(bodies.turns) == 1
    await bodies.finish_running()
    assert bodies.running == ["last"]
    await bodies.finish_running()
    await asyncio.gather(first, leaving, last, return_exceptions=True)
    assert bodies.taken == ["first", "last"]


@given(st.lists(st.sampled_from(["start a", "start b", "finish", "cancel", "finish and cancel", "step"]), max_size=30))
def test_no_turn_is_lost_or_given_twice(steps: list[str]) -> None:
    async def run() -> None:
        bodies = Bodies()
        tasks: list[asyncio.Task[None]] = []
        for number, step in enumerate(steps):
            if step.startswith("start"):
                tasks.append(bodies.start(step[-1], f"{step}-{number}"))
            if step.startswith("finish") and bodies.running:
                bodies.ends[bodies.running[0]].set()
            if step.endswith("cancel") and tasks:
                tasks[number % len(tasks)].cancel()
            if step != "finish and cancel":
                await asyncio.sleep(0)
            assert len(bodies.running) <= 1
        while not all(task.done() for task in tasks):
            await settle()
            if bodies.running:
                await bodies.finish_running()
        assert len(bodies.turns) == 0
        async with bodies.turns.take_turn("last"):
            pass

    asyncio.run(run())


async def test_other_tasks_run_between_the_steps() -> None:
    seen: list[int] = []

    def work() -> Generator[None, None, str]:
        for number in range(3):
            seen.append(number)
            yield
        return "result"

    task = asyncio.create_task(finish_steps(work()))
    await asyncio.sleep(0)
    assert seen == [0]
    assert await task == "result"
