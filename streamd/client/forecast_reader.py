"""A subscription to forecasts as an iterator of events, which continues after a lost connection where it was."""

import math
from collections import deque

from streamd.client.connection import DaemonConnection
from streamd.client.errors import RefusedError
from streamd.client.followed_socket import (
    FollowedSocket,
    Returned,
    SubscriptionAnswer,
    SubscriptionReader,
    decode_wire_message,
)
from streamd.client.forecasts import (
    FORECAST_DECODER,
    ForecastBatch,
    ForecastEvent,
    ForecastMessage,
    MissedForecasts,
    MissReason,
    Reconnected,
)
from streamd.client.seen_origins import SeenOrigins
from streamd.client.selections import ForecastSelection


class ForecastReader(SubscriptionReader):
    """An iterator over what is forecast, for one task. A slow one gets the newest forecasts, and how many it missed.

    Nothing is read ahead: what a reader does not take waits at the daemon, where newer forecasts replace older ones.
    """

    def __init__(
        self,
        connection: DaemonConnection,
        selection: ForecastSelection,
        *,
        last_event_id: int | None = None,
        reconnect_seconds: float = math.inf,
    ) -> None:
        self.last_event_id = last_event_id
        """The id after which this subscription, or a later one, continues: it counts the events that were returned."""
        self._selection = selection
        self._seen: SeenOrigins | None = None
        self._events: deque[ForecastEvent] = deque()
        self._frame_id: int | None = None
        """The id of the frame that the events are from."""
        super().__init__(
            FollowedSocket(
                connection,
                "/v1/forecasts",
                "subscribed",
                lambda: selection.make_message(self.last_event_id),
                self._take_answer,
                reconnect_seconds=reconnect_seconds,
            )
        )

    async def __anext__(self) -> ForecastEvent:
        """Return the next event; raises `RefusedError` or `DaemonUnreachableError` if the subscription is over."""
        while not self._events:
            self._note_read()
            frame = await self._socket.receive()
            if frame is None:
                raise StopAsyncIteration
            if isinstance(frame, Returned):
                self._events.append(Reconnected(frame.away_seconds, frame.attempts))
            else:
                self._take_message(decode_wire_message(FORECAST_DECODER, frame))
        event = self._events.popleft()
        if not self._events:
            self._note_read()
        return event

    def _note_read(self) -> None:
        if self._frame_id is not None:
            self.last_event_id, self._frame_id = self._frame_id, None

    def _take_answer(self, answer: SubscriptionAnswer) -> None:
        if answer.id is not None:
            self.last_event_id = answer.id
        if self._seen is None or self._seen.step_seconds != answer.step_seconds:
            self._seen = SeenOrigins(answer.step_seconds)
        self._seen.note_return()

    def _take_message(self, message: ForecastMessage) -> None:
        if message.type == "forecast":
            self._take_forecast(message)
        elif message.type == "forecasts":
            self._take_batch(message.to_batch())
        elif message.type == "lagged":
            self._events.append(MissedForecasts(message.dropped, MissReason.LAGGED))
        elif message.type == "error":
            raise RefusedError(f"{message.code}: {message.message}", code=message.code)
        self._frame_id = message.id

    def _take_forecast(self, message: ForecastMessage) -> None:
        assert self._seen is not None, "the subscription was answered"
        passed = self._seen.note(message.server, message.origin)
        if passed is None:
            return  # sent once more, since its id had not passed others that waited
        self._note_passed(passed)
        self._events.append(message.to_forecast())

    def _take_batch(self, batch: ForecastBatch) -> None:
        assert self._seen is not None, "the subscription was answered"
        passed, repeated = self._seen.note_many(batch.servers, batch.origins.tolist())
        self._note_passed(passed)
        batch = batch.drop(repeated) if repeated else batch
        if len(batch):
            self._events.append(batch)

    def _note_passed(self, steps: int) -> None:
        if steps:
            self._events.append(MissedForecasts(steps, MissReason.AWAY))
