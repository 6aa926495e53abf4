"""The alerts that a reader gets: from the monitor of this process, or passed on by the engine process.

Reads alerts; the routes send them.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator
from typing import Any, Protocol

import msgspec
from aiohttp import WSMsgType, web

from streamd.core.errors import UnavailableError
from streamd.http.access.context import get_caller
from streamd.http.alert_frames import make_alerts_message, make_subscribe_message
from streamd.http.forwarding import EngineForwarder
from streamd.runtime.alerts.alert_subscriptions import AlertChoice, AlertSubscriptions

MAX_ALERTS = 256
"""Alerts in one frame, at most."""

RELAY_WAIT_SECONDS = 0.5
"""The wait before the engine process is asked again, after it was away."""

FORECASTS_PATH = "/v1/forecasts"
"""The WebSocket on which the engine process gives a worker the alerts."""


class AlertSource(Protocol):
    """The origin of the `alerts` messages of a reader."""

    def read_alerts(self, request: web.Request, choice: AlertChoice) -> AsyncGenerator[dict[str, Any], None]:
        """Yield messages: first the snapshot, then changes. Ends when the daemon stops.

        Only alerts of servers are in them that the caller of the request may subscribe to.
        """
        ...


class LocalAlerts:
    """The alerts of this process."""

    def __init__(self, subscriptions: AlertSubscriptions) -> None:
        self._subscriptions = subscriptions

    async def read_alerts(self, request: web.Request, choice: AlertChoice) -> AsyncGenerator[dict[str, Any], None]:
        """Yield messages, as `AlertSource.read_alerts`."""
        subscription = self._subscriptions.subscribe(choice, get_caller(request))
        try:
            while not subscription.closed:
                await subscription.wait()
                if (news := await subscription.read(MAX_ALERTS)) is not None:
                    yield make_alerts_message(news, time.time())
        finally:
            self._subscriptions.unsubscribe(subscription)


class RelayedAlerts:
    """The alerts of the engine process, for the readers of a worker.

    While that process is started again a reader waits; then it gets a new snapshot.
    """

    def __init__(self, forwarder: EngineForwarder) -> None:
        self._forwarder = forwarder

    async def read_alerts(self, request: web.Request, choice: AlertChoice) -> AsyncGenerator[dict[str, Any], None]:
        """Yield messages, as `AlertSource.read_alerts`."""
        wanted = make_subscribe_message(choice)
        while True:
            # If the engine process refuses the caller, its token was revoked: then this worker ends the socket too.
            with contextlib.suppress(UnavailableError):
                async with self._forwarder.open_socket(request, FORECASTS_PATH) as socket:
                    await socket.send_json(wanted)
                    async for frame in socket:
                        message = msgspec.json.decode(frame.data) if frame.type is WSMsgType.TEXT else {}
                        if message.get("type") == "alerts":
                            yield message
            await asyncio.sleep(RELAY_WAIT_SECONDS)
