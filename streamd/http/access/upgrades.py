"""The test for a request that opens a WebSocket: its rule may be another one than that of the same path."""

from aiohttp import hdrs, web


def is_upgrade(request: web.BaseRequest) -> bool:
    """Whether a request opens a WebSocket."""
    return request.headers.get(hdrs.UPGRADE, "").lower() == "websocket"


def require_upgrade(request: web.BaseRequest) -> None:
    """Raise `web.HTTPUpgradeRequired` if a request does not open a WebSocket, on a route that is nothing else."""
    if not is_upgrade(request):
        raise web.HTTPUpgradeRequired(
            text=f"{request.path} is a WebSocket, expected the header Upgrade: websocket",
            headers={hdrs.UPGRADE: "websocket", hdrs.CONNECTION: "Upgrade"},
        )
