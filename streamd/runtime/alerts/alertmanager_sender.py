"""Sends alerts to one Alertmanager for as long as the daemon runs; on the event loop, in a task of its own.

`alertmanager_queue.py` decides what is sent, `alertmanager.py` how it looks.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from functools import partial

import msgspec

from streamd.runtime.alerts.alert import Alert, AlertChange, AlertKey
from streamd.runtime.alerts.alertmanager import ALERTS_PATH, make_alertmanager_alert
from streamd.runtime.alerts.alertmanager_queue import AlertmanagerQueue
from streamd.runtime.alerts.delivery_records import DeliveryRecord
from streamd.runtime.background import run_in_background
from streamd.runtime.outbound import PostAnswer, Poster, RetryWaits

MAX_BATCH = 500
"""Alerts in one POST, at most; fewer if a receiver, or a proxy before it, finds a body too large."""

ENCODED_AT_ONCE, YIELD_SECONDS = 10, 0.0005
"""After so many alerts the thread that encodes lets the loop run, which would else wait 5 ms for the interpreter."""

JSON_HEADERS = {"Content-Type": "application/json"}

_BAD_ALERT_STATUSES = frozenset({400, 422})
"""Alertmanager refuses single alerts with the first, and keeps the others of the POST."""

_TOO_LARGE_STATUS = 413


class AlertmanagerSender:
    """The sender of one Alertmanager, whose base URL is `url`."""

    def __init__(
        self,
        record: DeliveryRecord,
        url: str,
        queue: AlertmanagerQueue,
        poster: Poster,
        *,
        expiry_seconds: float,
        source_url: str = "",
        wall: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.record = record
        self._url = f"{url.rstrip('/')}{ALERTS_PATH}"
        self._queue = queue
        self._poster = poster
        self._expiry_seconds = expiry_seconds
        self._source_url = source_url
        self._wall = wall
        self._clock = clock
        self._sleep = sleep
        self._waits = RetryWaits()
        self._news = asyncio.Event()
        self._batch = MAX_BATCH

    @property
    def waiting(self) -> int:
        """The number of alerts that wait to be sent."""
        return self._queue.due

    def restore(self, resolved: Sequence[Alert]) -> None:
        """Note the alerts that were resolved lately, the newest first; those that are active are sent anyway."""
        for alert in reversed(resolved):
            if alert.is_withheld:
                continue
            age_seconds = self._wall() - (alert.ends_at or 0.0)
            self._queue.note_resolved(alert, self._clock(), max(age_seconds, 0.0))

    def adopt(self, firing: Sequence[Alert], resolved: Sequence[Alert]) -> None:
        """Send alerts that another process kept, also those that it sent: a repetition is nothing new here."""
        self.restore(resolved)
        for alert in firing:
            self._queue.note_firing(alert.key)
        self._news.set()

    def release(self, keys: AbstractSet[AlertKey]) -> None:
        """Send nothing more of these alerts."""
        self._queue.remove(keys)

    def note(self, change: AlertChange) -> None:
        """Note that an alert fired, was released or was resolved; a newer range waits for the next repetition."""
        if change.alert.is_withheld:
            return
        if change.kind == "resolved":
            self._queue.note_resolved(change.alert, self._clock())
        elif change.kind in ("fired", "released"):
            self._queue.note_firing(change.alert.key)
        self._news.set()

    async def run(self) -> None:
        """Send until cancelled."""
        while True:
            await self._wait_until_due()
            alerts = self._queue.take(self._batch, self._clock())
            if alerts:
                await self._handle_answer(alerts, await self._send(alerts))

    async def _handle_answer(self, alerts: Sequence[Alert], answer: PostAnswer) -> None:
        if answer.is_taken:
            self._waits.end_failures()
        elif answer.status == _TOO_LARGE_STATUS:
            if len(alerts) > 1:
                self._batch = len(alerts) // 2
                self._queue.put_back(alerts)
                return
            # Too large alone: it waits for the next repetition, so that it holds back no other one.
            self._batch = MAX_BATCH
            await self._sleep(self._waits.choose_wait(answer))
        elif answer.status not in _BAD_ALERT_STATUSES:  # else the bad one would be refused again at once
            self._queue.put_back(alerts)
            await self._sleep(self._waits.choose_wait(answer))

    async def _wait_until_due(self) -> None:
        while (seconds := self._queue.count_seconds(self._clock())) > 0:
            self._news.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._news.wait()

    async def _send(self, alerts: Sequence[Alert]) -> PostAnswer:
        now = self._wall()
        # In a thread: to write 500 alerts takes longer than a turn of the loop may.
        body = await run_in_background(partial(self._encode, alerts, now))
        answer = await self._poster.post(self._url, body, JSON_HEADERS)
        self.record.note(answer, len(alerts), self._wall())
        return answer

    def _encode(self, alerts: Sequence[Alert], now: float) -> bytes:
        shown = []
        for alert in alerts:
            shown.append(
                make_alertmanager_alert(alert, now, expiry_seconds=self._expiry_seconds, source_url=self._source_url)
            )
            if not len(shown) % ENCODED_AT_ONCE:
                time.sleep(YIELD_SECONDS)
        return msgspec.json.encode(shown)
