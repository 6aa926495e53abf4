"""Tests `streamd/runtime/alerts/alert_subscriptions.py`: a reader gets the newest state of each alert of its choice."""

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamd.core.access.caller import ANYBODY, Caller
from streamd.core.access.scopes import Scope
from streamd.core.selection import ServerGlobs
from streamd.runtime.alerts import alert_subscriptions
from streamd.runtime.alerts.alert import Alert
from streamd.runtime.alerts.alert_subscriptions import AlertChoice, AlertNews, AlertSubscription, AlertSubscriptions
from tests.support.made_alerts import HeldAlerts, make_alert, make_resolved_alert


class Reading:
    """Alerts with readers."""

    def __init__(self, *alerts: Alert) -> None:
        self.alerts = HeldAlerts(*alerts)
        self.subscriptions = AlertSubscriptions()
        self.subscriptions.follow(self.alerts.active)

    def subscribe(
        self, globs: Sequence[str] = ("*",), rules: frozenset[str] | None = None, caller: Caller = ANYBODY
    ) -> AlertSubscription:
        return self.subscriptions.subscribe(AlertChoice(ServerGlobs(globs), rules), caller)

    def put(self, *alerts: Alert) -> None:
        self.subscriptions.alerts_changed([self.alerts.put(alert) for alert in alerts])


async def read(subscription: AlertSubscription, count: int = 256) -> AlertNews:
    news = None
    async with asyncio.timeout(10):
        while news is None:
            await subscription.wait()
            news = await subscription.read(count)
    return news


def list_servers(news: AlertNews) -> list[str]:
    return [alert.server for alert in news.alerts]


async def test_a_reader_gets_all_that_is_active_and_then_each_change() -> None:
    reading = Reading(make_alert(server="a"), make_alert(server="b"))
    subscription = reading.subscribe()
    first = await read(subscription)
    assert (list_servers(first), first.is_snapshot, first.has_more) == (["a", "b"], True, False)
    resolved = make_resolved_alert(server="a")
    reading.put(resolved)
    assert await read(subscription) == AlertNews([resolved], is_snapshot=False, has_more=False)


async def test_a_reader_waits_until_the_alerts_of_the_former_process_are_known() -> None:
    reading = Reading()
    reading.subscriptions.follow(reading.alerts.active, are_restored=False)
    subscription = reading.subscribe(["a", "b", "c"])
    reading.put(make_alert(server="a"), make_resolved_alert(server="b"))
    task = asyncio.create_task(read(subscription))
    await asyncio.sleep(0)
    assert not task.done()
    assert not reading.subscriptions.are_restored
    reading.subscriptions.begin()
    first = await task
    assert (list_servers(first), first.is_snapshot) == (["a"], True)
    assert list_servers(await read(subscription)) == ["b"]


async def test_a_reader_that_waits_for_the_former_alerts_can_be_ended() -> None:
    reading = Reading()
    reading.subscriptions.follow(reading.alerts.active, are_restored=False)
    subscription = reading.subscribe()
    reading.subscriptions.close()
    async with asyncio.timeout(10):
        await subscription.wait()
    assert await subscription.read(10) is None


async def test_the_snapshot_comes_without_alerts_too() -> None:
    assert await read(Reading().subscribe()) == AlertNews([], is_snapshot=True, has_more=False)


async def test_a_large_snapshot_comes_in_parts_before_any_change() -> None:
    reading = Reading(*(make_alert(server=str(number)) for number in range(5)))
    subscription = reading.subscribe()
    reading.put(make_alert(server="new"), make_alert(server="4", updated_at=3.0))
    parts = [await read(subscription, 2) for _ in range(4)]
    assert [list_servers(each) for each in parts] == [["0", "1"], ["2", "3"], ["4"], ["new"]]
    assert [each.has_more for each in parts] == [True, True, False, False]
    assert parts[2].alerts[0].updated_at == 3.0, "the newest state of what waits"


async def test_a_slow_reader_gets_the_newest_state_of_each_alert_and_its_memory_is_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(alert_subscriptions, "MAX_UNMERGED", 10)
    reading = Reading()
    subscription = reading.subscribe()
    await read(subscription)
    for number in range(100):
        reading.put(make_alert(server=str(number % 3), updated_at=float(number)))
        assert subscription.waiting <= 3 + 10
    news = await read(subscription)
    assert {alert.server: alert.updated_at for alert in news.alerts} == {"0": 99.0, "1": 97.0, "2": 98.0}


async def test_a_reader_gets_only_the_rules_and_servers_of_its_choice_and_of_its_token() -> None:
    reading = Reading(make_alert(server="db-1"), make_alert(server="web-1"), make_alert("other", "db-1"))
    token = Caller("db", {Scope.SUBSCRIBE: ["db-*"]})
    assert list_servers(await read(reading.subscribe(["web-*"]))) == ["web-1"]
    assert list_servers(await read(reading.subscribe(caller=token))) == ["db-1", "db-1"]
    chosen = reading.subscribe(["db-1"], frozenset({"other"}))
    assert [alert.rule for alert in (await read(chosen)).alerts] == ["other"]
    reading.put(make_alert(server="web-1"), make_alert(server="db-1"), make_alert("other", "db-1", updated_at=5.0))
    assert [(alert.rule, alert.server) for alert in (await read(chosen)).alerts] == [("other", "db-1")]


async def test_a_revoked_token_gets_nothing_more() -> None:
    reading = Reading()
    caller = Caller("db", {Scope.SUBSCRIBE: ["*"]})
    subscription = reading.subscribe(caller=caller)
    await read(subscription)
    caller.revoke()
    reading.put(make_alert())
    assert await subscription.read(10) is None


async def test_a_change_of_another_server_does_not_wake_a_reader_of_one() -> None:
    reading = Reading()
    subscription = reading.subscribe(["db-1"])
    await read(subscription)
    reading.put(make_alert(server="web-1"))
    assert subscription.waiting == 0
    reading.put(make_alert(server="db-1"))
    assert subscription.waiting == 1


async def test_a_reader_that_waits_ends_when_its_subscription_is_closed() -> None:
    reading = Reading()
    named, wide = reading.subscribe(["db-1"]), reading.subscribe()
    for subscription in (named, wide):
        await read(subscription)
    waiting = [asyncio.create_task(each.wait()) for each in (named, wide)]
    await asyncio.sleep(0)
    reading.subscriptions.close()
    await asyncio.gather(*waiting)
    assert named.closed
    assert len(reading.subscriptions) == 0
    reading.subscriptions.unsubscribe(wide)


@settings(max_examples=50)
@given(st.lists(st.tuples(st.sampled_from(["fire", "resolve", "read"]), st.integers(0, 3)), max_size=50))
def test_a_reader_knows_what_is_active_once_it_has_read_all(steps: list[tuple[str, int]]) -> None:
    async def run() -> None:
        reading = Reading(make_alert(server="db-0"))
        subscription = reading.subscribe()
        known: dict[str, str] = {}
        for what, number in steps:
            if what == "fire":
                reading.put(make_alert(server=f"db-{number}"))
            elif what == "resolve" and ("disk_fills", f"db-{number}") in reading.alerts.active:
                reading.put(make_resolved_alert(server=f"db-{number}"))
            elif what == "read" and subscription.waiting:
                news = await read(subscription, 2)
                known |= {alert.server: alert.state.value for alert in news.alerts}
        while subscription.waiting:
            news = await read(subscription, 2)
            known |= {alert.server: alert.state.value for alert in news.alerts}
        firing = {server for server, state in known.items() if state == "firing"}
        assert firing == {server for _, server in reading.alerts.active}

    asyncio.run(run())
