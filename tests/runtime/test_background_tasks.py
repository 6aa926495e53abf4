"""Tests `streamd/runtime/background_tasks.py`: tasks are held until they end."""

import asyncio
import gc

import pytest

from streamd.runtime.background_tasks import BackgroundTasks

pytestmark = pytest.mark.asyncio


async def test_a_task_is_held_until_it_ends() -> None:
    tasks, go, ended = BackgroundTasks(), asyncio.Event(), []

    async def work() -> None:
        await go.wait()
        ended.append(1)

    tasks.start(work())
    await asyncio.sleep(0)
    gc.collect()
    assert len(tasks) == 1
    go.set()
    await tasks.wait()
    assert ended == [1]
    assert len(tasks) == 0


async def test_a_wait_includes_what_begins_meanwhile_and_raises_no_error() -> None:
    tasks, ended = BackgroundTasks(), []

    async def second() -> None:
        ended.append("second")
        raise ValueError("nobody awaits it")

    async def first() -> None:
        tasks.start(second())

    tasks.start(first())
    await tasks.wait()
    assert ended == ["second"]
    assert len(tasks) == 0


async def test_cancelled_tasks_end() -> None:
    tasks = BackgroundTasks()
    tasks.start(asyncio.Event().wait())  # type: ignore[arg-type]
    tasks.cancel()
    await tasks.wait()
    assert len(tasks) == 0
