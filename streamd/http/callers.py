"""Callers that leave before they are answered: what runs for them is cancelled.

Only for handlers that compute an answer. A handler that takes samples is never cancelled: it takes the whole body.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from aiohttp import web

from streamd.http.peers import call_when_lost


@contextmanager
def cancel_if_caller_leaves(request: web.BaseRequest) -> Iterator[None]:
    """Cancel the block if its caller leaves; the block then raises `ConnectionResetError`.

    aiohttp's own `handler_cancellation` would cancel the handlers of all routes.
    """
    task = asyncio.current_task()
    assert task is not None, "a handler runs in a task"
    cancels_before = task.cancelling()
    has_left = False

    def cancel() -> None:
        nonlocal has_left
        has_left = True
        task.cancel()

    with call_when_lost(request, cancel):
        try:
            yield
        except asyncio.CancelledError as exc:
            if not has_left or task.uncancel() > cancels_before:
                raise  # the cancellation, or one more of them, came from elsewhere: the daemon stops
            raise ConnectionResetError("the caller left before the answer") from exc
