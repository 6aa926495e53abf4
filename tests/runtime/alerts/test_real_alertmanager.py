"""Tests `streamd/runtime/alerts/alertmanager_sender.py` with a real Alertmanager, if this machine has one.

`STREAMD_ALERTMANAGER` names the program, else it is on the path: Debian's package `prometheus-alertmanager` has it.
"""

import asyncio
import contextlib
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import aiohttp
import pytest

from streamd.core.alerts.settings import AlertSettings
from streamd.runtime.alerts.delivery import AlertDelivery, make_senders
from streamd.server.outbound import OutboundClient
from streamd.tools.loadtest.errors import UnreachableError
from streamd.tools.scene.notifications import ALERTMANAGER_PACKAGE, NotificationCounter, SceneAlertmanager
from streamd.tools.scene.processes import find_lasting_port
from tests.support.made_alerts import HeldAlerts, make_alert, make_resolved_alert

PROGRAM = os.environ.get("STREAMD_ALERTMANAGER") or shutil.which(ALERTMANAGER_PACKAGE) or shutil.which("alertmanager")


async def wait_until(test: Callable[[], bool], alertmanager: SceneAlertmanager) -> None:
    async with asyncio.timeout(30):
        while not test():
            alertmanager.process.check_running()
            await asyncio.sleep(0.05)


@pytest.mark.skipif(PROGRAM is None, reason="there is no Alertmanager")
async def test_a_real_alertmanager_notifies_once_of_each_state_also_after_a_restart(tmp_path: Path) -> None:
    assert PROGRAM is not None
    counter, port = NotificationCounter(), find_lasting_port()
    servers = ["db-07", 'a "name"\n\\ of ä 🚀', " "]
    async with aiohttp.ClientSession() as session, counter.serve(port):
        alertmanager = SceneAlertmanager(session, Path(PROGRAM), tmp_path, find_lasting_port(), port)
        settings = AlertSettings(alertmanagers=(alertmanager.url,), resend_seconds=0.2, alert_source_url="http://a/b")
        now = time.time()
        alerts = HeldAlerts(*(make_alert(server=each, starts_at=now - 5) for each in servers))
        client = OutboundClient()
        senders = make_senders(settings, alerts.active, alerts.resolved, None, client, 0.0)
        delivery = AlertDelivery(senders)
        sending = asyncio.create_task(delivery.run())
        alertmanager.process.start()
        try:
            await wait_until(lambda: counter.count_states("firing")[0] == len(servers), alertmanager)
            await asyncio.sleep(1.5)  # so that it stores whom it has notified
            alertmanager.process.kill()
            ended = [make_resolved_alert(server=each, starts_at=now - 5, ends_at=time.time()) for each in servers]
            delivery.alerts_changed([alerts.put(each) for each in ended])
            alertmanager.process.start()
            await wait_until(lambda: counter.count_states("resolved")[0] == len(servers), alertmanager)
            with contextlib.suppress(UnreachableError):
                assert await alertmanager.count_alerts() == 0
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            await client.close()
            alertmanager.process.kill()
    assert set(counter.by_alertmanager.values()) == {1}
    assert senders[0].record.counts["refused"] == 0
