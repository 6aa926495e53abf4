"""The alerts that a reader gets: from the monitor of this process, or passed on by the engine process.

Reads alerts; the routes send them.
"""

import contextlib
import time
from collections.abc import AsyncGenerator
from typing import Any, Protocol

import msgspec
from aiohttp import web

from streamd.http.access.context import get_caller
from streamd.http.alert_frames import make_alerts_message, make_subscribe_message
from streamd.http.engine_relay import EngineRelay
from streamd.http.wire.codecs import Encoding
from streamd.runtime.alerts.alert_subscriptions import AlertChoice, AlertSubscriptions

MAX_ALERTS = 256
"""Alerts in one frame, at most."""


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

    def __init__(self, relay: EngineRelay) -> None:
        self._relay = relay

    async def read_alerts(self, request: web.Request, choice: AlertChoice) -> AsyncGenerator[dict[str, Any], None]:
        """Yield messages, as `AlertSource.read_alerts`."""
        frames = self._relay.read_frames(request, make_subscribe_message(choice), ("alerts",), Encoding.JSON)
        async with contextlib.aclosing(frames):
            async for frame in frames:
                yield msgspec.json.decode(frame)
