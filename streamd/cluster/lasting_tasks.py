"""Starts tasks that last as long as their owner, which awaits them only at the end: no error in one may be silent."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import structlog

log = structlog.get_logger(__name__)


def start_task(coroutine: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
    """Run a coroutine beside the others, and log its error when it comes.

    The event loop would log the error only once its owner drops the task. The owner keeps the task, and cancels it.
    """
    task = asyncio.get_running_loop().create_task(coroutine)
    task.add_done_callback(_log_error)
    return task


def _log_error(task: "asyncio.Task[None]") -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("task_failed", task=str(task.get_coro()), error=repr(error), exc_info=error)
