"""Lets one slice of work run in each turn of the event loop, however many bodies are being taken. Knows no bodies."""

import asyncio
from collections.abc import Hashable

from streamd.core.scheduling.owner_queue import OwnerQueue


class LoopTurns:
    """The turns of the event loop, of which each goes to one of those who wait, fair between their owners.

    With `asyncio.sleep(0)` alone each of thirty bodies would run a slice in every turn, and what is between them, such
    as the answer to a health check, would wait thirty times as long. Without owners, a sender of a thousand bodies
    would get a thousand turns for each one of another sender.
    """

    def __init__(self) -> None:
        self._waiting: OwnerQueue[asyncio.Future[None]] = OwnerQueue()
        self._is_begun_soon = False

    def __len__(self) -> int:
        return len(self._waiting)

    async def wait(self, owner: Hashable = None) -> None:
        """Wait for the next free turn of an owner."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(owner, turn)
        self._begin_soon()
        await turn

    def _begin_soon(self) -> None:
        if not self._is_begun_soon:
            self._is_begun_soon = True
            asyncio.get_running_loop().call_soon(self._begin)

    def _begin(self) -> None:
        """Give this turn to the oldest wait of the next owner, which moves behind all others."""
        self._is_begun_soon = False
        while self._waiting:
            turn = self._waiting.pop()
            if not turn.done():  # it is done if its wait was cancelled, which takes no turn
                turn.set_result(None)
                break
        if self._waiting:
            self._begin_soon()
