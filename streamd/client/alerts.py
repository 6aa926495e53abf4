"""Alerts as the daemon reports them, and a subscription to them as an iterator."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from streamd.client.connection import DaemonConnection
from streamd.client.errors import RefusedError
from streamd.client.followed_socket import FollowedSocket, Returned, SubscriptionReader, decode_wire_message
from streamd.client.selections import list_names


class CrossingBounds(msgspec.Struct, frozen=True):
    """A range of times; `None` where the curve of that bound does not cross the threshold within the horizon."""

    earliest: float | None = None
    likely: float | None = None
    latest: float | None = None


class ReportedAlert(msgspec.Struct, frozen=True, kw_only=True):
    """One alert: a rule, a server, and the state of the two."""

    rule: str
    server: str
    state: str
    """`pending`, `firing` or `resolved`."""
    severity: str = ""
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    target: str = ""
    unit: str = ""
    quantile: float = 0.5
    above: float | None = None
    """The threshold, if the alert is about values above it."""
    below: float | None = None
    """The threshold, if the alert is about values below it."""
    within_seconds: float | None = None
    starts_at: float | None = None
    ends_at: float | None = None
    reason: str = ""
    """The reason why it was resolved."""
    origin: float | None = None
    """The origin of the forecast that was judged last."""
    model: str = ""
    crosses_at: CrossingBounds = CrossingBounds()
    """When the value is expected to cross the threshold, in epoch seconds."""
    seconds_until: CrossingBounds = CrossingBounds()
    """The same in seconds from the time of the answer, never below 0."""
    updated_at: float | None = None
    silenced_until: float | None = None
    """The end of the silence that ends last; `None` if the alert is not silenced."""


@dataclass(frozen=True)
class AlertUpdate:
    """Alerts in their newest state. After the subscription begins or continues, all that are active come first."""

    alerts: Sequence[ReportedAlert]
    is_snapshot: bool
    """Whether these are the active alerts: what was active before and is not among them is resolved."""


class _AlertMessage(msgspec.Struct):
    type: str
    alerts: list[ReportedAlert] = []
    snapshot: bool = False
    more: bool = False
    code: str = ""
    message: str = ""


class AlertReader(SubscriptionReader):
    """An iterator over the alerts of some servers and rules, for one task."""

    def __init__(
        self,
        connection: DaemonConnection,
        servers: str | Sequence[str] = ("*",),
        rules: str | Sequence[str] | None = None,
        *,
        reconnect_seconds: float = math.inf,
    ) -> None:
        subscription: dict[str, Any] = {"type": "subscribe-alerts", "servers": list_names(servers)}
        if rules is not None:
            subscription["rules"] = list_names(rules)
        self._snapshot: list[ReportedAlert] = []
        super().__init__(
            FollowedSocket(
                connection,
                "/v1/forecasts",
                "subscribed-alerts",
                lambda: subscription,
                lambda answer: self._snapshot.clear(),
                reconnect_seconds=reconnect_seconds,
            )
        )

    async def __anext__(self) -> AlertUpdate:
        """Return the next update; raises `RefusedError` or `DaemonUnreachableError` if the subscription is over."""
        while (frame := await self._socket.receive()) is not None:
            if isinstance(frame, Returned):
                continue  # the snapshot follows
            if (update := self._take_message(decode_wire_message(_DECODER, frame))) is not None:
                return update
        raise StopAsyncIteration

    def _take_message(self, message: _AlertMessage) -> AlertUpdate | None:
        if message.type == "error":
            raise RefusedError(f"{message.code}: {message.message}", code=message.code)
        if message.type != "alerts":
            return None
        if not message.snapshot:
            return AlertUpdate(message.alerts, is_snapshot=False)
        self._snapshot += message.alerts  # a large one comes in several frames
        if message.more:
            return None
        snapshot, self._snapshot = self._snapshot, []
        return AlertUpdate(snapshot, is_snapshot=True)


_DECODER = msgspec.msgpack.Decoder(_AlertMessage)
