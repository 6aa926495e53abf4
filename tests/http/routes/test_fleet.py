"""Tests `streamd/http/routes/fleet.py`, and the fleet on the WebSocket (`streamd/http/fleet_sockets.py`)."""

from typing import Any

import pytest

from streamd.core.access.scopes import Scope
from streamd.core.alerts.settings import AlertSettings
from streamd.runtime.fleet import overview
from tests.http.conftest import Start
from tests.support.access_tokens import ALL as ALL_SERVERS
from tests.support.access_tokens import make_access_list, make_test_token
from tests.support.http_harness import (
    JSON,
    MSGPACK,
    NEED,
    TYPES,
    HttpDaemon,
    HttpDaemonSettings,
    Message,
    at,
    make_rows,
    pack,
)
from tests.support.made_alerts import make_alert

DB = make_test_token("db", {Scope.READ: ["db-*"], Scope.SUBSCRIBE: ["db-*"]})
ALL = make_test_token("all", dict.fromkeys(Scope, ALL_SERVERS))
SUBSCRIBE = {"type": "subscribe-fleet"}
RULES = {
    "load_high": {"target": "load_average", "above": 1_000.0},
    "cpu_high": {"target": "cpu_user", "above": 1_000.0, "servers": ["db-*"]},
}
SETTINGS: dict[str, Any] = {"alerts": AlertSettings(rules=RULES), "wall": lambda: at(NEED) + 10.0}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overview, "REFRESH_SECONDS", 0.01)


@pytest.fixture
async def fleet(start: Start) -> HttpDaemon:
    """A daemon with rules, to which `db-1`, `db-2` and `web-1` have reported; the load of `db-2` is high."""
    daemon = await start(HttpDaemonSettings(**SETTINGS, access=make_access_list(DB, ALL)))
    await report(daemon, "db-1", "web-1")
    await report(daemon, "db-2", level=500)
    return daemon


async def report(daemon: HttpDaemon, *servers: str, steps: int = NEED, first: int = 0, level: int = 1) -> None:
    """Let servers send rows, and wait for their forecasts."""
    rows = [row for server in servers for row in make_rows(server, level, range(first, first + steps))]
    reply = await daemon.post_bytes("/v1/samples", pack({"samples": rows}, JSON), **ALL.headers)
    assert reply.body["rejected"] == 0, reply.body
    await daemon.service.pipeline.wait_idle()


async def get_fleet(daemon: HttpDaemon, query: str = "", **headers: str) -> Message:
    reply = await daemon.call("GET", f"/v1/fleet{query}", headers=headers or ALL.headers)
    assert reply.status == 200, reply.data
    body = reply.body
    assert isinstance(body, dict)
    return body


def name(answer: Message) -> list[str]:
    return [each["server"] for each in answer["servers"]]


def as_caller(daemon: HttpDaemon, token: Any) -> None:
    """Let the sockets that are opened from now on have a token."""
    daemon.session.headers.update(token.headers)


# ---------------------------------------------------------------- the call
async def test_the_worst_server_comes_first(fleet: HttpDaemon) -> None:
    answer = await get_fleet(fleet)
    assert name(answer) == ["db-2", "db-1", "web-1"]
    assert answer["servers"][0]["crossing"] == {
        "rule": "load_high",
        "target": "load_average",
        "unit": "1",
        "above": 1_000.0,
        "severity": "warning",
        "crosses_at": dict.fromkeys(("earliest", "likely", "latest"), float(at(NEED))),
    }
    assert answer["counts"] == {"firing": 0, "pending": 0, "stale": 0, "warming": 0, "current": 3}
    assert (answer["now"], answer["total"], answer["matching"], answer["offset"]) == (at(NEED) + 10.0, 3, 3, 0)


async def test_parameters_choose_servers(fleet: HttpDaemon) -> None:
    for query, expected in {
        "?search=DB": ["db-2", "db-1"],
        "?search=*-1": ["db-1", "web-1"],
        "?rule=cpu_high": ["db-1", "db-2"],
        "?rule=nothing": [],
        "?target=cpu_user": ["db-1", "db-2", "web-1"],
        "?condition=stale,warming": [],
        "?condition=current&condition=stale&search=w": ["web-1"],
        "?sort=name&offset=1&limit=1": ["db-2"],
        "?prefix=web-": ["web-1"],
        "?search=&target=&rule=&condition=&group=false": ["db-2", "db-1", "web-1"],
    }.items():
        assert name(await get_fleet(fleet, query)) == expected, query
    assert [each["prefix"] for each in (await get_fleet(fleet, "?group=true"))["groups"]] == ["db-", "web-"]


async def test_a_query_that_is_wrong_is_refused_with_what_was_expected(fleet: HttpDaemon) -> None:
    for query, message in {
        "?target=gpu": "target is 'gpu', expected one of cpu_user, load_average",
        "?condition=bad": "condition is 'bad', expected one of firing, pending",
        "?sort=best": "sort is 'best', expected one of worst, name, age",
        "?limit=0": "limit is 0, expected 1 to 500",
        "?limit=ten": "Expected `int`, got `str` - at `$.limit`",
        "?group=maybe": "Expected `bool`, got `str` - at `$.group`",
        "?sort=name&sort=age": "sort is given 2 times, expected once",
        "?team=a": "unknown parameters ['team'], expected some of",
    }.items():
        reply = await fleet.call("GET", f"/v1/fleet{query}", headers=ALL.headers)
        assert reply.status == 400, query
        assert message in reply.body["message"]


async def test_alerts_that_fire_come_first_and_are_counted(fleet: HttpDaemon) -> None:
    assert fleet.service.alerts is not None
    alert = make_alert("cpu_high", "db-1", severity="critical")
    fleet.service.alerts.active[alert.key] = alert
    answer = await get_fleet(fleet, "?limit=1")
    assert (name(answer), answer["counts"]["firing"]) == (["db-1"], 1)
    assert answer["servers"][0]["alerts"] == [
        {
            "rule": "cpu_high",
            "target": "disk_usage",
            "state": "firing",
            "severity": "critical",
            "starts_at": alert.starts_at,
            "silenced_until": None,
        }
    ]
    assert name(await get_fleet(fleet, "?condition=firing")) == ["db-1"]


async def test_the_answer_has_the_encoding_that_the_caller_accepts(fleet: HttpDaemon) -> None:
    reply = await fleet.call("GET", "/v1/fleet", headers={**ALL.headers, "Accept": MSGPACK})
    assert reply.headers["Content-Type"] == MSGPACK
    assert name(reply.body) == ["db-2", "db-1", "web-1"]


async def test_a_caller_never_learns_of_a_server_of_others(fleet: HttpDaemon) -> None:
    await report(fleet, "web-2", level=500)
    answer = await get_fleet(fleet, **DB.headers)
    assert name(answer) == ["db-2", "db-1"]
    assert (answer["total"], answer["matching"], answer["counts"]["current"]) == (2, 2, 2)
    for query in ("?search=web", "?group=true", "?sort=age"):
        reply = await fleet.call("GET", f"/v1/fleet{query}", headers=DB.headers)
        assert b"web-" not in reply.data


async def test_until_the_alerts_of_the_former_process_are_known_the_fleet_is_unavailable(fleet: HttpDaemon) -> None:
    fleet.service.alert_subscriptions.follow({}, are_restored=False)
    reply = await fleet.call("GET", "/v1/fleet", headers=ALL.headers)
    assert (reply.status, reply.body["code"]) == (503, "unavailable")


# ---------------------------------------------------------------- the WebSocket
@pytest.mark.parametrize("content_type", TYPES)
async def test_a_reader_gets_all_and_then_what_changes(fleet: HttpDaemon, content_type: str) -> None:
    as_caller(fleet, ALL)
    async with fleet.socket("/v1/forecasts", content_type) as socket:
        answer = await socket.ask({**SUBSCRIBE, "search": "db", "condition": ["current", "stale"], "limit": 10})
        assert answer == {
            "type": "subscribed-fleet",
            "search": "db",
            "prefix": None,
            "target": None,
            "rule": None,
            "condition": ["current", "stale"],
            "sort": "worst",
            "group": False,
            "offset": 0,
            "limit": 10,
        }
        first = await socket.receive()
        assert (first["type"], first["order"], name(first)) == ("fleet", ["db-2", "db-1"], ["db-2", "db-1"])
        await report(fleet, "web-1", steps=1, first=NEED)
        await report(fleet, "db-1", steps=1, first=NEED)
        change = await socket.receive()
        assert name(change) == ["db-1"]
        while change["servers"][0]["forecast_origin"] != at(NEED + 1):  # the row was seen before its forecast
            change = await socket.receive()
        assert (change["order"], name(change)) == (["db-2", "db-1"], ["db-1"])


async def test_another_query_replaces_the_first_and_gets_all_at_once(fleet: HttpDaemon) -> None:
    as_caller(fleet, ALL)
    async with fleet.socket("/v1/forecasts") as socket:
        await socket.ask({**SUBSCRIBE, "sort": "name"})
        assert (await socket.receive())["matching"] == 3
        assert (await socket.ask({**SUBSCRIBE, "sort": "name", "offset": 1, "limit": 2}))["offset"] == 1
        assert name(await socket.receive()) == ["db-2", "web-1"]
        assert len(fleet.service.fleet) == 1


async def test_a_wrong_query_gets_an_error_and_leaves_the_first_one(fleet: HttpDaemon) -> None:
    as_caller(fleet, ALL)
    async with fleet.socket("/v1/forecasts") as socket:
        await socket.ask({**SUBSCRIBE, "search": "db"})
        await socket.receive()
        for message, code in (({"sort": "best"}, "invalid_selection"), ({"limit": "ten"}, "malformed")):
            error = await socket.ask({**SUBSCRIBE, **message})
            assert (error["type"], error["code"]) == ("error", code)
        await report(fleet, "db-3")
        assert (await socket.receive())["type"] == "fleet"


async def test_the_fleet_comes_beside_forecasts_and_alerts(fleet: HttpDaemon) -> None:
    as_caller(fleet, ALL)
    async with fleet.socket("/v1/forecasts") as socket:
        await socket.ask({"type": "subscribe", "servers": ["db-1"]})
        await socket.ask({"type": "subscribe-alerts"})
        assert (await socket.receive())["type"] == "alerts"
        await socket.ask(SUBSCRIBE)
        assert (await socket.receive())["type"] == "fleet"
        await report(fleet, "db-1", steps=1, first=NEED)
        types = {(await socket.receive())["type"] for _ in range(2)}
        assert types == {"forecast", "fleet"}


async def test_a_reader_never_learns_of_a_server_of_others(fleet: HttpDaemon) -> None:
    as_caller(fleet, DB)
    async with fleet.socket("/v1/forecasts") as socket:
        await socket.ask(SUBSCRIBE)
        first = await socket.receive()
        assert (name(first), first["total"]) == (["db-2", "db-1"], 2)
        await report(fleet, "web-3", level=500)
        await report(fleet, "db-3")
        frame = await socket.receive()
        while "db-3" not in frame["order"]:
            frame = await socket.receive()
        assert (frame["total"], frame["counts"]["current"] <= 3) == (3, True)
        assert not [each for each in frame["order"] if each.startswith("web-")]


async def test_a_reader_that_leaves_is_forgotten(fleet: HttpDaemon) -> None:
    as_caller(fleet, ALL)
    async with fleet.socket("/v1/forecasts") as socket:
        await socket.ask(SUBSCRIBE)
        await socket.receive()
        assert len(fleet.service.fleet) == 1
    await report(fleet, "db-1", steps=1, first=NEED)
    assert len(fleet.service.fleet) == 0
