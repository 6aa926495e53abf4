"""Delivers alerts to the receivers of the settings: each has a task, a queue and counts of its own.

So a receiver that is slow or away holds back no other one. Sends by a `Poster`, which another layer makes.
"""

import asyncio
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Protocol
from urllib.parse import urlsplit

import structlog
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from streamd.core.alerts.settings import AlertSettings
from streamd.runtime.alerts.alert import Alert, AlertChange, AlertKey, AlertState
from streamd.runtime.alerts.alertmanager_queue import AlertmanagerQueue
from streamd.runtime.alerts.alertmanager_sender import AlertmanagerSender
from streamd.runtime.alerts.delivery_records import DeliveryRecord
from streamd.runtime.alerts.shared_alerts import MarkStore
from streamd.runtime.alerts.webhook import WebhookSender
from streamd.runtime.alerts.webhook_queue import WebhookQueue
from streamd.runtime.outbound import Poster

log = structlog.get_logger(__name__)

SENDER_WAIT_SECONDS = 10.0
"""The wait before a sender that a defect ended is run again."""

WEBHOOK_NAME = "webhook"
"""The name of the webhook in metrics and logs: its URL may hold a secret."""


class AlertSender(Protocol):
    """The sender of one receiver."""

    record: DeliveryRecord

    @property
    def waiting(self) -> int:
        """The number of alerts that wait to be sent."""
        ...

    def note(self, change: AlertChange) -> None:
        """Note a change, which is on the disk."""
        ...

    def adopt(self, firing: Sequence[Alert], resolved: Sequence[Alert]) -> None:
        """Note alerts that another process kept and may not have sent, the newest `resolved` first."""
        ...

    def release(self, keys: AbstractSet[AlertKey]) -> None:
        """Send nothing more of these alerts."""
        ...

    async def run(self) -> None:
        """Send until cancelled."""
        ...


class AlertDelivery:
    """The senders of all receivers, as a listener of the monitor; before they are added it does nothing."""

    def __init__(self, senders: Sequence[AlertSender] = ()) -> None:
        self.senders = tuple(senders)
        """Only to be read."""

    def add_senders(self, senders: Sequence[AlertSender]) -> None:
        """Add senders, before `run`."""
        self.senders += tuple(senders)

    def alerts_changed(self, changes: Sequence[AlertChange]) -> None:
        """Note changes, which are on the disk by now: an alert is never sent and then unknown after a crash."""
        for sender in self.senders:
            for change in changes:
                sender.note(change)

    def adopt(self, active: Sequence[Alert], resolved: Sequence[Alert]) -> None:
        """Notify the receivers of what they lack of alerts that another process kept, the newest `resolved` first."""
        for sender in self.senders:
            sender.adopt(_list_notified(active), resolved)

    def release(self, keys: AbstractSet[AlertKey]) -> None:
        """Notify the receivers of these alerts no more."""
        for sender in self.senders:
            sender.release(keys)

    async def run(self) -> None:
        """Send until cancelled; what waits then is sent after the next start."""
        async with asyncio.TaskGroup() as group:
            for sender in self.senders:
                group.create_task(self._keep_sending(sender))

    async def _keep_sending(self, sender: AlertSender) -> None:
        """Run a sender again if a defect ends it: no alert may be lost in silence, and no other receiver's with it."""
        while True:
            try:
                await sender.run()
            except Exception:
                log.exception("alert_sender_failed", receiver=sender.record.name)
                await asyncio.sleep(SENDER_WAIT_SECONDS)


def collect_delivery_metrics(senders: Sequence[AlertSender]) -> Iterator[Metric]:
    """Yield the metrics of receivers, whose families are there without a receiver too."""
    notifications = CounterMetricFamily(
        "streamd_alert_notifications",
        "Alerts that were sent, by receiver and result; each attempt counts",
        labels=["receiver", "result"],
    )
    waiting = GaugeMetricFamily(
        "streamd_alert_notifications_waiting", "Alerts that a receiver lacks", labels=["receiver"]
    )
    last = GaugeMetricFamily(
        "streamd_alert_delivery_timestamp_seconds",
        "The time of the last POST that a receiver took; 0 if there was none since start",
        labels=["receiver"],
    )
    for sender in senders:
        record = sender.record
        for result, count in record.counts.items():
            notifications.add_metric([record.name, result], count)
        waiting.add_metric([record.name], sender.waiting)
        last.add_metric([record.name], record.last_success)
    yield from (notifications, waiting, last)


def describe_receivers(senders: Sequence[AlertSender]) -> list[dict[str, object]]:
    """Return the receivers for the status: the name, what waits, and the last success of each."""
    return [
        {"receiver": each.record.name, "waiting": each.waiting, "last_success": each.record.last_success or None}
        for each in senders
    ]


def make_senders(
    settings: AlertSettings,
    active: Mapping[AlertKey, Alert],
    resolved: Sequence[Alert],
    store: MarkStore | None,
    poster: Poster,
    now: float,
) -> list[AlertSender]:
    """Make a sender for each receiver of the settings, with what a former process left; `now` is monotonic.

    `active` is read while they run; `resolved` are the alerts that were resolved last, the newest first. Without a
    store, what the webhook has confirmed is not known after a restart.
    """
    senders: list[AlertSender] = []
    for name, url in zip(name_receivers(settings.alertmanagers), settings.alertmanagers, strict=True):
        queue = AlertmanagerQueue(
            active, resend_seconds=settings.resend_seconds, expiry_seconds=settings.alert_expiry_seconds, now=now
        )
        sender = AlertmanagerSender(
            DeliveryRecord(name),
            url,
            queue,
            poster,
            expiry_seconds=settings.alert_expiry_seconds,
            source_url=settings.alert_source_url,
        )
        sender.restore(resolved)
        senders.append(sender)
    if settings.alert_webhook:
        receiver = name_mark_receiver(settings.alert_webhook)
        webhook = WebhookSender(
            DeliveryRecord(WEBHOOK_NAME), settings.alert_webhook, receiver, WebhookQueue(), poster, store
        )
        webhook.adopt(_list_notified(active.values()), resolved)
        senders.append(webhook)
    return senders


def _list_notified(active: Iterable[Alert]) -> list[Alert]:
    """Return the alerts that receivers know of: those that fire and are not withheld."""
    return [each for each in active if each.state is AlertState.FIRING and not each.is_withheld]


def name_mark_receiver(url: str) -> str:
    """Return the name by which the store knows a webhook: another URL is another receiver, which lacks everything."""
    return f"{WEBHOOK_NAME} {hashlib.sha256(url.encode()).hexdigest()[:16]}"


def name_receivers(urls: Sequence[str]) -> list[str]:
    """Return the names of Alertmanagers in metrics and logs: the host and port of each, with its path if it has one.

    A user name, a password and a query are left out. Of several with the same name, the later ones get a number.
    """
    names: list[str] = []
    for url in urls:
        parts = urlsplit(url)
        name = shown = f"{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}"
        number = 2
        while name in names:
            name = f"{shown} {number}"
            number += 1
        names.append(name)
    return names
