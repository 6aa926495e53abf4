"""The rows that a token permits, on a WebSocket: the sender is held back, and nothing of it is refused."""

import asyncio
import time
from collections.abc import Callable

from aiohttp import web

from streamd.http.access.context import get_caller
from streamd.http.callers import cancel_if_caller_leaves


async def wait_for_allowance(request: web.Request, clock: Callable[[], float] = time.monotonic) -> None:
    """Wait until the caller of a socket may send rows again; returns at once if its token does not limit them.

    Meanwhile no frame is read, so the connection fills up and holds the sender back. Raises `ConnectionResetError` if
    the connection ends.
    """
    usage = get_caller(request).usage
    while (wait_seconds := usage.count_wait_seconds(clock())) > 0:
        with cancel_if_caller_leaves(request):
            await asyncio.sleep(wait_seconds)
