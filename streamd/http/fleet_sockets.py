"""The fleet of a subscriber on a WebSocket, beside its forecasts.

`fleet_sources.py` has the frames.
"""

from aiohttp import web

from streamd.core.fleet.query import FleetQuery
from streamd.http.fleet_frames import describe_fleet_query
from streamd.http.fleet_sources import FleetSource
from streamd.http.frame_pushing import FramePusher
from streamd.http.sockets import Sockets
from streamd.http.wire.codecs import Encoding


class FleetSocketSubscriber:
    """A subscriber to the fleet on a WebSocket."""

    def __init__(
        self, source: FleetSource, sockets: Sockets, request: web.Request, socket: web.WebSocketResponse
    ) -> None:
        self._source = source
        self._request = request
        self._pusher = FramePusher(sockets, socket)

    async def subscribe(self, query: FleetQuery, encoding: Encoding) -> None:
        """Subscribe, in place of the previous query, if there is one."""
        frames = self._source.open_frames(self._request, query, encoding)
        await self._pusher.start(describe_fleet_query(query), frames, encoding)

    async def close(self) -> None:
        """End the subscription; a second call does nothing."""
        await self._pusher.close()
