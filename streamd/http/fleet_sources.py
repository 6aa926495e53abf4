"""The frames of the fleet that a reader gets: of this process, or passed on by the engine process.

Makes no frame; the routes send them.
"""

from collections.abc import AsyncGenerator
from typing import Protocol

from aiohttp import web

from streamd.core.access.scopes import Scope
from streamd.core.fleet.query import FleetQuery
from streamd.http.access.context import get_caller
from streamd.http.engine_relay import EngineRelay
from streamd.http.fleet_frames import FLEET_FRAME, SUBSCRIBE_FLEET, choose_format, describe_fleet_query
from streamd.http.other_nodes import OtherNodes
from streamd.http.wire.codecs import Encoding
from streamd.runtime.fleet.overview import FleetOverview
from streamd.runtime.fleet.reader import FleetReader


class FleetSource(Protocol):
    """The origin of the `fleet` frames of a reader."""

    def open_frames(self, request: web.Request, query: FleetQuery, encoding: Encoding) -> AsyncGenerator[bytes, None]:
        """Return frames with the servers that the caller of a request may subscribe to."""
        ...


class LocalFleet:
    """The servers of this process, and of the other nodes of a cluster."""

    def __init__(self, overview: FleetOverview, nodes: OtherNodes | None = None) -> None:
        self._overview = overview
        self._nodes = nodes

    def open_frames(self, request: web.Request, query: FleetQuery, encoding: Encoding) -> AsyncGenerator[bytes, None]:
        """Return frames, as `FleetSource.open_frames`."""
        form = choose_format(encoding)
        return _read(self._overview.open(query, get_caller(request), Scope.SUBSCRIBE, form), self._nodes)


async def _read(reader: FleetReader, nodes: OtherNodes | None) -> AsyncGenerator[bytes, None]:
    try:
        if nodes is not None:
            await nodes.show_all()
        while True:
            yield await reader.read()
    finally:
        reader.close()


class RelayedFleet:
    """The servers of the engine process, for the readers of a worker; errors that it finds are among the frames."""

    def __init__(self, relay: EngineRelay) -> None:
        self._relay = relay

    def open_frames(self, request: web.Request, query: FleetQuery, encoding: Encoding) -> AsyncGenerator[bytes, None]:
        """Return frames, as `FleetSource.open_frames`."""
        wanted = describe_fleet_query(query) | {"type": SUBSCRIBE_FLEET}
        return self._relay.read_frames(request, wanted, (FLEET_FRAME, "error"), encoding)
