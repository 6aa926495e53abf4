"""Tests `streamd/runtime/alerts/delivery.py`: alerts reach receivers on real sockets, whatever these answer."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest

from streamd.core.alerts.settings import AlertSettings
from streamd.runtime.alerts import alertmanager_sender, webhook
from streamd.runtime.alerts.alert import Alert, AlertState
from streamd.runtime.alerts.delivery import (
    AlertDelivery,
    AlertSender,
    collect_delivery_metrics,
    describe_receivers,
    make_senders,
    name_mark_receiver,
    name_receivers,
)
from streamd.runtime.alerts.store import AlertStore, open_alert_store
from streamd.runtime.outbound import RetryWaits
from streamd.server.outbound import OutboundClient
from tests.support.fake_alertmanager import FakeAlertmanager, FakeWebhook, run_receiver
from tests.support.made_alerts import NOW, HeldAlerts, make_alert, make_pending_alert, make_resolved_alert

Message = dict[str, Any]


@pytest.fixture(autouse=True)
def wait_shortly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a receiver that failed be asked again at once."""
    for module in (alertmanager_sender, webhook):
        monkeypatch.setattr(module, "RetryWaits", ShortWaits)


class ShortWaits(RetryWaits):
    def choose_wait(self, answer: object) -> float:
        return 0.001


class Running:
    """Alerts, and their delivery to receivers."""

    def __init__(self, alerts: HeldAlerts, senders: Sequence[AlertSender]) -> None:
        self.alerts = alerts
        self.senders = senders
        self.delivery = AlertDelivery(senders)

    def put(self, *alerts: Alert) -> None:
        self.delivery.alerts_changed([self.alerts.put(alert) for alert in alerts])

    async def wait_counted(self, count: int) -> None:
        """Wait until the answers to POSTs of so many alerts are noted."""
        async with asyncio.timeout(20):
            while sum(value for name, value in self.read_metrics().items() if "_total" in name) < count:
                await asyncio.sleep(0)

    def read_metrics(self) -> dict[str, float]:
        registry = CollectorRegistry()
        registry.register(Families(self.senders))
        lines = generate_latest(registry).decode().splitlines()
        return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line[0] != "#")}


class Families:
    def __init__(self, senders: Sequence[AlertSender]) -> None:
        self.collect = lambda: collect_delivery_metrics(senders)


@asynccontextmanager
async def deliver(
    settings: AlertSettings, alerts: HeldAlerts | None = None, store: AlertStore | None = None
) -> AsyncIterator[Running]:
    alerts = alerts or HeldAlerts()
    client = OutboundClient(token_file=settings.alerts_token_file)
    running = Running(alerts, make_senders(settings, alerts.active, alerts.resolved, store, client, 0.0))
    task = asyncio.create_task(running.delivery.run())
    try:
        yield running
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await client.close()


def to(*receivers: FakeAlertmanager, resend_seconds: float = 60.0) -> AlertSettings:
    return AlertSettings(alertmanagers=tuple(each.url for each in receivers), resend_seconds=resend_seconds)


# ---------------------------------------------------------------- Alertmanager
async def test_every_alertmanager_is_notified_once_of_each_state() -> None:
    first, second = FakeAlertmanager(), FakeAlertmanager()
    async with run_receiver(first), run_receiver(second), deliver(to(first, second)) as running:
        running.put(make_pending_alert(), make_pending_alert(server="db-08"))
        running.put(make_alert())
        await first.wait_until(lambda: bool(first.notifications))
        running.put(make_alert(updated_at=7.0))
        running.put(make_resolved_alert())
        for each in (first, second):
            await each.wait_until(lambda each=each: len(each.notifications) == 2)  # type: ignore[misc]
            assert each.count_notifications() == {("firing", "db-07"): 1, ("resolved", "db-07"): 1}


async def test_active_and_resolved_alerts_are_repeated_so_that_a_restarted_alertmanager_learns_them() -> None:
    receiver = FakeAlertmanager()
    async with run_receiver(receiver), deliver(to(receiver, resend_seconds=0.02)) as running:
        running.put(make_alert(), make_alert(server="db-08"))
        await receiver.wait_until(lambda: len(receiver.alerts) == 2)
        receiver.restart()
        await receiver.wait_until(lambda: len(receiver.alerts) == 2)
        receiver.statuses = [503] * 3  # it is away while the alert ends
        running.put(make_resolved_alert())
        receiver.restart()
        await receiver.wait_until(lambda: ("resolved", "db-07") in receiver.count_notifications())
        receiver.restart()
        await receiver.wait_until(lambda: len(receiver.alerts) == 2)
        assert set(receiver.count_notifications().values()) == {1}


async def test_bodies_that_a_proxy_finds_too_large_are_divided_and_one_large_alert_holds_back_no_other_one() -> None:
    receiver = FakeAlertmanager(max_body_bytes=4_000)
    alerts = [make_alert(server=f"db-{number:02}") for number in range(40)]
    alerts[7] = make_alert(server="large", annotations={"text": "x" * 8_000})
    async with run_receiver(receiver), deliver(to(receiver), HeldAlerts(*alerts)):
        await receiver.wait_until(lambda: len(receiver.alerts) == 39)
        assert all(server != "large" for _, server in receiver.count_notifications())
        assert len(receiver.posts) < 60


async def test_one_bad_alert_costs_no_other_one_and_is_not_sent_in_a_loop() -> None:
    receiver = FakeAlertmanager()
    bad = make_alert(server="bad", labels={"a.b": "x"})  # as settings never are
    async with run_receiver(receiver), deliver(to(receiver), HeldAlerts(bad, make_alert())) as running:
        await receiver.wait_until(lambda: bool(receiver.posts))
        assert [labels["server"] for _, labels in receiver.notifications] == ["db-07"]
        running.put(make_alert(server="db-08"))
        await receiver.wait_until(lambda: ("firing", "db-08") in receiver.count_notifications())
        await running.wait_counted(3)
        assert len(receiver.posts) == 2
        name = receiver.url.removeprefix("http://")
        metrics = running.read_metrics()
        counted = 'streamd_alert_notifications_total{receiver="%s",result="%s"}'
        assert metrics[counted % (name, "refused")] == 2
        assert metrics[counted % (name, "delivered")] == 1


@pytest.mark.parametrize("status", [0, 401, 503])
async def test_what_a_receiver_does_not_take_is_sent_until_it_does(status: int) -> None:
    receiver = FakeAlertmanager(statuses=[status, status], headers={"Retry-After": "0"})
    async with run_receiver(receiver), deliver(to(receiver)) as running:
        running.put(make_alert())
        await receiver.wait_until(lambda: bool(receiver.notifications))
        assert len(receiver.posts) == 3
        running.put(make_alert(server="db-08"))
        await receiver.wait_until(lambda: len(receiver.notifications) == 2)


async def test_the_status_says_what_a_receiver_lacks() -> None:
    away = FakeAlertmanager(statuses=[503] * 1_000_000)
    async with run_receiver(away), deliver(to(away)) as running:
        assert describe_receivers(running.senders) == [
            {"receiver": away.url.removeprefix("http://"), "waiting": 0, "last_success": None}
        ]
        running.put(make_alert())
        assert describe_receivers(running.senders)[0]["waiting"] == 1
        away.statuses = []
        await running.wait_counted(1)
        assert describe_receivers(running.senders)[0]["waiting"] == 0


async def test_a_receiver_that_is_away_holds_back_no_other_one() -> None:
    away, there = FakeAlertmanager(statuses=[503] * 1_000_000), FakeAlertmanager()
    async with run_receiver(away), run_receiver(there), deliver(to(away, there)) as running:
        for number in range(3):
            running.put(make_alert(server=f"db-{number}"))
        await there.wait_until(lambda: len(there.notifications) == 3)
        assert away.notifications == []
        waiting = 'streamd_alert_notifications_waiting{receiver="%s"}'
        assert running.read_metrics()[waiting % there.url.removeprefix("http://")] == 0


async def test_many_alerts_are_sent_in_posts_of_500() -> None:
    receiver = FakeAlertmanager()
    alerts = HeldAlerts(*(make_alert(server=f"db-{number}") for number in range(1_200)))
    async with run_receiver(receiver), deliver(to(receiver), alerts):
        await receiver.wait_until(lambda: len(receiver.notifications) == 1_200)
    assert [len(post) for post in receiver.posts] == [500, 500, 200]


async def test_the_token_of_a_file_is_sent(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("secret-1\n")
    file.chmod(0o600)
    receiver = FakeAlertmanager()
    async with run_receiver(receiver):
        settings = AlertSettings(alertmanagers=(receiver.url,), alerts_token_file=str(file))
        async with deliver(settings, HeldAlerts(make_alert())):
            await receiver.wait_until(lambda: bool(receiver.posts))
    assert receiver.authorizations == {"Bearer secret-1"}


# ---------------------------------------------------------------- webhook
async def test_the_webhook_gets_what_fired_and_what_was_resolved_with_ids() -> None:
    receiver = FakeWebhook()
    async with run_receiver(receiver), deliver(AlertSettings(alert_webhook=f"{receiver.url}/hook")) as running:
        running.put(make_pending_alert())
        running.put(make_alert())
        await receiver.wait_until(lambda: len(receiver.notifications) == 1)
        running.delivery.alerts_changed([running.alerts.put(make_alert(updated_at=9.0), "refreshed")])
        running.put(make_resolved_alert())
        await receiver.wait_until(lambda: len(receiver.notifications) == 2)
    assert receiver.notifications == [("firing", "disk_fills", "db-07"), ("resolved", "disk_fills", "db-07")]
    assert {post["version"] for post in receiver.posts} == {"1"}
    assert len({each["id"] for post in receiver.posts for each in post["alerts"]}) == 2


async def test_a_restart_repeats_what_was_not_confirmed_and_nothing_else(tmp_path: Path) -> None:
    receiver = FakeWebhook()
    alerts = HeldAlerts()
    async with run_receiver(receiver):
        settings = AlertSettings(alert_webhook=receiver.url)
        store = open_alert_store(tmp_path)
        async with deliver(settings, alerts, store) as running:
            running.put(make_alert(), make_alert(server="db-08"))
            await receiver.wait_until(lambda: len(receiver.notifications) == 2)
            await running.wait_counted(2)
            receiver.statuses = [503] * 1_000_000
            alerts.put(make_resolved_alert())  # the process ends before its delivery begins
            store.write()
        store.close()
        receiver.statuses, receiver.posts[:] = [], []
        store = open_alert_store(tmp_path)
        async with deliver(settings, alerts, store) as running:
            running.put(make_alert(server="db-09"))
            await receiver.wait_until(lambda: len(receiver.notifications) == 2)
            store.write()
        store.close()
    assert set(receiver.notifications) == {("resolved", "disk_fills", "db-07"), ("firing", "disk_fills", "db-09")}


async def test_an_alert_that_the_webhook_refuses_holds_back_no_other_one() -> None:
    class Picky(FakeWebhook):
        def answer(self, request: web.Request, body: Message) -> web.Response:
            is_bad = any(each["server"] == "bad" for each in body["alerts"])
            return web.Response(status=400 if is_bad else 200)

    receiver = Picky()
    alerts = HeldAlerts(make_alert(server="bad"), make_alert(server="a"), make_alert(server="b"))
    async with run_receiver(receiver), deliver(AlertSettings(alert_webhook=receiver.url), alerts):
        await receiver.wait_until(lambda: {"a", "b"} <= {name for post in receiver.posts for name in list_alone(post)})


def list_alone(post: Message) -> list[str]:
    return [each["server"] for each in post["alerts"] if len(post["alerts"]) == 1]


async def test_a_stored_mark_is_of_one_receiver(tmp_path: Path) -> None:
    store = open_alert_store(tmp_path)
    alert = make_alert()
    store.mark_delivered(name_mark_receiver("http://old/"), alert.key, alert.starts_at or 0.0, AlertState.FIRING)
    receiver = FakeWebhook()
    async with run_receiver(receiver), deliver(AlertSettings(alert_webhook=receiver.url), HeldAlerts(alert), store):
        await receiver.wait_until(lambda: len(receiver.notifications) == 1)
    store.close()


# ---------------------------------------------------------------- silences
async def test_an_alert_that_fired_while_silenced_is_sent_when_it_is_released() -> None:
    manager, hook = FakeAlertmanager(), FakeWebhook()
    withheld = make_alert(silenced_until=NOW + 60, is_withheld=True)
    async with run_receiver(manager), run_receiver(hook):
        settings = AlertSettings(alertmanagers=(manager.url,), alert_webhook=hook.url, resend_seconds=0.01)
        async with deliver(settings, HeldAlerts(withheld)) as running:
            running.put(make_alert(server="seen"), make_alert(server="db-08", is_withheld=True))
            running.put(make_resolved_alert(server="db-08", is_withheld=True))
            for receiver in (manager, hook):
                await receiver.wait_until(lambda receiver=receiver: len(receiver.posts) >= 1)  # type: ignore[misc]
            await manager.wait_until(lambda: len(manager.posts) >= 3)
            released = running.alerts.put(make_alert(), "released")
            running.delivery.alerts_changed([released])
            await hook.wait_until(lambda: len(hook.notifications) == 2)
            await manager.wait_until(lambda: len(manager.notifications) == 2)
    expected = [("firing", "seen"), ("firing", "db-07")]
    assert [(state, server) for state, _, server in hook.notifications] == expected
    assert list(manager.count_notifications()) == expected


async def test_after_a_restart_nothing_is_sent_that_is_withheld(tmp_path: Path) -> None:
    manager, hook = FakeAlertmanager(), FakeWebhook()
    now = time.time()
    alerts = HeldAlerts(
        make_alert(server="a", is_withheld=True),
        make_resolved_alert(server="b", is_withheld=True, ends_at=now),
        make_alert(server="seen"),
    )
    async with run_receiver(manager), run_receiver(hook):
        settings = AlertSettings(alertmanagers=(manager.url,), alert_webhook=hook.url, resend_seconds=0.01)
        async with deliver(settings, alerts):
            await manager.wait_until(lambda: len(manager.posts) >= 3)
            await hook.wait_until(lambda: len(hook.posts) >= 1)
    assert {server for _, _, server in hook.notifications} == {"seen"}
    assert {each["labels"]["server"] for post in manager.posts for each in post} == {"seen"}


# ---------------------------------------------------------------- names
def test_a_name_has_no_secret() -> None:
    urls = ["http://user:pass@am-1:9093/", "https://am-2/base?key=1", "http://am-1:9093", "https://am-1:9093"]
    assert name_receivers(urls) == ["am-1:9093", "am-2/base", "am-1:9093 2", "am-1:9093 3"]
    assert "hook" not in name_mark_receiver("https://hooks/secret").removeprefix("webhook")
