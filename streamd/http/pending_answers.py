"""Answers to frames that are taken by other processes: sent in the order of the frames, whoever answers first."""

import asyncio
from collections import deque
from collections.abc import Callable


class PendingAnswer:
    """The answer to some frames, once it is there; `answer` is empty if they get none."""

    __slots__ = ("_send", "answer")

    def __init__(self, send: Callable[[], None]) -> None:
        self.answer: bytes | None = None
        self._send = send

    def give(self, answer: bytes) -> None:
        """Give the answer; it is sent as soon as those before it are."""
        self.answer = answer
        self._send()


class PendingAnswers:
    """The answers of one socket that are not sent yet; `write` sends some at once."""

    def __init__(self, write: Callable[[bytes], None]) -> None:
        self._write = write
        self._pending: deque[PendingAnswer] = deque()
        self._waiter: asyncio.Future[None] | None = None

    def __len__(self) -> int:
        return len(self._pending)

    def expect(self) -> PendingAnswer:
        """Return the place of the next answer."""
        pending = PendingAnswer(self._send)
        self._pending.append(pending)
        return pending

    async def wait_below(self, count: int) -> None:
        """Wait until fewer than `count` answers are expected."""
        while len(self._pending) >= count:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter

    def _send(self) -> None:
        pending, ready = self._pending, []
        while pending and (answer := pending[0].answer) is not None:
            ready.append(answer)
            pending.popleft()
        if any(ready):
            self._write(b"".join(ready))
        if ready and self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
