"""Lets one slice of work run in each turn of the event loop, however many bodies are being taken. Knows no bodies."""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Hashable

_Turns = deque[asyncio.Future[None]]


class LoopTurns:
    """The turns of the event loop, of which each goes to one of those who wait, fair between their owners.

    With `asyncio.sleep(0)` alone each of thirty bodies would run a slice in every turn, and what is between them, such
    as the answer to a health check, would wait thirty times as long. Without owners, a sender of a thousand bodies
    would get a thousand turns for each one of another sender.
    """

    def __init__(self) -> None:
        self._waiting: OrderedDict[Hashable, _Turns] = OrderedDict()
        self._is_begun_soon = False

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    async def wait(self, owner: Hashable = None) -> None:
        """Wait for the next free turn of an owner."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(owner, deque()).append(turn)
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
            owner, turns = self._waiting.popitem(last=False)
            turn = turns.popleft()
            if turns:
                self._waiting[owner] = turns
            if not turn.done():  # it is done if its wait was cancelled, which takes no turn
                turn.set_result(None)
                break
        if self._waiting:
            self._begin_soon()
