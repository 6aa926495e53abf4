"""The peer of a request that came by way of another process of the daemon. Believes nothing by itself."""

from aiohttp import web

_REMOTE = web.RequestKey("forwarded_remote", str)
_NAMES = web.RequestKey("forwarded_names", tuple)


def set_forwarded(request: web.BaseRequest, *, remote: str, names: tuple[str, ...]) -> None:
    """Set the address of the caller, and the names in its client certificate."""
    request[_REMOTE] = remote
    request[_NAMES] = names


def get_remote(request: web.BaseRequest) -> str | None:
    """Return the address of the caller of a request."""
    remote: str | None = request.get(_REMOTE, request.remote)
    return remote


def get_forwarded_names(request: web.BaseRequest) -> tuple[str, ...] | None:
    """Return the names in the caller's certificate, `None` if its connection is that of the request."""
    return request.get(_NAMES)
