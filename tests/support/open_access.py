"""The callers of routes that are tested alone: everybody, without a gate."""

from aiohttp import web

from streamd.core.access.caller import ANYBODY
from streamd.http.access.context import set_caller
from streamd.http.errors import Handler


@web.middleware
async def admit_anybody(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Let every request pass, as a daemon without tokens does."""
    set_caller(request, ANYBODY)
    return await handler(request)
