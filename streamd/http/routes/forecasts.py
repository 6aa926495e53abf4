"""Forecasts out: the WebSocket `GET /v1/forecasts`, server-sent events, and the latest forecast of a server.

Reads the board and the hub; `wire/frames.py` encodes.
"""

import asyncio
import contextlib
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from aiohttp import WSMsgType, web

from streamd.core.access.caller import Caller
from streamd.core.arrays import Slots
from streamd.core.errors import InvalidSelectionError, StreamdError
from streamd.http.access.context import get_caller
from streamd.http.access.upgrades import is_upgrade
from streamd.http.alert_frames import SUBSCRIBE_ALERTS, parse_alert_subscription
from streamd.http.alert_sockets import AlertSocketSubscriber
from streamd.http.alert_sources import AlertSource
from streamd.http.errors import make_error_message
from streamd.http.fleet_frames import SUBSCRIBE_FLEET, parse_fleet_subscription
from streamd.http.fleet_sockets import FleetSocketSubscriber
from streamd.http.fleet_sources import FleetSource
from streamd.http.message_types import read_message_type
from streamd.http.names import SERVER_IN_PATH, check_utf8, require_slot
from streamd.http.peers import PEER_LEFT_ERRORS, call_when_lost, has_peer_left
from streamd.http.resuming import ReaderPosition, parse_event_id
from streamd.http.server_answers import ServerAnswer, ServerAnswers, ServerCall, ServerCallKind
from streamd.http.sockets import KEEP_ALIVE_SECONDS, Sockets
from streamd.http.subscriptions import SubscriptionChoice, parse_query, parse_subscribe
from streamd.http.unsubscribing import (
    SUBSCRIPTION_KINDS,
    UNSUBSCRIBE,
    SubscriptionKind,
    describe_unsubscribed,
    parse_unsubscribe,
)
from streamd.http.wire.codecs import Encoding, encode
from streamd.http.wire.event_stream import KEEP_ALIVE_COMMENT, make_event
from streamd.http.wire.frame_ids import FRAME_ID_FIELD, add_frame_id
from streamd.http.wire.frames import BatchFrame, FrameEncoder
from streamd.runtime.hub import Subscription
from streamd.runtime.service import Service

MAX_BATCH_FRAME = 256
"""Forecasts in one `forecasts` frame, at most."""

BATCH_FRAME_BYTES = 2**20
"""A `forecasts` frame has fewer forecasts if they would take about more. Each reader that stalls may hold one frame."""

_JSON_BYTES_A_VALUE = 12


class ForecastRoutes:
    """Handlers for readers of forecasts."""

    def __init__(
        self,
        service: Service,
        frames: FrameEncoder,
        sockets: Sockets,
        alerts: AlertSource,
        fleet: FleetSource,
        answers: ServerAnswers,
    ) -> None:
        self._service = service
        self._frames = frames
        self._sockets = sockets
        self._alerts = alerts
        self._fleet = fleet
        self._answers = answers
        answers.add(ServerCallKind.FORECAST, self.answer_latest)

    def add_to(self, app: web.Application) -> None:
        """Add the routes."""
        app.router.add_get("/v1/forecasts", self.get_forecasts)
        app.router.add_get("/v1/forecasts/stream", self.open_stream, allow_head=False)
        app.router.add_get(f"/v1/forecasts/{SERVER_IN_PATH}", self.get_latest)

    async def get_forecasts(self, request: web.Request) -> web.StreamResponse:
        """Open a WebSocket, or return the latest forecast of the server that the parameter `server` names."""
        if is_upgrade(request):
            return await self.open_socket(request)
        if "server" in request.query:
            return await self.get_latest(request)
        raise InvalidSelectionError(
            "expected a WebSocket upgrade, or ?server=NAME (as /v1/forecasts/{server}) for a server's latest forecast"
        )

    def _read_choice(self, request: web.Request) -> SubscriptionChoice:
        check_utf8(request)
        return parse_query(self._service.contract, request.query.items())

    # ------------------------------------------------------------ the latest forecast
    async def get_latest(self, request: web.Request) -> web.Response:
        """Return the latest forecast of a server; if it has no forecast yet, the state of its window."""
        return await self._answers.answer(request, ServerCallKind.FORECAST)

    async def answer_latest(self, call: ServerCall) -> ServerAnswer:
        """Answer with the latest forecast, or the state of the window."""
        service = self._service
        slot = require_slot(service, call.server)
        choice = parse_query(service.contract, call.query)
        message = self._frames.make_message(slot, choice.part, call.encoding)
        if message is not None:
            return ServerAnswer(message)
        windows = service.state.windows
        have = windows.have[slot]
        status = "pending" if have >= windows.need else "warming"
        return ServerAnswer({"server": call.server, "status": status, "have": have, "need": windows.need})

    # ------------------------------------------------------------ WebSocket
    async def open_socket(self, request: web.Request) -> web.StreamResponse:
        """Push forecasts, chosen by a `subscribe` message or query parameters; alerts and the fleet by theirs."""
        choice = self._read_choice(request) if request.query else None
        async with self._sockets.accept_websocket(request) as socket:
            subscriber = SocketSubscriber(self._service, self._frames, self._sockets, socket, get_caller(request))
            alerts = AlertSocketSubscriber(self._alerts, self._sockets, request, socket)
            fleet = FleetSocketSubscriber(self._fleet, self._sockets, request, socket)
            subscribers = SocketSubscribers(subscriber, alerts, fleet)
            try:
                if choice is not None:
                    await subscriber.subscribe(choice)
                async for message in self._sockets.read_frames(request, socket):
                    if message.type not in (WSMsgType.TEXT, WSMsgType.BINARY):
                        break
                    encoding = Encoding.JSON if message.type is WSMsgType.TEXT else Encoding.MSGPACK
                    await self._handle_message(subscribers, socket, message.data, encoding)
            finally:
                await subscribers.close(SUBSCRIPTION_KINDS)
            return socket

    async def _handle_message(
        self, subscribers: "SocketSubscribers", socket: web.WebSocketResponse, data: bytes | str, encoding: Encoding
    ) -> None:
        # A list of globs takes up to 60 ms to read: one in each turn of the loop, however many are sent.
        await self._service.hub.turns.wait()
        try:
            message_type, contract = read_message_type(data, encoding), self._service.contract
            if message_type == SUBSCRIBE_ALERTS:
                await subscribers.alerts.subscribe(parse_alert_subscription(data, encoding), encoding)
            elif message_type == SUBSCRIBE_FLEET:
                query = parse_fleet_subscription(contract.targets, data, encoding)
                await subscribers.fleet.subscribe(query, encoding)
            elif message_type == UNSUBSCRIBE:
                kinds = parse_unsubscribe(data, encoding)
                await subscribers.close(kinds)
                await self._sockets.send(socket, encode(describe_unsubscribed(kinds), encoding), encoding)
            else:
                await subscribers.forecasts.subscribe(parse_subscribe(contract, data, encoding))
        except StreamdError as error:
            await self._sockets.send(socket, encode(make_error_message(error), encoding), encoding)

    # ------------------------------------------------------------ server-sent events
    async def open_stream(self, request: web.Request) -> web.StreamResponse:
        """Push forecasts as server-sent events; with `Last-Event-ID`, first those that were posted since."""
        service = self._service
        choice = self._read_choice(request)
        header = request.headers.get("Last-Event-ID")
        since = parse_event_id(header) if header else choice.since
        async with self._sockets.open_event_stream(request) as response:
            await service.hub.interest.prepare(choice.globs)
            subscription = service.hub.subscribe(choice.globs, choice.part, get_caller(request))
            position = ReaderPosition(service, subscription, since, has_ids=True)
            try:
                # To unsubscribe wakes this handler, which would otherwise notice only when it writes the next event.
                with call_when_lost(request, lambda: service.hub.unsubscribe(subscription)):
                    await position.replay()
                    await self._push_events(response, subscription, choice, position)
            finally:
                service.hub.unsubscribe(subscription)
            if has_peer_left(request):
                raise ConnectionResetError("the reader left")
        return response

    async def _push_events(
        self,
        response: web.StreamResponse,
        subscription: Subscription,
        choice: SubscriptionChoice,
        position: ReaderPosition,
    ) -> None:
        while not subscription.closed or subscription.waiting:
            try:
                async with asyncio.timeout(KEEP_ALIVE_SECONDS):
                    await subscription.wait()
            except TimeoutError:
                await self._sockets.send_event(response, KEEP_ALIVE_COMMENT)
                continue
            if dropped := subscription.take_newly_dropped():
                lagged = encode({"type": "lagged", "dropped": dropped}, Encoding.JSON)
                await self._sockets.send_event(response, make_event("lagged", lagged))
            slots = position.take_unread(1)
            for slot in slots.tolist():
                frame = self._frames.encode_forecast(slot, choice.part, Encoding.JSON)
                if frame is None:
                    subscription.count_dropped(1)
                    continue
                event = make_event("forecast", bytes(frame), position.choose_id())
                await self._sockets.send_event(response, event)
                position.note_sent(slots)


class SocketSubscribers(NamedTuple):
    """The three subscriptions of one WebSocket, each of which may begin and end alone."""

    forecasts: "SocketSubscriber"
    alerts: AlertSocketSubscriber
    fleet: FleetSocketSubscriber

    async def close(self, kinds: Sequence[SubscriptionKind]) -> None:
        """End some of the subscriptions; a second call does nothing."""
        for kind, subscriber in self._asdict().items():
            if kind in kinds:
                await subscriber.close()


class SocketSubscriber:
    """A subscriber on a WebSocket: its subscription, and the task that sends what is in its mailbox."""

    def __init__(
        self, service: Service, frames: FrameEncoder, sockets: Sockets, socket: web.WebSocketResponse, caller: Caller
    ) -> None:
        self._service = service
        self._caller = caller
        self._frames = frames
        self._sockets = sockets
        self._socket = socket
        self._subscription: Subscription | None = None
        self._task: asyncio.Task[None] | None = None

    async def subscribe(self, choice: SubscriptionChoice) -> None:
        """Subscribe, in place of the previous choice, if there is one."""
        await self._unsubscribe()
        await self._service.hub.interest.prepare(choice.globs)
        answer = choice.describe(self._service.contract, self._service.model)
        # Subscribed before the answer is sent: no forecast that is posted after the answer is missed.
        self._subscription = self._service.hub.subscribe(choice.globs, choice.part, self._caller)
        position = ReaderPosition(self._service, self._subscription, choice.since, has_ids=choice.has_ids)
        if choice.has_ids:
            answer |= {"ids": True, FRAME_ID_FIELD: position.last_id}
        await self._sockets.send(self._socket, encode(answer, choice.encoding), choice.encoding)
        self._task = asyncio.create_task(self._push(self._subscription, choice, position))

    async def close(self) -> None:
        """End the subscription; a second call does nothing."""
        await self._unsubscribe()

    async def _unsubscribe(self) -> None:
        if self._subscription is not None:
            self._service.hub.unsubscribe(self._subscription)
            self._subscription = None
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    async def _push(self, subscription: Subscription, choice: SubscriptionChoice, position: ReaderPosition) -> None:
        try:
            await position.replay()
            while True:
                await subscription.wait()
                if subscription.closed and not subscription.waiting:
                    return
                await self._send_waiting(subscription, choice, position)
                if choice.interval_seconds and not subscription.waiting:
                    await subscription.pause(choice.interval_seconds)
        except PEER_LEFT_ERRORS:
            if not self._socket.closed:  # else the daemon is closing it, and its closing frame must go out
                self._sockets.drop_peer(self._socket)
        finally:
            self._service.hub.unsubscribe(subscription)

    async def _send_waiting(
        self, subscription: Subscription, choice: SubscriptionChoice, position: ReaderPosition
    ) -> None:
        encoding = choice.encoding
        if dropped := subscription.take_newly_dropped():
            lagged = encode({"type": "lagged", "dropped": dropped}, encoding)
            await self._sockets.send(self._socket, lagged, encoding)
        slots = position.take_unread(count_forecasts_in_frame(choice, self._service.contract.horizon))
        frame, sent = self._encode(slots, choice)
        subscription.count_dropped(len(slots) - len(sent))
        if frame is not None:
            if choice.has_ids:
                frame = add_frame_id(frame, position.choose_id(), encoding)
            await self._sockets.send(self._socket, frame, encoding)
            position.note_sent(sent)

    def _encode(self, slots: Slots, choice: SubscriptionChoice) -> BatchFrame:
        if choice.batch:
            return self._frames.encode_forecasts(slots, choice.part, choice.encoding)
        frame = self._frames.encode_forecast(int(slots[0]), choice.part, choice.encoding) if len(slots) else None
        return BatchFrame(frame, slots if frame is not None else slots[:0])


def count_forecasts_in_frame(choice: SubscriptionChoice, horizon: int) -> int:
    """Return the number of forecasts in one frame, at most: one, if the subscriber did not choose batches."""
    if not choice.batch:
        return 1
    part = choice.part
    value_bytes = np.dtype(part.dtype).itemsize if choice.encoding is Encoding.MSGPACK else _JSON_BYTES_A_VALUE
    forecast_bytes = math.prod(part.compute_shape(horizon)) * value_bytes
    return max(1, min(MAX_BATCH_FRAME, BATCH_FRAME_BYTES // max(forecast_bytes, 1)))
