"""The routes `/v1/servers` and `/v1/servers/{server}`: the servers that report, a window, forgetting a server.

Both take the name as the parameter `server` too, for names that a path cannot contain.
"""

from functools import partial

import numpy as np
from aiohttp import web

from streamd.core.access.scopes import Scope
from streamd.core.errors import InvalidInputError
from streamd.http.access.context import get_caller
from streamd.http.errors import reply
from streamd.http.names import make_resource_path, require_slot
from streamd.http.other_nodes import OtherNodes
from streamd.http.server_answers import NO_CONTENT, ServerAnswer, ServerAnswers, ServerCall, ServerCallKind
from streamd.http.server_pages import make_server_page, to_origin
from streamd.http.wire.codecs import Encoding
from streamd.http.wire.tensors import make_wire_tensor
from streamd.runtime.service import Service

DEFAULT_LIMIT = 100
MAX_LIMIT = 1_000
"""Servers on one page."""


class ServerRoutes:
    """Handlers that read the windows of servers and forget servers."""

    def __init__(self, service: Service, answers: ServerAnswers, nodes: OtherNodes | None = None) -> None:
        self._service = service
        self._answers = answers
        self._nodes = nodes
        answers.add(ServerCallKind.WINDOW, self.answer_window)
        answers.add(ServerCallKind.FORGET, self.answer_forget)

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
        cursor, caller = request.query.get("cursor", ""), get_caller(request)
        if self._nodes is not None:
            return reply(request, await self._nodes.list_servers(caller, cursor, limit))
        page = make_server_page(self._service, cursor, limit, partial(caller.may, Scope.READ))
        return reply(request, page._asdict())

    async def get_window(self, request: web.Request) -> web.Response:
        """Return the window of a server, oldest row first; a missing value is null, in MessagePack NaN."""
        return await self._answers.answer(request, ServerCallKind.WINDOW)

    async def answer_window(self, call: ServerCall) -> ServerAnswer:
        """Answer with the window."""
        service = self._service
        slot = require_slot(service, call.server)
        values, copied = service.copy_window(slot)
        if call.encoding is Encoding.MSGPACK:
            rows: object = make_wire_tensor(values)
        else:
            # JSON: orjson writes NaN as null.
            rows = np.ascontiguousarray(values)
        return ServerAnswer(
            {
                "server": call.server,
                "step_seconds": service.contract.step_seconds,
                "origin": to_origin(service, copied.newest),
                "have": copied.have,
                "features": list(service.contract.features),
                "values": rows,
            }
        )

    async def forget_server(self, request: web.Request) -> web.Response:
        """Forget a server; if a sample of it arrives later, the server is new."""
        return await self._answers.answer(request, ServerCallKind.FORGET)

    async def answer_forget(self, call: ServerCall) -> ServerAnswer:
        """Forget the server, and answer without a body."""
        service, server = self._service, call.server
        if self._nodes is not None:
            require_slot(service, server)
            await self._nodes.forget_server(server)
        else:
            await service.others.release_slot(require_slot(service, server))
            service.forget(require_slot(service, server))
        return ServerAnswer(None, NO_CONTENT)


def _parse_limit(given: str | None) -> int:
    if given is None:
        return DEFAULT_LIMIT
    if not (given.isascii() and given.isdigit() and 1 <= int(given[:9]) <= MAX_LIMIT and len(given) < 9):
        raise InvalidInputError(f"limit is {given[:32]!r}, expected 1 to {MAX_LIMIT}")
    return int(given)
