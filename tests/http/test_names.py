"""Tests `streamd/http/names.py`: a server may have any name; every call reaches it, and reaches no other."""

import json
from urllib.parse import quote

import pytest
import yarl

from tests.http.conftest import Start
from tests.support.http_harness import (
    AS_ADMIN,
    CONTRACT,
    NEED,
    TYPES,
    HttpDaemon,
    HttpDaemonSettings,
    Reply,
    is_same_array,
    make_rows,
    make_window,
    make_wire_forecast,
    origin,
    read_array,
)
from tests.support.made_alerts import ServedAlerts, make_alert

NAMES = [
    *("db[1]", "[2001:db8::1]:9100", "stream", "a\nb", "a,b", "a*", "?", "[!a]", ".", "..", "a/../b", "a//b", "/"),
    *("a+b", "a b", "a%2Fb", "%FF", "a&server=b", "a=b;c", "\x00", "\r", "\ufffd", "é" * 128, "a#b?c", "servers"),
    *("accuracy", "a/accuracy", "alerts"),
]
"""Each of them has another meaning in a path, a query, a glob or a line."""

OTHERS = ["db1", "a", "b", "ab", "a b c", "a2Fb", "", "x"]


async def fetch(daemon: HttpDaemon, method: str, target: str) -> Reply:
    """Call with the target as it is, without the normalisation of the client."""
    url = yarl.URL(daemon.url + target, encoded=True)
    async with daemon.session.request(method, url, headers=AS_ADMIN) as response:
        return Reply(response.status, dict(response.headers), await response.read())


def make_targets(kind: str, name: str) -> list[str]:
    """Return every way to name a server in a call; `stream` and names of dots cannot be in a path."""
    ways = [f"/v1/{kind}?server={quote(name, safe='')}"]
    if not (kind == "forecasts" and name == "stream") and not {".", ".."} & set(name.split("/")):
        ways.append(f"/v1/{kind}/{quote(name, safe='')}")
    return ways


@pytest.fixture
async def full(daemon: HttpDaemon) -> HttpDaemon:
    """A daemon to which a server of every name has reported, and whose forecasts are made."""
    await daemon.accept([row for number, name in enumerate(NAMES) for row in make_rows(name, number, range(NEED))])
    await daemon.accept([row for name in OTHERS if name for row in make_rows(name, 99, range(NEED))])
    await daemon.service.pipeline.wait_idle()
    return daemon


@pytest.mark.parametrize("name", NAMES)
async def test_a_server_of_any_name_is_read(full: HttpDaemon, name: str) -> None:
    window = make_window(make_rows(name, NAMES.index(name), range(NEED)), NEED - 1)
    for target in make_targets("forecasts", name):
        reply = await fetch(full, "GET", target)
        assert (reply.status, reply.body["server"]) == (200, name), target
        assert is_same_array(read_array(reply.body["values"]), make_wire_forecast(window))
    for target in make_targets("servers", name):
        reply = await fetch(full, "GET", target)
        assert (reply.status, reply.body["server"], reply.body["origin"]) == (200, name, origin(NEED - 1)), target


async def test_the_history_and_the_alerts_of_a_server_of_any_name_are_read(full: HttpDaemon) -> None:
    ServedAlerts(full.service, *(make_alert(server=name) for name in {*NAMES, *OTHERS} - {""}))
    for name in NAMES:
        targets = [f"/v1/accuracy?server={quote(name, safe='')}"]
        if not {".", ".."} & set(name.split("/")):
            targets.append(f"/v1/servers/{quote(name, safe='')}/accuracy")
        for target in targets:
            reply = await fetch(full, "GET", target)
            assert (reply.status, reply.body["server"]) == (200, name), target
            assert "forecasts" in reply.body
        alerts = (await fetch(full, "GET", f"/v1/alerts?server={quote(name, safe='')}")).body["alerts"]
        assert [alert["server"] for alert in alerts] == [name]


@pytest.mark.parametrize("name", NAMES)
async def test_a_server_of_any_name_is_forgotten_and_no_other(full: HttpDaemon, name: str) -> None:
    for target in make_targets("servers", name):
        assert (await fetch(full, "DELETE", target)).status == 204
        assert (await fetch(full, "DELETE", target)).code == "unknown_server"
        assert (await fetch(full, "GET", target)).status == 404
        left = {*NAMES, *OTHERS} - {name, ""}
        assert set(full.service.state.directory.slots) == left
        await full.accept(make_rows(name, 1, range(NEED)))


@pytest.mark.parametrize("content_type", TYPES)
@pytest.mark.parametrize("name", NAMES)
async def test_a_server_is_subscribed_to_by_its_name(daemon: HttpDaemon, name: str, content_type: str) -> None:
    async with daemon.subscribed(content_type, servers=[name, "the-end"]) as reader:
        await daemon.accept(make_rows(name, 1, range(NEED)))
        assert (await reader.receive())["server"] == name


@pytest.mark.parametrize("name", NAMES)
async def test_a_name_in_a_query_is_neither_a_glob_nor_a_list(daemon: HttpDaemon, name: str) -> None:
    query = f"?server={quote(name, safe='')}&server=the-end"
    names = [other for other in [*OTHERS, *NAMES] if other not in ("", name)]
    async with (
        daemon.socket(f"/v1/forecasts{query}") as reader,
        daemon.session.get(yarl.URL(f"{daemon.url}/v1/forecasts/stream{query}", encoded=True)) as events,
    ):
        assert (await reader.receive())["servers"] == [name, "the-end"]
        while len(daemon.service.hub) < 2:
            await daemon.get("/healthz")
        await daemon.accept([row for other in [*names, name] for row in make_rows(other, 1, range(NEED))])
        await daemon.service.pipeline.wait_idle()  # two lanes run: a later batch may end first
        await daemon.accept(make_rows("the-end", 1, range(NEED)))
        assert [(await reader.receive())["server"] for _ in range(2)] == [name, "the-end"]
        got: list[str] = []
        while len(got) < 2:
            line = (await events.content.readline()).decode()
            if line.startswith("data: "):
                got.append(json.loads(line.removeprefix("data: "))["server"])
        assert got == [name, "the-end"]


async def test_lists_in_a_query_may_be_repeated(daemon: HttpDaemon) -> None:
    query = "servers=a,b&servers=c&targets=load_average&targets=cpu_user&quantiles=0.1&quantiles=0.9&server=d,e"
    async with daemon.socket(f"/v1/forecasts?{query}") as reader:
        answer = await reader.receive()
    assert answer["servers"] == ["a", "b", "c", "d,e"]
    assert (answer["targets"], answer["quantiles"]) == (["load_average", "cpu_user"], [0.1, 0.9])


async def test_a_target_with_a_comma_in_its_name_is_chosen(start: Start) -> None:
    names = ("cpu,total", "cpu", "total")
    contract = type(CONTRACT)(names, names, (0.5,), context_length=8, horizon=4, step_seconds=60)
    daemon = await start(HttpDaemonSettings(contract=contract))
    async with daemon.socket("/v1/forecasts?targets=cpu%2Ctotal") as reader:
        assert (await reader.receive())["targets"] == ["cpu,total"]
    async with daemon.socket("/v1/forecasts?targets=total,cpu") as reader:
        assert (await reader.receive())["targets"] == ["total", "cpu"]


@pytest.mark.parametrize("parameter", ["every=1&every=2", "format=json&format=msgpack", "dtype=float16&dtype=float32"])
async def test_a_parameter_that_is_not_a_list_is_not_given_twice(daemon: HttpDaemon, parameter: str) -> None:
    reply = await daemon.get(f"/v1/forecasts/stream?{parameter}")
    assert (reply.status, reply.code) == (400, "invalid_selection")
    assert "2 times" in reply.body["message"]


@pytest.mark.parametrize(
    ("method", "target", "answer"),
    [
        ("GET", "/v1/servers/%FF", (404, "unknown_server")),
        ("DELETE", "/v1/servers/a%ED%A0%80", (404, "unknown_server")),
        ("GET", "/v1/servers?server=%FF", (404, "unknown_server")),
        ("DELETE", "/v1/servers?server=%C3", (404, "unknown_server")),
        ("GET", "/v1/forecasts/%FF", (404, "unknown_server")),
        ("GET", "/v1/servers/%FF/accuracy", (404, "unknown_server")),
        ("GET", "/v1/accuracy?server=%FF", (404, "unknown_server")),
        ("GET", "/v1/forecasts?server=%FF", (404, "unknown_server")),
        ("GET", "/v1/forecasts/stream?server=%FF", (400, "invalid_server")),
        ("GET", "/v1/forecasts/stream?servers=%FF*", (400, "invalid_server")),
    ],
)
async def test_a_name_that_is_not_utf8_is_unknown(
    full: HttpDaemon, method: str, target: str, answer: tuple[int, str]
) -> None:
    servers = len(full.service.state.directory)
    reply = await fetch(full, method, target)
    assert (reply.status, reply.code) == answer
    assert "UTF-8" in reply.body["message"]
    assert len(full.service.state.directory) == servers


@pytest.mark.parametrize(
    "target", ["/v1/servers/a?server=b", "/v1/servers?server=a&server=b", "/v1/forecasts/a?server=b"]
)
async def test_two_names_are_refused(full: HttpDaemon, target: str) -> None:
    methods = ("GET", "DELETE") if "servers/" in target or "servers?" in target else ("GET",)
    for method in methods:
        reply = await fetch(full, method, target)
        assert (reply.status, reply.code) == (400, "invalid")
    assert (await full.get("/v1/servers/a")).status == 200


async def test_forgetting_requires_a_name(full: HttpDaemon) -> None:
    reply = await full.call("DELETE", "/v1/servers", headers=AS_ADMIN)
    assert (reply.status, reply.code) == (400, "invalid")
    assert (await full.get("/v1/servers/a")).status == 200


async def test_the_error_of_a_plain_get_without_a_name_states_the_parameter(daemon: HttpDaemon) -> None:
    reply = await daemon.get("/v1/forecasts")
    assert (reply.status, reply.code) == (400, "invalid_selection")
    assert "?server=NAME" in reply.body["message"]
