"""Tests `streamd/server/cluster/remote_calls.py`: two daemons, each with a half of the servers, answer for all."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from streamd.core.access.caller import Caller
from streamd.core.access.scopes import Scope
from streamd.core.cluster.shards import ClusterNames, find_shard
from streamd.http.server_answers import EncodedAnswer, ServerCall
from streamd.server.cluster import remote_calls
from streamd.server.cluster.remote_calls import CallServer, ListAnswer, RemoteCalls, merge_pages
from tests.support.access_tokens import ALL, TestToken, make_access_list, make_test_token
from tests.support.http_harness import (
    JSON,
    MSGPACK,
    NEED,
    HttpDaemon,
    HttpDaemonSettings,
    Reply,
    make_rows,
    pack,
    run_http_daemon,
)
from tests.support.made_log import MemoryLog

NAMES = ClusterNames("streamd")
SERVERS = [f"web-{number}" for number in range(12)]
NODES = ("a", "b")
SHARDS = 2
ADMIN = make_test_token("admin", dict.fromkeys(Scope, ALL))
ONE = make_test_token("one", {Scope.READ: ("web-3", "web-4")})


@dataclass
class RelayingNodes:
    """The nodes as the routes of one see them; `owners` has the node of each shard."""

    calls: RemoteCalls
    problems: list[str] = field(default_factory=list)
    refusal: str | None = None
    forgotten: list[str] = field(default_factory=list)
    shown: int = 0

    async def answer(self, call: ServerCall) -> EncodedAnswer | None:
        return await self.calls.answer(call)

    async def list_servers(self, caller: Caller, after: str, limit: int) -> Mapping[str, Any]:
        return await self.calls.list_servers(caller, after, limit)

    async def forget_server(self, server: str) -> None:
        self.forgotten.append(server)

    async def show_all(self) -> None:
        self.shown += 1

    def describe(self) -> Mapping[str, Any]:
        return {"node": "a"}

    def list_problems(self) -> list[str]:
        return self.problems

    def find_refusal(self) -> str | None:
        return self.refusal


@dataclass(kw_only=True)
class TwoDaemons:
    """Two daemons; `web-N` reports to the node of its shard alone."""

    daemons: dict[str, HttpDaemon]
    nodes: dict[str, RelayingNodes]
    logs: dict[str, MemoryLog]
    servers: dict[str, CallServer]
    owners: dict[int, str | None]
    lost: set[int] = field(default_factory=set)
    """Shards whose node does not have them any more, which the other one has not read yet."""
    followed: set[str] = field(default_factory=set)
    """Servers of which the other node has the latest forecast, too."""

    def find_daemon(self, server: str) -> HttpDaemon:
        return self.daemons[NODES[find_shard(server, SHARDS)]]


@pytest.fixture
async def two(tmp_path: Path) -> AsyncIterator[TwoDaemons]:
    async with AsyncExitStack() as stack:
        first = MemoryLog()
        logs = {"a": first, "b": first.connect()}
        owners: dict[int, str | None] = dict(enumerate(NODES))
        made = TwoDaemons(daemons={}, nodes={}, logs=logs, servers={}, owners=owners)
        for node in NODES:
            nodes = made.nodes[node] = RelayingNodes(
                RemoteCalls(
                    logs[node],
                    NAMES,
                    node,
                    SHARDS,
                    find_owner=owners.__getitem__,
                    list_nodes=lambda: list(NODES),
                    answer_list=lambda call, node=node: made.servers[node].list_servers(call),  # type: ignore[misc]
                    has_forecast=lambda server: server in made.followed,
                )
            )
            settings = HttpDaemonSettings(access=make_access_list(ADMIN, ONE), nodes=nodes)
            daemon = await stack.enter_async_context(run_http_daemon(tmp_path / node, settings))
            made.daemons[node] = daemon
            server = made.servers[node] = CallServer(
                daemon.service,
                daemon.http_app.answers,
                SHARDS,
                lambda node=node: [each for each in owners if owners[each] == node and each not in made.lost],  # type: ignore[misc]
            )
            await server.serve(logs[node], NAMES, node)
        for number, name in enumerate(SERVERS):
            body = pack({"samples": make_rows(name, number, range(NEED))}, JSON)
            reply = await made.find_daemon(name).post_bytes("/v1/samples", body, **ADMIN.headers)
            assert reply.body["rejected"] == 0
        for daemon in made.daemons.values():
            await daemon.service.pipeline.wait_idle()
        yield made
        await first.close()
        await logs["b"].close()


async def ask(daemon: HttpDaemon, path: str, token: TestToken = ADMIN, content_type: str = JSON) -> Reply:
    return await daemon.call("GET", path, headers={"Accept": content_type, **token.headers})


def find_server_of(node: str) -> str:
    return next(name for name in SERVERS if NODES[find_shard(name, SHARDS)] == node)


# ---------------------------------------------------------------- one server
@pytest.mark.parametrize("content_type", [JSON, MSGPACK])
@pytest.mark.parametrize(
    "path",
    [
        "/v1/forecasts/{}",
        "/v1/forecasts?server={}&every=2&targets=cpu_user",
        "/v1/servers/{}",
        "/v1/accuracy?server={}",
    ],
)
async def test_each_node_gives_the_same_answer_about_each_server(two: TwoDaemons, path: str, content_type: str) -> None:
    assert {find_shard(name, SHARDS) for name in SERVERS} == {0, 1}
    for name in SERVERS[:4]:
        given = [await ask(daemon, path.format(name), ADMIN, content_type) for daemon in two.daemons.values()]
        assert given[0].status == 200
        assert given[0].body["server"] == name
        assert given[0].body == given[1].body


async def test_the_errors_of_the_other_node_are_answered_as_one_s_own(two: TwoDaemons) -> None:
    for path, code, status in (
        ("/v1/forecasts/web-0?every=0", "invalid_selection", 400),
        ("/v1/servers/nobody", "unknown_server", 404),
    ):
        given = [await ask(daemon, path, ADMIN) for daemon in two.daemons.values()]
        assert {each.status for each in given} == {status}
        assert [each.body["code"] for each in given] == [code, code]


async def test_the_right_is_checked_at_the_node_that_is_asked(two: TwoDaemons) -> None:
    for daemon in two.daemons.values():
        assert (await ask(daemon, "/v1/forecasts/web-3", ONE)).status == 200
        assert (await ask(daemon, "/v1/forecasts/web-5", ONE)).status == 403


async def test_a_server_is_forgotten_by_its_node(two: TwoDaemons) -> None:
    other = {"a": "b", "b": "a"}
    name = SERVERS[0]
    owner = NODES[find_shard(name, SHARDS)]
    reply = await two.daemons[other[owner]].call("DELETE", f"/v1/servers/{name}", headers=ADMIN.headers)
    assert reply.status == 204
    assert two.nodes[owner].forgotten == [name]
    assert two.nodes[other[owner]].forgotten == []


async def test_while_a_shard_has_no_node_its_servers_are_unavailable(two: TwoDaemons) -> None:
    name = SERVERS[0]
    two.owners[find_shard(name, SHARDS)] = None
    reply = await ask(two.daemons["a"], f"/v1/forecasts/{name}", ADMIN)
    assert reply.status == 503
    assert reply.body["code"] == "unavailable"
    assert reply.headers["Retry-After"] == "1"


async def test_a_node_that_is_gone_makes_its_servers_unavailable(two: TwoDaemons) -> None:
    two.logs["b"].kill()
    reply = await ask(two.daemons["a"], f"/v1/forecasts/{find_server_of('b')}", ADMIN)
    assert reply.status == 503
    assert "the node b has the server" in reply.body["message"]


async def silence(two: TwoDaemons, node: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a node take calls and answer none, as one that is stopped."""
    monkeypatch.setattr(remote_calls, "REMOTE_CALL_SECONDS", 0.05)
    await two.servers[node].close()

    async def answer(data: bytes) -> bytes:
        await asyncio.Event().wait()
        return b""

    await two.logs[node].serve(NAMES.ask(node, remote_calls.CALL_VERB), answer)


async def test_a_node_that_is_silent_is_not_waited_for_longer_than_the_bound(
    two: TwoDaemons, monkeypatch: pytest.MonkeyPatch
) -> None:
    await silence(two, "b", monkeypatch)
    async with asyncio.timeout(5.0):
        reply = await ask(two.daemons["a"], f"/v1/forecasts/{find_server_of('b')}")
    assert (reply.status, reply.body["code"], reply.headers["Retry-After"]) == (503, "unavailable", "1")


async def test_a_node_answers_only_for_shards_that_it_still_has(two: TwoDaemons) -> None:
    name = find_server_of("b")
    two.lost.add(find_shard(name, SHARDS))
    reply = await ask(two.daemons["a"], f"/v1/servers/{name}")
    assert (reply.status, reply.body["code"], reply.headers["Retry-After"]) == (503, "unavailable", "1")
    assert "is moving to another node" in reply.body["message"]


@pytest.mark.parametrize("fault", ["silent", "without a node", "moving"])
async def test_a_forecast_that_is_known_here_is_answered_if_its_node_does_not(
    two: TwoDaemons, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    name, a = find_server_of("b"), two.daemons["a"]
    known = await ask(a, f"/v1/forecasts/{name}")
    body = pack({"samples": make_rows(name, SERVERS.index(name), range(NEED))}, JSON)
    assert (await a.post_bytes("/v1/samples", body, **ADMIN.headers)).body["rejected"] == 0
    await a.service.pipeline.wait_idle()
    two.followed.add(name)
    if fault == "silent":
        await silence(two, "b", monkeypatch)
    elif fault == "moving":
        two.lost.add(find_shard(name, SHARDS))
    else:
        two.owners[find_shard(name, SHARDS)] = None
    assert (await ask(a, f"/v1/forecasts/{name}")).body == known.body
    assert (await ask(a, f"/v1/servers/{name}")).status == 503  # its rows are not here


# ---------------------------------------------------------------- lists
@pytest.mark.parametrize("limit", [1, 5, 100])
async def test_pages_of_each_node_have_every_server_once(two: TwoDaemons, limit: int) -> None:
    for daemon in two.daemons.values():
        found: list[str] = []
        cursor = ""
        while True:
            body = (await ask(daemon, f"/v1/servers?limit={limit}&cursor={cursor}", ADMIN)).body
            found += [each["server"] for each in body["servers"]]
            assert "missing_shards" not in body
            if body["next"] is None:
                break
            cursor = body["next"]
        assert found == sorted(SERVERS)


async def test_a_page_leaves_out_what_the_caller_may_not_read(two: TwoDaemons) -> None:
    for daemon in two.daemons.values():
        body = (await ask(daemon, "/v1/servers?limit=1", ONE)).body
        assert [each["server"] for each in body["servers"]] == ["web-3"]
        assert body["next"] == "web-3"


async def test_a_page_names_the_shards_that_no_node_answered_for(two: TwoDaemons) -> None:
    two.logs["b"].kill()
    body = (await ask(two.daemons["a"], "/v1/servers", ADMIN)).body
    assert body["missing_shards"] == [1]
    assert {find_shard(each["server"], SHARDS) for each in body["servers"]} == {0}


def test_a_server_that_two_nodes_list_is_on_the_page_once() -> None:
    pages = [
        ListAnswer(servers=[{"server": "a", "have": 1}, {"server": "b"}], has_more=False, shards=(0, 1)),
        ListAnswer(servers=[{"server": "a", "have": 2}], has_more=False, shards=(1,)),
    ]
    assert [each["server"] for each in merge_pages(pages, 10, 2)["servers"]] == ["a", "b"]


async def test_who_looks_at_the_fleet_sees_all_servers(two: TwoDaemons) -> None:
    daemon = two.daemons["a"]
    assert (await ask(daemon, "/v1/fleet")).status == 200
    assert two.nodes["a"].shown == 1
    headers = ADMIN.headers
    async with daemon.session.ws_connect(f"{daemon.url}/v1/forecasts", headers=headers) as socket:
        await socket.send_str('{"type": "subscribe-fleet"}')
        assert (await socket.receive_json())["type"] == "subscribed-fleet"
        assert (await socket.receive_json())["type"] == "fleet"
    assert two.nodes["a"].shown == 2


# ---------------------------------------------------------------- condition
async def test_a_node_says_in_its_readiness_what_is_wrong(two: TwoDaemons) -> None:
    daemon, nodes = two.daemons["a"], two.nodes["a"]
    nodes.problems = ["log_away"]
    assert (await daemon.get("/readyz")).body["degraded"] == ["log_away"]
    nodes.refusal = "joining"
    reply = await daemon.get("/readyz")
    assert (reply.status, reply.body) == (503, {"status": "joining"})


async def test_the_status_has_the_cluster(two: TwoDaemons) -> None:
    body = (await ask(two.daemons["a"], "/v1/status", ADMIN)).body
    assert body["cluster"] == {"node": "a"}
