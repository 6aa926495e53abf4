"""Tests `streamd/client/alerts.py`: alerts as pages and as updates, also over connections that are lost."""

from pathlib import Path

import pytest

from streamd.client import AlertUpdate, Client, CrossingBounds, RefusedError
from tests.support.access_tokens import grant_all, make_access_list, make_test_token
from tests.support.http_harness import HttpDaemon, HttpDaemonSettings, run_http_daemon
from tests.support.made_alerts import ServedAlerts, make_alert, make_pending_alert, make_resolved_alert
from tests.support.relay import Relay


def name(update: AlertUpdate) -> list[tuple[str, str]]:
    return sorted((alert.server, alert.state) for alert in update.alerts)


async def test_alerts_are_listed_page_by_page(
    client: Client, daemon: HttpDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamd.client.client.PAGE_ENTRIES", 2)
    ServedAlerts(
        daemon.service, *(make_alert(server=f"db-{number}") for number in range(5)), make_pending_alert("y", "p,1")
    )
    found = [alert async for alert in client.list_alerts()]
    assert [alert.server for alert in found] == [*(f"db-{number}" for number in range(5)), "p,1"]
    assert [alert.server async for alert in client.list_alerts(states=["pending"])] == ["p,1"]
    assert [alert.server async for alert in client.list_alerts(servers=["p,1", "*-3"])] == ["db-3", "p,1"]
    assert [alert.server async for alert in client.list_alerts(rules=["y"])] == ["p,1"]


async def test_alerts_are_silenced_for_a_while(tmp_path: Path) -> None:
    token = make_test_token("ops", grant_all())
    async with (
        run_http_daemon(tmp_path / "x", HttpDaemonSettings(access=make_access_list(token))) as daemon,
        Client(daemon.url, token=token.token) as client,
    ):
        ServedAlerts(daemon.service)
        begun = await client.begin_silence("db-*", seconds=60.0, why="disk swap")
        assert (begun["servers"], begun["rules"], begun["who"]) == (["db-*"], None, "ops")
        assert await client.list_silences() == [begun]
        with pytest.raises(RefusedError, match="rules has 'x', expected some of no rule"):
            await client.begin_silence("*", seconds=60.0, why="a test", rules="x")
        await client.end_silence(begun["id"])
        assert (await client.list_silences(), await client.list_alert_rules()) == ([], [])


async def test_an_alert_has_all_that_the_daemon_says(client: Client, daemon: HttpDaemon) -> None:
    alert = make_alert(server="a")
    ServedAlerts(daemon.service, alert)
    (found,) = [each async for each in client.list_alerts()]
    assert (found.rule, found.server, found.state, found.severity) == (*alert.key, alert.state, alert.severity)
    assert (found.target, found.unit, found.quantile) == (alert.target, alert.unit, alert.quantile)
    assert (found.above, found.below) == (alert.threshold, None)
    assert (found.labels, found.annotations) == (dict(alert.labels), dict(alert.annotations))
    assert (found.within_seconds, found.starts_at, found.origin) == (
        alert.within_seconds,
        alert.starts_at,
        alert.origin,
    )
    times = alert.crosses_at
    assert found.crosses_at == CrossingBounds(times.earliest, times.likely, times.latest)


async def test_a_reader_gets_what_is_active_and_then_each_change(client: Client, daemon: HttpDaemon) -> None:
    alerts = ServedAlerts(daemon.service, make_alert(server="a"), make_alert("other", "a"), make_alert(server="b"))
    async with client.subscribe_alerts(["a", "c"], ["disk_fills"]) as updates:
        snapshot = await anext(updates)
        assert (name(snapshot), snapshot.is_snapshot) == ([("a", "firing")], True)
        alerts.put(make_resolved_alert(server="b"), make_resolved_alert(server="a"))
        change = await anext(updates)
        assert (name(change), change.is_snapshot) == ([("a", "resolved")], False)


async def test_a_snapshot_in_several_frames_is_one_update(
    client: Client, daemon: HttpDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamd.http.alert_sources.MAX_ALERTS", 2)
    ServedAlerts(daemon.service, *(make_alert(server=f"s{number}") for number in range(5)))
    async with client.subscribe_alerts() as updates:
        assert len((await anext(updates)).alerts) == 5


async def test_after_a_lost_connection_comes_what_is_active_now(
    client: Client, daemon: HttpDaemon, relay: Relay
) -> None:
    alerts = ServedAlerts(daemon.service, make_alert(server="a"), make_alert(server="b"))
    async with client.subscribe_alerts() as updates:
        assert len((await anext(updates)).alerts) == 2
        relay.cut()
        alerts.put(make_resolved_alert(server="a"))
        again = await anext(updates)
        while again.alerts[0].state == "resolved":  # it was sent before the loss was noticed
            again = await anext(updates)
        assert (name(again), again.is_snapshot) == ([("b", "firing")], True)
        await updates.close()
        assert await anext(updates, None) is None
