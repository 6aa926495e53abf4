"""Tests `streamd/tools/scene/notifications.py`: notifications are counted by who sent them."""

import aiohttp

from streamd.runtime.alerts.webhook import encode_notifications
from streamd.tools.scene.notifications import NotificationCounter
from streamd.tools.scene.processes import find_lasting_port
from tests.support.made_alerts import NOW, make_alert, make_resolved_alert

WEBHOOK_BODY = (
    b'{"receiver":"hook","status":"STATE","alerts":[{"status":"STATE","labels":{"alertname":"D1","server":"web-01"},'
    b'"annotations":{},"startsAt":"2026-11-28T21:02:41.177603Z","endsAt":"2026-11-28T21:12:45.068392Z",'
    b'"generatorURL":"","fingerprint":"15c5b5b38d74b74a"}],"groupLabels":{"alertname":"D1"},"version":"4",'
    b'"commonLabels":{"alertname":"D1","server":"web-01"},"groupKey":"{}:{}","truncatedAlerts":0}'
)
"""What Alertmanager 0.25 sends to a webhook."""


async def test_notifications_of_alertmanager_and_of_the_daemon_are_counted() -> None:
    counter, port = NotificationCounter(), find_lasting_port()
    url = f"http://127.0.0.1:{port}"
    async with counter.serve(port), aiohttp.ClientSession() as session:
        for state in ("firing", "resolved"):
            await session.post(f"{url}/alertmanager", data=WEBHOOK_BODY.replace(b"STATE", state.encode()))
        body = encode_notifications([make_alert(), make_alert(server="web-01"), make_resolved_alert()], NOW)
        for _ in range(2):
            await session.post(f"{url}/daemon", data=body)
    assert counter.by_alertmanager == {("web-01", "firing"): 1, ("web-01", "resolved"): 1}
    assert set(counter.by_daemon.values()) == {2}
    assert len(counter.ids) == 3
    assert counter.count_states("firing") == (1, 2)
