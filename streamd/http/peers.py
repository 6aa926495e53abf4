"""Peers that have left: the test for it, and the errors that aiohttp raises then."""

import aiohttp
from aiohttp import web

PEER_LEFT_ERRORS = (ConnectionError, aiohttp.ClientConnectionError)
"""Errors that aiohttp raises if a peer has left; its `ClientConnectionError` is not a `ConnectionError`."""


def has_peer_left(request: web.BaseRequest) -> bool:
    """Whether the connection is lost or closing, so that nothing can be sent to the peer."""
    return request.transport is None or request.transport.is_closing()
