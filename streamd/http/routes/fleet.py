"""The route `/v1/fleet`: all servers at a glance, as they are now.

Asks the overview; on the WebSocket of the forecasts, `http/fleet_sources.py` has the same as it changes.
"""

from aiohttp import web

from streamd.core.access.scopes import Scope
from streamd.core.errors import UnavailableError
from streamd.http.access.context import get_caller
from streamd.http.errors import choose_encoding
from streamd.http.fleet_frames import choose_format, parse_fleet_query
from streamd.http.names import check_utf8
from streamd.http.other_nodes import OtherNodes
from streamd.runtime.service import Service


class FleetRoutes:
    """The handler for readers of the fleet."""

    def __init__(self, service: Service, nodes: OtherNodes | None = None) -> None:
        self._service = service
        self._nodes = nodes

    def add_to(self, app: web.Application) -> None:
        """Add the route."""
        app.router.add_get("/v1/fleet", self.get_fleet)

    async def get_fleet(self, request: web.Request) -> web.Response:
        """Return the servers that a query finds among those that the caller may read."""
        check_utf8(request)
        service = self._service
        query = parse_fleet_query(service.contract.targets, request.query.items())
        if not service.alert_subscriptions.are_restored:
            # An answer without alerts would say that nothing fires.
            raise UnavailableError("the daemon is starting, and has not read its alerts yet")
        if self._nodes is not None:
            await self._nodes.show_all()
        encoding = choose_encoding(request)
        body = await service.fleet.answer(query, get_caller(request), Scope.READ, choose_format(encoding))
        return web.Response(body=body, content_type=encoding.value)
