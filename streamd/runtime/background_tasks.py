"""Tasks that nobody awaits: the event loop itself would not keep them alive."""

import asyncio
from collections.abc import Coroutine
from typing import Any


class BackgroundTasks:
    """The tasks of one owner, each held until it ends."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def start(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine beside the others."""
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def cancel(self) -> None:
        """Cancel all of them; they end later."""
        for task in self._tasks:
            task.cancel()

    async def wait(self) -> None:
        """Wait until none is left, those that begin meanwhile included; their errors are not raised."""
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)
