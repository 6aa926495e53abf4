"""The test for a request that opens a WebSocket: its rule may be another one than that of the same path."""

from aiohttp import hdrs, web


def is_upgrade(request: web.BaseRequest) -> bool:
    """Whether a request opens a WebSocket."""
    return request.headers.get(hdrs.UPGRADE, "").lower() == "websocket"
