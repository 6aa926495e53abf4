"""Whether a peer is still there."""

import aiohttp
from aiohttp import web

PEER_LEFT_ERRORS = (ConnectionError, aiohttp.ClientConnectionError)
"""What aiohttp raises where a peer is gone; its `ClientConnectionError` is not a `ConnectionError`."""


def has_peer_left(request: web.BaseRequest) -> bool:
    """Whether nothing can be sent to this peer any more."""
    return request.transport is None or request.transport.is_closing()
