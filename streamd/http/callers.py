"""Callers who leave before they are answered: their handlers end, so that nothing runs for nobody."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from aiohttp import web

CHECK_SECONDS = 0.05
"""How often the connections of callers who wait are looked at: aiohttp tells no handler that its caller left."""


class Callers:
    """The handlers that wait for an answer; one watch over all of them, which runs while there are any."""

    def __init__(self) -> None:
        self._waiting: dict[asyncio.Task[object], web.Request] = {}
        self._watch: asyncio.TimerHandle | None = None

    @contextmanager
    def waiting(self, request: web.Request) -> Iterator[None]:
        """Cancel what runs in this block once its caller has left; then raises `ConnectionResetError`."""
        task = asyncio.current_task()
        assert task is not None, "a handler runs in a task"
        cancels = task.cancelling()
        self._waiting[task] = request
        if self._watch is None:
            self._watch_soon()
        try:
            yield
        except asyncio.CancelledError as exc:
            if task in self._waiting or task.uncancel() > cancels:
                raise  # somebody else's: the daemon stops
            raise ConnectionResetError("the caller left before the answer") from exc
        finally:
            self._waiting.pop(task, None)

    def _watch_soon(self) -> None:
        self._watch = asyncio.get_running_loop().call_later(CHECK_SECONDS, self._check)

    def _check(self) -> None:
        self._watch = None
        for task, request in list(self._waiting.items()):
            if request.transport is None or request.transport.is_closing():
                del self._waiting[task]
                task.cancel()
        if self._waiting:
            self._watch_soon()
