"""The routes `/v1/servers` and `/v1/servers/{server}`: the servers that report, a window, forgetting a server.

Both take the name as the parameter `server` too, for names that a path cannot contain.
"""

from itertools import islice

import numpy as np
from aiohttp import web

from streamd.core.access.scopes import Scope
from streamd.core.errors import InvalidInputError
from streamd.core.state.window_columns import NO_STEP
from streamd.http.access.context import get_caller
from streamd.http.errors import choose_encoding, reply
from streamd.http.names import make_resource_path, read_server_name, require_slot
from streamd.http.wire.codecs import Encoding
from streamd.http.wire.tensors import make_wire_tensor
from streamd.runtime.service import Service

DEFAULT_LIMIT = 100
MAX_LIMIT = 1_000
"""Servers on one page."""


class ServerRoutes:
    """Handlers that read the windows of servers and forget servers."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def add_to(self, app: web.Application) -> None:
        """Add the routes."""
        app.router.add_get("/v1/servers", self.list_servers)
        app.router.add_delete("/v1/servers", self.forget_server)
        named = make_resource_path("/v1/servers/{server}")
        app.router.add_get(named, self.get_window)
        app.router.add_delete(named, self.forget_server)

    async def list_servers(self, request: web.Request) -> web.Response:
        """Return a page of the servers that the caller may read, by name; the cursor is the last name of a page.

        With the parameter `server`, return the window of that server.
        """
        if "server" in request.query:
            return await self.get_window(request)
        limit = _parse_limit(request.query.get("limit"))
        cursor = request.query.get("cursor", "")
        directory, caller = self._service.state.directory, get_caller(request)
        readable = (name for name in directory.iterate_names(after=cursor) if caller.may(Scope.READ, name))
        page = list(islice(readable, limit))
        return reply(
            request,
            {
                "servers": [self._describe_server(name, directory.slots[name]) for name in page],
                "next": page[-1] if next(readable, None) is not None else None,
            },
        )

    def _describe_server(self, name: str, slot: int) -> dict[str, object]:
        state = self._service.state
        forecast = state.board.get_step(slot)
        return {
            "server": name,
            "have": state.windows.have[slot],
            "origin": self._to_origin(state.windows.get_newest_step(slot)),
            "last_forecast": self._to_origin(forecast),
        }

    def _to_origin(self, step: int) -> int | None:
        return None if step == NO_STEP else self._service.contract.to_origin(step)

    async def get_window(self, request: web.Request) -> web.Response:
        """Return the window of a server, oldest row first; a missing value is null, in MessagePack NaN."""
        server = read_server_name(request) or ""
        service = self._service
        slot = require_slot(service, server)
        values, copied = service.copy_window(slot)
        if choose_encoding(request) is Encoding.MSGPACK:
            rows: object = make_wire_tensor(values)
        else:
            # JSON: orjson writes NaN as null.
            rows = np.ascontiguousarray(values)
        return reply(
            request,
            {
                "server": server,
                "step_seconds": service.contract.step_seconds,
                "origin": self._to_origin(copied.newest),
                "have": copied.have,
                "features": list(service.contract.features),
                "values": rows,
            },
        )

    async def forget_server(self, request: web.Request) -> web.Response:
        """Forget a server; if a sample of it arrives later, the server is new."""
        server = read_server_name(request)
        if server is None:
            raise InvalidInputError("no server is named, expected /v1/servers/{server} or ?server=NAME")
        await self._service.others.release_slot(require_slot(self._service, server))
        self._service.forget(require_slot(self._service, server))
        return web.Response(status=204)


def _parse_limit(given: str | None) -> int:
    if given is None:
        return DEFAULT_LIMIT
    if not (given.isascii() and given.isdigit() and 1 <= int(given[:9]) <= MAX_LIMIT and len(given) < 9):
        raise InvalidInputError(f"limit is {given[:32]!r}, expected 1 to {MAX_LIMIT}")
    return int(given)
