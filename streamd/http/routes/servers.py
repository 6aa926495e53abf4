"""`/v1/servers` and `/v1/servers/{server}`: who reports, what a window holds, and forgetting a server.

Both take a server's name as the parameter `server` too: so does a name that a path cannot hold.
"""

import numpy as np
from aiohttp import web

from streamd.core.errors import InvalidInputError
from streamd.core.state.windows import NO_STEP
from streamd.http.errors import choose_encoding, reply
from streamd.http.names import SERVER_IN_PATH, read_server_name, require_slot
from streamd.http.wire.codecs import Encoding
from streamd.http.wire.tensors import make_wire_tensor
from streamd.runtime.service import Service

DEFAULT_LIMIT = 100
MAX_LIMIT = 1_000


class ServerRoutes:
    """The window store: reading it, and forgetting what it holds of a server."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def add_to(self, app: web.Application) -> None:
        """Add the routes."""
        app.router.add_get("/v1/servers", self.index)
        app.router.add_get(f"/v1/servers/{SERVER_IN_PATH}", self.window)
        app.router.add_delete("/v1/servers", self.forget)
        app.router.add_delete(f"/v1/servers/{SERVER_IN_PATH}", self.forget)

    async def index(self, request: web.Request) -> web.Response:
        """A page of servers in the order of their names; the cursor is the last name of the page before.

        With the parameter `server`, the window of that one.
        """
        if "server" in request.query:
            return await self.window(request)
        limit = _limit(request.query.get("limit"))
        cursor = request.query.get("cursor", "")
        slots = self._service.state.directory.slots
        names = sorted(name for name in slots if name > cursor)
        page = names[:limit]
        return reply(
            request,
            {
                "servers": [self._entry(name, slots[name]) for name in page],
                "next": page[-1] if len(names) > limit else None,
            },
        )

    def _entry(self, name: str, slot: int) -> dict[str, object]:
        state = self._service.state
        forecast = state.board.get_step(slot)
        return {
            "server": name,
            "have": state.windows.have[slot],
            "origin": self._origin(state.windows.get_newest_step(slot)),
            "last_forecast": self._origin(forecast),
        }

    def _origin(self, step: int) -> int | None:
        return None if step == NO_STEP else self._service.contract.to_origin(step)

    async def window(self, request: web.Request) -> web.Response:
        """One server's window, oldest row first, null (NaN in MessagePack) where a value is missing."""
        server = read_server_name(request) or ""
        service = self._service
        slot = require_slot(service, server)
        values = service.window(slot)
        if choose_encoding(request) is Encoding.MSGPACK:
            shown: object = make_wire_tensor(values)
        else:
            # orjson writes NaN as null.
            shown = np.ascontiguousarray(values)
        return reply(
            request,
            {
                "server": server,
                "step_seconds": service.contract.step_seconds,
                "origin": self._origin(service.state.windows.get_newest_step(slot)),
                "have": service.state.windows.have[slot],
                "features": list(service.contract.features),
                "values": shown,
            },
        )

    async def forget(self, request: web.Request) -> web.Response:
        """Forget a server; a sample of it that comes later begins it anew."""
        server = read_server_name(request)
        if server is None:
            raise InvalidInputError("no server is named, expected /v1/servers/{server} or ?server=NAME")
        self._service.forget(require_slot(self._service, server))
        return web.Response(status=204)


def _limit(given: str | None) -> int:
    if given is None:
        return DEFAULT_LIMIT
    if not (given.isascii() and given.isdigit() and 1 <= int(given[:9]) <= MAX_LIMIT and len(given) < 9):
        raise InvalidInputError(f"limit is {given[:32]!r}, expected 1 to {MAX_LIMIT}")
    return int(given)
