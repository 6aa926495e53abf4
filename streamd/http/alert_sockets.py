"""The alerts of a subscriber on a WebSocket, beside its forecasts: the choice, and the task that sends.

`alert_sources.py` has the alerts.
"""

import asyncio
import contextlib

from aiohttp import web

from streamd.http.alert_frames import describe_choice
from streamd.http.alert_sources import AlertSource
from streamd.http.peers import PEER_LEFT_ERRORS
from streamd.http.sockets import Sockets
from streamd.http.wire.codecs import Encoding, encode
from streamd.runtime.alerts.alert_subscriptions import AlertChoice


class AlertSocketSubscriber:
    """A subscriber to alerts on a WebSocket."""

    def __init__(
        self, source: AlertSource, sockets: Sockets, request: web.Request, socket: web.WebSocketResponse
    ) -> None:
        self._source = source
        self._sockets = sockets
        self._request = request
        self._socket = socket
        self._task: asyncio.Task[None] | None = None

    async def subscribe(self, choice: AlertChoice, encoding: Encoding) -> None:
        """Subscribe, in place of the previous choice, if there is one."""
        await self.close()
        await self._sockets.send(self._socket, encode(describe_choice(choice), encoding), encoding)
        self._task = asyncio.create_task(self._push(choice, encoding))

    async def close(self) -> None:
        """End the subscription; a second call does nothing."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    async def _push(self, choice: AlertChoice, encoding: Encoding) -> None:
        try:
            async with contextlib.aclosing(self._source.read_alerts(self._request, choice)) as messages:
                async for message in messages:
                    await self._sockets.send(self._socket, encode(message, encoding), encoding)
        except PEER_LEFT_ERRORS:
            if not self._socket.closed:  # else the daemon is closing it, and its closing frame must go out
                self._sockets.drop_peer(self._socket)
