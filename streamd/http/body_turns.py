"""Large bodies are decoded and taken one at a time, and their senders take turns. Knows no bodies and no requests."""

import asyncio
from collections.abc import AsyncIterator, Generator, Hashable
from contextlib import asynccontextmanager
from typing import TypeVar

from streamd.core.scheduling.owner_queue import OwnerQueue

T = TypeVar("T")

LARGE_BODY_BYTES = 2**18
"""Bodies and frames from this size on are decoded in turns and in steps. As a whole, a smaller one takes 2 ms, and one
of empty samples 8 ms."""


class BodyTurns:
    """The turn to decode and take a large body.

    Eight bodies of 8 MB that are decoded side by side take eight times the memory, and none is ready before all are
    nearly ready. One after another, the first is ready after an eighth of the time. Each owner that waits gets its turn
    before any gets another one, so a sender of many bodies waits for its own.
    """

    def __init__(self) -> None:
        self._is_taken = False
        self._waiting: OwnerQueue[asyncio.Future[None]] = OwnerQueue()

    def __len__(self) -> int:
        return len(self._waiting)

    @asynccontextmanager
    async def take_turn(self, owner: Hashable) -> AsyncIterator[None]:
        """Wait until no other body is being decoded and this owner has its turn; a cancelled wait frees its place."""
        await self._wait(owner)
        try:
            yield
        finally:
            self._pass_on()

    async def _wait(self, owner: Hashable) -> None:
        if not self._is_taken:
            self._is_taken = True
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(owner, turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._pass_on()  # it was its turn when it was cancelled
            else:
                self._waiting.discard(owner, turn)
            raise

    def _pass_on(self) -> None:
        """Give the turn to the next owner, which moves behind all others."""
        while self._waiting:
            turn = self._waiting.pop()
            if not turn.done():  # it is done if its wait was cancelled just now
                turn.set_result(None)
                return
        self._is_taken = False


async def finish_steps(steps: Generator[None, None, T]) -> T:
    """Do work in steps, between which the event loop may run; returns its result."""
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            result: T = stop.value
            return result
        await asyncio.sleep(0)
