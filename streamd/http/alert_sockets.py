"""The alerts of a subscriber on a WebSocket, beside its forecasts.

`alert_sources.py` has the alerts.
"""

import contextlib
from collections.abc import AsyncGenerator

from aiohttp import web

from streamd.http.alert_frames import describe_choice
from streamd.http.alert_sources import AlertSource
from streamd.http.frame_pushing import FramePusher
from streamd.http.sockets import Sockets
from streamd.http.wire.codecs import Encoding, encode
from streamd.runtime.alerts.alert_subscriptions import AlertChoice


class AlertSocketSubscriber:
    """A subscriber to alerts on a WebSocket."""

    def __init__(
        self, source: AlertSource, sockets: Sockets, request: web.Request, socket: web.WebSocketResponse
    ) -> None:
        self._source = source
        self._request = request
        self._pusher = FramePusher(sockets, socket)

    async def subscribe(self, choice: AlertChoice, encoding: Encoding) -> None:
        """Subscribe, in place of the previous choice, if there is one."""
        await self._pusher.start(describe_choice(choice), self._encode_alerts(choice, encoding), encoding)

    async def close(self) -> None:
        """End the subscription; a second call does nothing."""
        await self._pusher.close()

    async def _encode_alerts(self, choice: AlertChoice, encoding: Encoding) -> AsyncGenerator[bytes, None]:
        async with contextlib.aclosing(self._source.read_alerts(self._request, choice)) as messages:
            async for message in messages:
                yield encode(message, encoding)
