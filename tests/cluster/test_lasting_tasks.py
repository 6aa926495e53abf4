"""Tests `streamd/cluster/lasting_tasks.py`."""

import asyncio

from structlog.testing import capture_logs

from streamd.cluster.lasting_tasks import start_task


async def fail() -> None:
    raise ZeroDivisionError("a defect")


async def test_an_error_is_logged_when_it_comes_though_the_task_is_kept() -> None:
    with capture_logs() as logs:
        task = start_task(fail())
        await asyncio.wait([task])
        await asyncio.sleep(0)
    (line,) = logs
    assert (line["event"], line["log_level"]) == ("task_failed", "error")
    assert line["error"] == "ZeroDivisionError('a defect')"
    assert "fail" in line["task"]


async def test_a_task_that_ends_or_is_cancelled_logs_nothing() -> None:
    with capture_logs() as logs:
        done, cancelled = start_task(asyncio.sleep(0)), start_task(asyncio.sleep(60))
        await done
        cancelled.cancel()
        await asyncio.wait([cancelled])
        await asyncio.sleep(0)
    assert logs == []
