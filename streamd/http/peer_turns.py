"""Fair turns of the event loop between connections: in each turn of the loop the work for peers has a time limit.

A peer that has more work than fits waits in one queue with the others. Knows the loop and a clock, no connections.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable

TURN_SECONDS = 0.004
"""The time for the work of peers in one turn of the loop. What has begun is finished, so a turn may take longer."""

FRAMES_A_SLICE = 64
"""A peer that has handled so many frames in a row lets those that wait go first, even if the turn is not over."""

WAKES_A_TURN = 8
"""Handlers that are woken in one turn. They run in the next one, so what they will take is not known yet."""

Waiter = asyncio.Future[None] | Callable[[], None]


class PeerTurns:
    """The turns of one event loop, shared by all connections.

    Without it, one connection of tiny frames keeps the loop for as long as frames are buffered, and many connections
    keep it for the sum. `runtime/loop_turns.py` gives each waiter a whole turn, which fits slices of large
    bodies; here as many fit into a turn as its time allows, because a tiny frame takes 10 us.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter, turn_seconds: float = TURN_SECONDS) -> None:
        self._clock = clock
        self._turn_seconds = turn_seconds
        self._ends_at: float | None = None
        """The time at which the current turn is over; `None` until something is done in it."""
        self._is_begun_soon = False
        self._waiting: deque[Waiter] = deque()
        self._small: deque[Callable[[], None]] = deque()
        self._returned: deque[Waiter] = deque()
        """Handlers that were woken too late in their turn; they come before those in `_waiting`."""
        self.number = 0
        """The turns that have begun since the start."""
        self.waits = 0
        """Waits since the start."""

    def __len__(self) -> int:
        return len(self._waiting) + len(self._returned) + len(self._small)

    def is_over(self, reserved_seconds: float = 0.0) -> bool:
        """Whether the time of this turn is used up, but for a reserve; what comes next has to wait then.

        The first call in a turn is never late.
        """
        now = self._clock()
        if self._ends_at is None:
            self._ends_at = now + self._turn_seconds
            self._begin_soon()
            return False
        return now >= self._ends_at - reserved_seconds

    async def wait(self) -> None:
        """Wait for a later turn, behind all that wait already."""
        self.waits += 1
        await self._wait_in(self._waiting)
        while self.is_over():  # others that were woken in the same turn have used it up
            await self._wait_in(self._returned)

    async def _wait_in(self, queue: "deque[Waiter]") -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        queue.append(future)
        self._begin_soon()
        await future

    def call_in_turn(self, callback: Callable[[], None], *, is_small: bool = False) -> None:
        """Call a function in a later turn, behind all that wait already; a small piece of work behind small ones only.

        So a request that is read while others flood is not behind 64 KiB of each of them.
        """
        self.waits += 1
        (self._small if is_small else self._waiting).append(callback)
        self._begin_soon()

    def _begin_soon(self) -> None:
        if not self._is_begun_soon:
            self._is_begun_soon = True
            asyncio.get_running_loop().call_soon(self._begin)

    def _begin(self) -> None:
        """Begin a turn: run and wake those that wait, as many as fit.

        Small work may take half of the time, so that a flood of it does not stop the rest.
        """
        self._is_begun_soon = False
        self._ends_at = None
        self.number += 1
        while self._small and not self.is_over(self._turn_seconds / 2):
            self._small.popleft()()
        woken = 0
        while (queue := self._returned or self._waiting) and woken < WAKES_A_TURN and not self.is_over():
            waiter = queue.popleft()
            if not isinstance(waiter, asyncio.Future):
                waiter()
            elif not waiter.done():
                waiter.set_result(None)
                woken += 1
        if len(self):
            self._begin_soon()


class FrameSlices:
    """The frames of one connection, handled in slices; see `PeerTurns`."""

    __slots__ = ("_handled", "_turns")

    def __init__(self, turns: PeerTurns) -> None:
        self._turns = turns
        self._handled = 0

    def is_over(self, frames: int) -> bool:
        """Whether the connection has to `wait`, after so many more frames."""
        self._handled += frames
        if self._handled < FRAMES_A_SLICE:
            return self._turns.is_over()
        self._handled = 0
        return self._turns.is_over() or len(self._turns) > 0

    async def wait(self) -> None:
        """Wait for the turn of the next slice."""
        self._handled = 0
        await self._turns.wait()
