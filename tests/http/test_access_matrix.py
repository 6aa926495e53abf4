"""Tests `streamd/http/access/rules.py`: every route and socket, found in the application, keeps callers apart.

A route that is added without a rule or without a driver fails here.
"""

import json
from collections.abc import Mapping

import pytest
from aiohttp import web

from streamd.core.access.scopes import Scope
from streamd.core.forecast_export.choice import ExportSettings
from streamd.core.mapping.series import Kind
from streamd.http.access.rules import ROUTE_RULES, RouteKey, RouteRule, bind_rules, find_route_key
from streamd.rule_sets import list_rule_sets, load_rule_set
from streamd.runtime.service import ServiceLimits
from tests.http.conftest import Start
from tests.support.access_drivers import (
    CHANGING,
    DRIVERS,
    EVERYTHING,
    INGESTING,
    MORE_WAYS,
    PROMOTING,
    PUBLIC,
    READING,
    RULES,
    SILENCING,
    UNBOUND,
    NotedChanges,
    Outcome,
)
from tests.support.access_tokens import ALL, grant_all, make_access_list, make_test_token
from tests.support.http_harness import JSON, NEED, HttpDaemon, HttpDaemonSettings, at, make_rows, pack

WEB = make_test_token("web", grant_all(["web-*"]))
WITHOUT = {
    scope: make_test_token(f"without-{scope}", {each: ALL for each in Scope if each != scope}) for scope in Scope
}
"""For each scope, a token with all others."""

FILTERED = ("/v1/servers", "/v1/fleet", "/v1/alerts", "/v1/alerts/rules", "/v1/silences", "/metrics/forecasts")
"""Paths that leave out what is of others."""

FOREIGN, ABSENT = "db-01", "db-99"
"""A server of others that reports, and one that does not."""


@pytest.fixture
async def guarded(start: Start) -> HttpDaemon:
    """A daemon with tokens, to which `db-01` and `web-01` have reported, and whose forecasts are made."""
    access = make_access_list(EVERYTHING, WEB, *WITHOUT.values())
    rule_sets = [load_rule_set(name) for name in list_rule_sets()]
    limits = ServiceLimits(exports=ExportSettings(servers=("*",), horizons=("2m",), max_age_steps=0))
    daemon = await start(
        HttpDaemonSettings(access=access, engines=NotedChanges(), rule_sets=rule_sets, service_limits=limits)
    )
    rows = [row for number, server in enumerate((FOREIGN, "web-01")) for row in make_rows(server, number, range(NEED))]
    reply = await daemon.post_bytes("/v1/samples", pack({"samples": rows}, JSON), **EVERYTHING.headers)
    assert reply.body["rejected"] == 0
    await daemon.service.pipeline.wait_idle()
    return daemon


def read_state(daemon: HttpDaemon, server: str) -> tuple[object, ...]:
    """Return what is stored of a server."""
    state, collected = daemon.service.state, daemon.service.collector.table.servers
    slot = state.directory.slots.get(server)
    if slot is None:
        return (server in collected,)
    window = daemon.service.copy_window(slot)[0].tobytes()
    return server in collected, state.windows.have[slot], state.windows.get_latest_step(slot), window


def describe(key: object, outcome: Outcome) -> str:
    return f"{key}: {outcome.status} {outcome.data[:300]!r}"


# ---------------------------------------------------------------- no route is left out
async def test_each_route_has_a_rule_and_a_driver(guarded: HttpDaemon) -> None:
    found = {find_route_key(route) for route in guarded.http_app.app.router.routes()}
    assert found == set(RULES) == set(DRIVERS)


async def answer_nothing(request: web.Request) -> web.Response:
    return web.Response()


@pytest.mark.parametrize(
    "rules",
    [{("GET", "/a"): RouteRule(scope=None)}, {("GET", path): RouteRule(scope=None) for path in ("/a", "/b", "/c")}],
)
def test_an_application_with_a_route_without_a_rule_or_a_rule_without_a_route_is_not_built(
    rules: Mapping[RouteKey, RouteRule],
) -> None:
    app = web.Application()
    for path in ("/a", "/b"):
        app.router.add_get(path, answer_nothing)
    with pytest.raises(LookupError, match=r"'/[bc]'"):
        bind_rules(app, rules)


# ---------------------------------------------------------------- who is let in
async def test_without_a_token_only_the_public_routes_answer(guarded: HttpDaemon) -> None:
    for key, drive in DRIVERS.items():
        outcome = await drive(guarded, {}, "web-01")
        if key in PUBLIC:
            assert outcome.status < 400, describe(key, outcome)
            continue
        assert outcome.status == 401, describe(key, outcome)
        assert outcome.headers["WWW-Authenticate"] == 'Bearer realm="streamd"', describe(key, outcome)
        assert b"Authorization" in outcome.data, describe(key, outcome)


async def test_a_token_without_the_scope_of_a_route_is_refused(guarded: HttpDaemon) -> None:
    for key, drive in DRIVERS.items():
        if key in PUBLIC:
            continue
        rule = RULES[key]
        scope = rule.scope if key != ("GET", "/v1/forecasts") else rule.upgrade_scope
        assert scope is not None
        outcome = await drive(guarded, WITHOUT[scope].headers, "web-01")
        assert outcome.status == 403, describe(key, outcome)
        assert f"without-{scope}".encode() in outcome.data, describe(key, outcome)


async def test_a_token_for_all_servers_uses_every_route(guarded: HttpDaemon) -> None:
    for number, (key, drive) in enumerate(INGESTING.items()):
        server = f"db-new-{number}"
        outcome = await drive(guarded, EVERYTHING.headers, server)
        assert server in guarded.service.state.directory.slots, describe(key, outcome)
    for key, drive in (READING | MORE_WAYS).items():
        outcome = await drive(guarded, EVERYTHING.headers, FOREIGN)
        names_servers = key not in (("GET", "/metrics"), ("GET", "/v1/status"))
        assert outcome.status < 300, describe(key, outcome)
        assert (FOREIGN.encode() in outcome.data) is names_servers, describe(key, outcome)
    for key, drive in (UNBOUND | PROMOTING).items():
        outcome = await drive(guarded, EVERYTHING.headers, FOREIGN)
        assert outcome.status == 200, describe(key, outcome)
    for key, drive in SILENCING.items():
        outcome = await drive(guarded, EVERYTHING.headers, FOREIGN)
        assert outcome.status < 300, describe(key, outcome)
    for key, drive in CHANGING.items():
        outcome = await drive(guarded, EVERYTHING.headers, FOREIGN)
        assert outcome.status == 204, describe(key, outcome)
        assert FOREIGN not in guarded.service.state.directory.slots
        await guarded.post_bytes(
            "/v1/samples", pack({"samples": make_rows(FOREIGN, 0, [0])}, JSON), **EVERYTHING.headers
        )


# ---------------------------------------------------------------- a token for web-* and the servers of others
async def test_a_token_for_some_servers_writes_them_by_every_route(guarded: HttpDaemon) -> None:
    for number, (key, drive) in enumerate(INGESTING.items()):
        outcome = await drive(guarded, WEB.headers, f"web-new-{number}")
        assert f"web-new-{number}" in guarded.service.state.directory.slots, describe(key, outcome)


@pytest.mark.parametrize("server", [FOREIGN, ABSENT])
async def test_a_token_for_some_servers_writes_no_other_by_any_route(guarded: HttpDaemon, server: str) -> None:
    before = read_state(guarded, server)
    for key, drive in (INGESTING | CHANGING).items():
        outcome = await drive(guarded, WEB.headers, server)
        assert read_state(guarded, server) == before, describe(key, outcome)
        assert outcome.status not in (401, 500), describe(key, outcome)
    assert guarded.service.collector.table.series == 0, "not even the series of such a server are kept"
    counts = guarded.service.collector.count_points()
    assert counts["rejected: forbidden"] == len(INGESTING) - 2
    assert guarded.service.ingest.rejected == {"forbidden": 2}


@pytest.mark.parametrize("server", [FOREIGN, ABSENT, "*", "w*"])
async def test_a_token_for_some_servers_silences_no_other_by_any_route(guarded: HttpDaemon, server: str) -> None:
    for key, drive in SILENCING.items():
        outcome = await drive(guarded, WEB.headers, server)
        assert outcome.status == 403, describe(key, outcome)
        assert b"not for all servers of this silence" in outcome.data
        outcome = await drive(guarded, WEB.headers, "web-0*")
        assert outcome.status < 300, describe(key, outcome)


async def test_a_series_that_others_have_bound_is_refused_too(guarded: HttpDaemon) -> None:
    for drive in INGESTING.values():
        await drive(guarded, EVERYTHING.headers, FOREIGN)
    before = read_state(guarded, FOREIGN)
    kept = guarded.service.collector.points_kept
    for key, drive in INGESTING.items():
        outcome = await drive(guarded, WEB.headers, FOREIGN)
        assert read_state(guarded, FOREIGN) == before, describe(key, outcome)
    assert guarded.service.collector.points_kept == kept


async def test_a_token_for_some_servers_reads_no_other_by_any_route(guarded: HttpDaemon) -> None:
    for key, drive in (READING | MORE_WAYS).items():
        outcome = await drive(guarded, WEB.headers, FOREIGN)
        if "{server}" in key[1] or key[1] == "/v1/accuracy":  # the error repeats the name that the caller sent
            assert outcome.status == 403, describe(key, outcome)
        else:
            assert outcome.status in (101, 200), describe(key, outcome)
            assert b"db-" not in outcome.data, describe(key, outcome)


async def test_the_answers_about_a_server_of_others_do_not_reveal_whether_it_exists(guarded: HttpDaemon) -> None:
    drivers = {**READING, **MORE_WAYS, **CHANGING, **SILENCING, **INGESTING}
    changing = ("/v1/fleet", "/v1/forecasts", "/v1/forecasts/stream", "/v1/alerts/stream", "/metrics", "/v1/status")
    for path in changing:
        del drivers["GET", path]  # their answers change with time
    for key, drive in drivers.items():
        there = await drive(guarded, WEB.headers, FOREIGN)
        absent = await drive(guarded, WEB.headers, ABSENT)
        assert there.status == absent.status, describe(key, there)
        assert there.data.replace(FOREIGN.encode(), ABSENT.encode()) == absent.data, describe(key, there)


async def test_a_request_that_claims_to_open_a_socket_opens_no_other_route(guarded: HttpDaemon) -> None:
    before = read_state(guarded, FOREIGN)
    for key, drive in (READING | MORE_WAYS | CHANGING).items():
        if key[1] in ("/v1/forecasts", "/v1/forecasts/stream", "/v1/alerts/stream", "/metrics", "/v1/status"):
            continue  # the first is a socket, and the others name no server
        outcome = await drive(guarded, {**WEB.headers, "Upgrade": "websocket"}, FOREIGN)
        assert read_state(guarded, FOREIGN) == before, describe(key, outcome)
        assert outcome.status in (200, 400, 403), describe(key, outcome)
        if key[1] not in FILTERED:
            assert outcome.status >= 400, describe(key, outcome)
        assert b'"values"' not in outcome.data, describe(key, outcome)
        assert b'"predictions"' not in outcome.data, describe(key, outcome)


async def test_a_body_about_a_server_of_others_changes_nothing_that_is_remembered_of_its_agent(
    guarded: HttpDaemon,
) -> None:
    cpu = {"plugin": "cpu", "plugin_instance": "0", "type": "cpu", "type_instance": "user"}
    item = {"dstypes": ["derive"], "dsnames": ["value"], "time": at(NEED), "interval": 10.0, "host": FOREIGN, **cpu}
    for token, value in ((WEB, None), (EVERYTHING, 1_000)):  # after null, whole numbers are rates and no counters
        data = json.dumps([{**item, "values": [value]}]).encode()
        await guarded.call("POST", "/collectd", data, {"Content-Type": JSON, **token.headers})
    (series,) = guarded.service.collector.table.servers[FOREIGN].entries
    assert series.kind is Kind.COUNTER


async def test_a_token_for_some_servers_changes_no_version(guarded: HttpDaemon) -> None:
    for key, drive in PROMOTING.items():
        outcome = await drive(guarded, WEB.headers, "web-01")
        assert outcome.status == 403, describe(key, outcome)
        assert b"not for all servers" in outcome.data


async def test_pages_show_each_server_that_may_be_read_once(guarded: HttpDaemon) -> None:
    rows = [row for number in range(20) for name in ("db", "web") for row in make_rows(f"{name}-{number:02}", 1, [0])]
    await guarded.post_bytes("/v1/samples", pack({"samples": rows}, JSON), **EVERYTHING.headers)
    seen: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        page = (await guarded.call("GET", f"/v1/servers?limit=7&cursor={cursor}", headers=WEB.headers)).body
        seen += [each["server"] for each in page["servers"]]
        cursor = page["next"]
    assert seen == [f"web-{number:02}" for number in range(20)]


def test_the_rules_are_those_of_the_application() -> None:
    assert {key for key, rule in ROUTE_RULES.items() if rule.scope is None} == set(PUBLIC)
    assert all(
        rule.refuse is not None for key, rule in ROUTE_RULES.items() if key in INGESTING and "/v1/" not in key[1]
    )
