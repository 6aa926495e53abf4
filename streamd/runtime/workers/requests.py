"""Requests to other processes that wait for an answer. Sends nothing itself."""

import asyncio
import os
from typing import Any

from streamd.core.errors import StreamdError


class Requests:
    """The requests of one process, by number.

    Numbers begin at a random one: an answer to the process that had this place before belongs to no request here.
    """

    def __init__(self) -> None:
        self._next = int.from_bytes(os.urandom(6), "little")
        self._waiting: dict[int, tuple[int, asyncio.Future[Any]]] = {}

    def begin(self, target: int) -> tuple[int, "asyncio.Future[Any]"]:
        """Return the number of a new request to a process, and its answer to come."""
        self._next += 1
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting[self._next] = target, answer
        answer.add_done_callback(lambda _, number=self._next: self._waiting.pop(number, None))  # type: ignore[misc]
        return self._next, answer

    def resolve(self, number: int, answer: Any) -> None:
        """Hand over an answer; a no-op if nobody waits for it any more."""
        _, waiting = self._waiting.get(number, (0, None))
        if waiting is not None and not waiting.done():
            waiting.set_result(answer)

    def fail(self, number: int, error: StreamdError) -> None:
        """Fail a request."""
        _, waiting = self._waiting.get(number, (0, None))
        if waiting is not None and not waiting.done():
            waiting.set_exception(error)

    def fail_all(self, target: int, error: StreamdError) -> None:
        """Fail every request to a process that is gone."""
        for number, (each, _) in list(self._waiting.items()):
            if each == target:
                self.fail(number, error)
