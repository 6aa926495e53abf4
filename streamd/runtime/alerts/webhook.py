"""Sends alerts that fired or were resolved to a webhook, each at least once; on the event loop, in a task of its own.

`webhook_queue.py` decides what is sent. What the receiver has confirmed is marked in the store, so a restart repeats
only what was sent without a mark.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from collections.abc import Set as AbstractSet
from functools import partial

import msgspec

from streamd.runtime.alerts.alert import Alert, AlertChange, AlertKey
from streamd.runtime.alerts.delivery_records import DeliveryRecord
from streamd.runtime.alerts.shared_alerts import MarkStore
from streamd.runtime.alerts.store import DeliveryMark
from streamd.runtime.alerts.webhook_queue import WebhookQueue
from streamd.runtime.alerts.wire_form import describe_alert, make_notification_id
from streamd.runtime.background import run_in_background
from streamd.runtime.outbound import PostAnswer, Poster, RetryWaits

MAX_NOTIFICATIONS = 100
"""Alerts in one POST, at most."""

WEBHOOK_VERSION = "1"


class WebhookSender:
    """The sender of one webhook; `receiver` is the name by which the store, if there is one, knows it."""

    def __init__(
        self,
        record: DeliveryRecord,
        url: str,
        receiver: str,
        queue: WebhookQueue,
        poster: Poster,
        marks: MarkStore | None,
        *,
        wall: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.record = record
        self._url = url
        self._receiver = receiver
        self._queue = queue
        self._poster = poster
        self._marks = marks
        self._wall = wall
        self._sleep = sleep
        self._waits = RetryWaits()
        self._news = asyncio.Event()
        self._batch = MAX_NOTIFICATIONS

    @property
    def waiting(self) -> int:
        """The number of alerts that wait to be sent."""
        return len(self._queue)

    def note(self, change: AlertChange) -> None:
        """Note that an alert fired, was released or was resolved; nothing else is sent."""
        if change.kind in ("fired", "released", "resolved") and not change.alert.is_withheld:
            self._queue.note(change.alert)
            self._news.set()

    def adopt(self, firing: Sequence[Alert], resolved: Sequence[Alert]) -> None:
        """Note what a former process has not delivered; `resolved` has the newest alert first."""
        marks = frozenset() if self._marks is None else self._marks.read_marks()
        self._queue.restore(
            firing,
            resolved,
            lambda alert, state: DeliveryMark(self._receiver, alert.key, alert.starts_at or 0.0, state) in marks,
        )
        self._news.set()

    def release(self, keys: AbstractSet[AlertKey]) -> None:
        """Send nothing more of these alerts."""
        self._queue.remove(keys)

    async def run(self) -> None:
        """Send until cancelled."""
        while True:
            while not len(self._queue):
                self._news.clear()
                await self._news.wait()
            await self._send_next()

    async def _send_next(self) -> None:
        alerts = self._queue.peek(self._batch)
        answer = await self._send(alerts)
        if answer.is_taken:
            self._confirm(alerts)
            return
        if answer.is_refused:
            # One alert may be the reason: alone, and behind the others, it holds none of them back.
            self._queue.postpone(alerts)
            if len(alerts) > 1:
                self._batch = 1
        await self._sleep(self._waits.choose_wait(answer))

    def _confirm(self, alerts: Sequence[Alert]) -> None:
        if self._marks is not None:
            for alert in alerts:
                self._marks.mark_delivered(self._receiver, alert.key, alert.starts_at or 0.0, alert.state)
        self._queue.confirm(alerts)
        self._waits.end_failures()
        self._batch = MAX_NOTIFICATIONS

    async def _send(self, alerts: Sequence[Alert]) -> PostAnswer:
        body = await run_in_background(partial(encode_notifications, alerts, self._wall()))
        answer = await self._poster.post(self._url, body, {"Content-Type": "application/json"})
        self.record.note(answer, len(alerts), self._wall())
        return answer


def encode_notifications(alerts: Sequence[Alert], now: float) -> bytes:
    """Return the body of a webhook's POST, at the time `now` (epoch seconds): alerts in their wire form, with ids."""
    shown = [{"id": make_notification_id(alert), **describe_alert(alert, now)} for alert in alerts]
    return msgspec.json.encode({"version": WEBHOOK_VERSION, "alerts": shown})
