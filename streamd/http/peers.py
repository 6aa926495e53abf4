"""Peers that have left: the test for it, the event, and the errors that aiohttp raises then."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol, cast

import aiohttp
from aiohttp import web

PEER_LEFT_ERRORS = (ConnectionError, aiohttp.ClientConnectionError)
"""Errors that aiohttp raises if a peer has left; its `ClientConnectionError` is not a `ConnectionError`."""


class LossReporter(Protocol):
    """A connection that calls back when it is lost (`Connection`)."""

    on_lost: Callable[[], None] | None


def has_peer_left(request: web.BaseRequest) -> bool:
    """Whether the connection is lost or closing, so that nothing can be sent to the peer."""
    return request.transport is None or request.transport.is_closing()


@contextmanager
def call_when_lost(request: web.BaseRequest, callback: Callable[[], None]) -> Iterator[None]:
    """Call `callback` at once if the connection of a request is lost while the block runs.

    A handler that only waits or writes does not notice a lost connection before its next write. Raises
    `ConnectionResetError` if the peer has left already. Has no effect if the connection does not report its loss.
    """
    if has_peer_left(request):
        raise ConnectionResetError("the peer has left")
    if not hasattr(request.protocol, "on_lost"):  # `isinstance` of a protocol takes 5 us
        yield
        return
    connection = cast("LossReporter", request.protocol)
    connection.on_lost = callback
    try:
        yield
    finally:
        connection.on_lost = None
