"""Turns of the shards of a node to load: with hundreds at once, NATS answers none of them in time.

Decides nothing else: a shard that waits for its turn has its lease already.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

LOADING_AT_ONCE = 32

_TURN_SECONDS = 2.0
"""After it the next one begins too: a shard whose streams have no leader must not keep others waiting."""


class LoadTurns:
    """The turns of one node's shards."""

    def __init__(self, count: int = LOADING_AT_ONCE, seconds: float = _TURN_SECONDS) -> None:
        self._permits = asyncio.Semaphore(count)
        self._seconds = seconds

    @asynccontextmanager
    async def take(self) -> AsyncGenerator[None]:
        """Wait for a turn, and give it back at the end of the block, or some seconds later if that comes first."""
        await self._permits.acquire()
        is_over = False

        def end() -> None:
            nonlocal is_over
            if not is_over:
                is_over = True
                self._permits.release()

        timer = asyncio.get_running_loop().call_later(self._seconds, end)
        try:
            yield
        finally:
            timer.cancel()
            end()
