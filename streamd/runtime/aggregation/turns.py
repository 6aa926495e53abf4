"""Lets one slice of work run in each turn of the event loop, however many bodies are being taken. Knows no bodies."""

import asyncio


class LoopTurns:
    """The turns of the event loop, of which each goes to one of those who wait, the first to come first.

    With `asyncio.sleep(0)` alone each of thirty bodies would run a slice in every turn, and what is between them, such
    as the answer to a health check, would wait thirty times as long.
    """

    def __init__(self) -> None:
        self._lock = asyncio.Lock()

    async def wait(self) -> None:
        """Wait for the next turn that is free."""
        async with self._lock:
            await asyncio.sleep(0)
