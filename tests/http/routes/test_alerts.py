"""Tests `streamd/http/routes/alerts.py`: pages of alerts, and alerts as they change by event stream and WebSocket."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from streamd.core.access.scopes import Scope
from tests.http.conftest import Start
from tests.support.access_tokens import make_access_list, make_test_token
from tests.support.http_harness import TYPES, HttpDaemon, HttpDaemonSettings, Message
from tests.support.made_alerts import ServedAlerts, make_alert, make_pending_alert, make_resolved_alert

DB = make_test_token("db", {Scope.READ: ["db-*"], Scope.SUBSCRIBE: ["db-*"]})
SUBSCRIBE = {"type": "subscribe-alerts"}


def name(page: Message) -> list[tuple[str, str]]:
    return [(each["server"], each["rule"]) for each in page["alerts"]]


async def list_alerts(daemon: HttpDaemon, query: str = "", **headers: str) -> Message:
    reply = await daemon.call("GET", f"/v1/alerts{query}", headers=headers)
    assert reply.status == 200, reply.data
    body = reply.body
    assert isinstance(body, dict)
    return body


async def read_events(response: aiohttp.ClientResponse) -> AsyncIterator[Message]:
    async for line in response.content:
        if line.startswith(b"data: "):
            yield json.loads(line.removeprefix(b"data: "))


# ---------------------------------------------------------------- pages
async def test_the_active_alerts_are_listed_by_server_and_rule(daemon: HttpDaemon) -> None:
    ServedAlerts(
        daemon.service,
        *(make_alert(server="b"), make_pending_alert("y", "a"), make_alert("x", "a"), make_resolved_alert(server="c")),
    )
    page = await list_alerts(daemon)
    assert name(page) == [("a", "x"), ("a", "y"), ("b", "disk_fills")]
    assert page["next"] is None
    assert page["alerts"][0]["crosses_at"].keys() == {"earliest", "likely", "latest"}


async def test_without_rules_there_are_no_alerts(daemon: HttpDaemon) -> None:
    assert await list_alerts(daemon) == {"alerts": [], "next": None}


async def test_until_the_alerts_of_the_former_process_are_known_none_is_said_to_be_over(daemon: HttpDaemon) -> None:
    served = ServedAlerts(daemon.service)
    daemon.service.alert_subscriptions.follow(served.held.active, are_restored=False)
    reply = await daemon.call("GET", "/v1/alerts")
    assert (reply.status, reply.body["code"]) == (503, "unavailable")
    served.put(make_alert(server="a"))
    daemon.service.alert_subscriptions.begin()
    assert name(await list_alerts(daemon)) == [("a", "disk_fills")]


async def test_a_query_chooses_alerts(daemon: HttpDaemon) -> None:
    ServedAlerts(
        daemon.service,
        *(make_alert(server="db-1"), make_alert("other", "db,2"), make_pending_alert(server="p")),
        make_resolved_alert(server="r"),
    )
    for query, expected in {
        "?state=resolved": ["r"],
        "?state=pending": ["p"],
        "?state=firing,resolved": ["db,2", "db-1", "r"],
        "?state=firing&state=pending": ["db,2", "db-1", "p"],
        "?servers=db*": ["db,2", "db-1"],
        "?servers=db-1,p": ["db-1", "p"],
        "?server=db,2": ["db,2"],
        "?server=db*": [],
        "?rule=disk_fills": ["db-1", "p"],
        "?rule=disk_fills,other&servers=db*": ["db,2", "db-1"],
    }.items():
        assert [server for server, _ in name(await list_alerts(daemon, query))] == expected, query


async def test_a_query_that_is_wrong_is_refused_with_what_was_expected(daemon: HttpDaemon) -> None:
    for query, message in {
        "?state=on": "state has 'on', expected some of pending, firing, resolved",
        "?limit=0": "limit is '0', expected 1 to 1000",
        "?limit=ten": "limit is 'ten'",
        "?limit=1&limit=2": "limit is given 2 times, expected once",
        "?cursor=&cursor=": "cursor is given 2 times, expected once",
        "?cursor=x": "cursor is 'x', expected the `next` of a previous page",
        "?cursor=bm9wZQ": "cursor is 'bm9wZQ'",
        "?team=a": "unknown parameters ['team'], expected some of",
    }.items():
        reply = await daemon.get(f"/v1/alerts{query}")
        assert reply.status == 400, query
        assert message in reply.body["message"]


async def test_pages_show_each_alert_once_while_others_change(daemon: HttpDaemon) -> None:
    ended = [make_resolved_alert(server="db-05", starts_at=float(number)) for number in range(3)]
    alerts = ServedAlerts(daemon.service, *(make_alert(server=f"db-{number:02}") for number in range(10)))
    alerts.held.resolved += ended
    seen: list[tuple[str, Any]] = []
    cursor: str | None = ""
    while cursor is not None:
        page = await list_alerts(daemon, f"?limit=4&state=firing,resolved&cursor={cursor}")
        seen += [(each["server"], each["starts_at"]) for each in page["alerts"]]
        cursor = page["next"]
        alerts.put(make_alert(server="a-before"))
    first = make_alert().starts_at
    expected = [(f"db-{number:02}", first) for number in range(10)] + [("db-05", float(number)) for number in range(3)]
    assert sorted(seen) == sorted(expected)


async def test_a_caller_sees_only_its_servers(start: Start) -> None:
    daemon = await start(HttpDaemonSettings(access=make_access_list(DB)))
    ServedAlerts(daemon.service, make_alert(server="db-1"), make_alert(server="web-1"))
    assert name(await list_alerts(daemon, **DB.headers)) == [("db-1", "disk_fills")]
    refused = await daemon.call("GET", "/v1/alerts?server=web-1", headers=DB.headers)
    assert refused.status == 403


# ---------------------------------------------------------------- event stream
async def test_the_stream_has_the_snapshot_and_then_changes(daemon: HttpDaemon) -> None:
    alerts = ServedAlerts(daemon.service, make_alert(server="a"), make_alert("other", "a"))
    async with daemon.session.get(f"{daemon.url}/v1/alerts/stream?rule=disk_fills") as response:
        assert response.headers["Content-Type"] == "text/event-stream"
        events = read_events(response)
        assert await anext(events) == {"type": "subscribed-alerts", "servers": ["*"], "rules": ["disk_fills"]}
        snapshot = await anext(events)
        assert (name(snapshot), snapshot["snapshot"], snapshot["more"]) == ([("a", "disk_fills")], True, False)
        alerts.put(make_alert("other", "b"), make_resolved_alert(server="a"))
        change = await anext(events)
        assert (name(change), change["snapshot"]) == ([("a", "disk_fills")], False)
        assert change["alerts"][0]["state"] == "resolved"
    await wait_without_readers(daemon)


async def wait_without_readers(daemon: HttpDaemon) -> None:
    """Wait until a reader that left is forgotten."""
    async with asyncio.timeout(10):
        while len(daemon.service.alert_subscriptions):
            await asyncio.sleep(0)


async def test_a_stream_without_events_is_kept_alive(daemon: HttpDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamd.http.routes.alerts.KEEP_ALIVE_SECONDS", 0.01)
    async with daemon.session.get(f"{daemon.url}/v1/alerts/stream") as response:
        async for line in response.content:
            if line == b": keep-alive\n":
                break


async def test_a_stop_ends_the_streams(daemon: HttpDaemon) -> None:
    async with daemon.session.get(f"{daemon.url}/v1/alerts/stream") as response:
        events = read_events(response)
        await anext(events)
        daemon.service.alert_subscriptions.close()
        assert [event["type"] async for event in events] in (["alerts"], [])


# ---------------------------------------------------------------- WebSocket
@pytest.mark.parametrize("content_type", TYPES)
async def test_a_socket_gets_the_snapshot_and_then_changes(daemon: HttpDaemon, content_type: str) -> None:
    alerts = ServedAlerts(daemon.service, make_alert(server="db-1"), make_alert(server="web-1"))
    async with daemon.socket("/v1/forecasts", content_type) as socket:
        answer = await socket.ask({**SUBSCRIBE, "servers": ["db-*"], "rules": ["disk_fills"]})
        assert answer == {"type": "subscribed-alerts", "servers": ["db-*"], "rules": ["disk_fills"]}
        assert name(await socket.receive()) == [("db-1", "disk_fills")]
        alerts.put(make_resolved_alert(server="db-1"), make_resolved_alert(server="web-1"))
        change = await socket.receive()
        assert [(each["server"], each["state"]) for each in change["alerts"]] == [("db-1", "resolved")]


async def test_alerts_stand_beside_forecasts_on_one_socket(daemon: HttpDaemon) -> None:
    alerts = ServedAlerts(daemon.service)
    async with daemon.subscribed() as socket:
        assert (await socket.ask(SUBSCRIBE))["type"] == "subscribed-alerts"
        assert (await socket.receive())["alerts"] == []
        alerts.put(make_alert())
        assert (await socket.receive())["type"] == "alerts"
        assert (await socket.ask({"type": "subscribe"}))["type"] == "subscribed"
        alerts.put(make_resolved_alert())
        assert (await socket.receive())["type"] == "alerts", "another subscription of forecasts changes nothing"


async def test_another_choice_replaces_the_first(daemon: HttpDaemon) -> None:
    alerts = ServedAlerts(daemon.service, make_alert(server="a"), make_alert(server="b"))
    async with daemon.socket("/v1/forecasts") as socket:
        for server in ("a", "b"):
            assert (await socket.ask({**SUBSCRIBE, "servers": [server]}))["servers"] == [server]
            assert name(await socket.receive()) == [(server, "disk_fills")]
        alerts.put(make_resolved_alert(server="a"), make_resolved_alert(server="b"))
        assert name(await socket.receive()) == [("b", "disk_fills")]
        assert len(daemon.service.alert_subscriptions) == 1
    await wait_without_readers(daemon)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ({"servers": []}, "servers is empty"),
        ({"rules": []}, "rules is empty"),
        ({"rules": "disk"}, "Expected `array"),
        ({"rules": ["x"] * 1_001}, "rules has 1001 names, expected at most 1000"),
    ],
)
async def test_a_wrong_choice_gets_an_error_and_the_socket_stays(
    daemon: HttpDaemon, message: Message, expected: str
) -> None:
    async with daemon.socket("/v1/forecasts") as socket:
        answer = await socket.ask({**SUBSCRIBE, **message})
        assert answer["type"] == "error"
        assert expected in answer["message"]
        assert (await socket.ask(SUBSCRIBE))["type"] == "subscribed-alerts"


async def test_a_token_that_is_revoked_ends_its_readers(start: Start) -> None:
    access = make_access_list(DB)
    daemon = await start(HttpDaemonSettings(access=access))
    alerts = ServedAlerts(daemon.service, make_alert(server="web-1"), make_alert(server="db-1"))
    stream = await daemon.session.get(f"{daemon.url}/v1/alerts/stream", headers=DB.headers)
    events = read_events(stream)
    assert [(await anext(events))["type"], name(await anext(events))] == ["subscribed-alerts", [("db-1", "disk_fills")]]
    async with daemon.session.ws_connect(f"{daemon.url}/v1/forecasts", headers=DB.headers) as socket:
        await socket.send_json(SUBSCRIBE)
        await socket.receive_json()
        assert name(await socket.receive_json()) == [("db-1", "disk_fills")]
        access.replace(())
        daemon.http_app.sockets.end_revoked()
        alerts.put(make_resolved_alert(server="db-1"))
        frame = await socket.receive()
        assert (frame.type, frame.data) == (aiohttp.WSMsgType.CLOSE, 1008)
    with pytest.raises((aiohttp.ClientError, StopAsyncIteration)):
        await anext(events)
    stream.close()
    await wait_without_readers(daemon)
