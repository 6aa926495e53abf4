"""Tests `streamd/server/alert_delivery.py`: a service's alerts reach the receivers of the settings."""

import asyncio
from pathlib import Path
from typing import cast

import pytest

from streamd.core.alerts.settings import AlertSettings
from streamd.core.errors import ConfigError
from streamd.runtime.alerts.alert import Alert, AlertKey
from streamd.runtime.alerts.delivery import AlertDelivery
from streamd.runtime.service import Service
from streamd.server.alert_delivery import AlertDeliveryTask
from tests.support.fake_alertmanager import FakeAlertmanager, FakeWebhook, run_receiver
from tests.support.http_harness import HttpDaemonSettings, run_http_daemon
from tests.support.made_alerts import HeldAlerts, ServedAlerts, make_alert, make_resolved_alert


class StartedAlerts(HeldAlerts):
    """A monitor that has started, without a store."""

    marks = None

    @property
    def own_active(self) -> dict[AlertKey, Alert]:
        return self.active

    @property
    def own_resolved(self) -> list[Alert]:
        return self.resolved

    def add_receivers(self, receivers: AlertDelivery) -> None:
        self.listener = receivers


async def test_alerts_of_a_former_process_and_later_ones_reach_all_receivers(tmp_path: Path) -> None:
    alertmanager, webhook = FakeAlertmanager(), FakeWebhook()
    async with (
        run_receiver(alertmanager),
        run_receiver(webhook),
        run_http_daemon(tmp_path, HttpDaemonSettings()) as daemon,
    ):
        served = ServedAlerts(daemon.service, held=StartedAlerts(make_alert()))
        alerts = cast("StartedAlerts", served.held)
        settings = AlertSettings(alertmanagers=(alertmanager.url,), alert_webhook=webhook.url)
        task = asyncio.create_task(AlertDeliveryTask(daemon.service, settings).run())
        try:
            await alertmanager.wait_until(lambda: len(alertmanager.notifications) == 1)
            alerts.listener.alerts_changed([alerts.put(make_resolved_alert())])
            await alertmanager.wait_until(lambda: len(alertmanager.notifications) == 2)
            await webhook.wait_until(lambda: len(webhook.notifications) > 0)
            receivers = (await daemon.status())["alerts"]["receivers"]
            assert [each["receiver"] for each in receivers] == [alertmanager.url.removeprefix("http://"), "webhook"]
            metrics = (await daemon.get("/metrics")).data.decode()
            assert 'streamd_alert_notifications_total{receiver="webhook",result="delivered"}' in metrics
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def test_without_a_receiver_the_task_ends_at_once(tmp_path: Path) -> None:
    async with run_http_daemon(tmp_path, HttpDaemonSettings()) as daemon:
        ServedAlerts(daemon.service)
        await AlertDeliveryTask(daemon.service, AlertSettings()).run()


def test_a_ca_file_that_cannot_be_used_stops_the_start(tmp_path: Path) -> None:
    settings = AlertSettings(alerts_ca_file=str(tmp_path / "ca.pem"))
    with pytest.raises(ConfigError, match="the CAs of receivers cannot be read"):
        AlertDeliveryTask(cast("Service", None), settings)
