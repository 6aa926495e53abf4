"""Tests `streamd/http/protocols/telegraf.py`: what `outputs.http` and `outputs.websocket` of Telegraf 1.40.0 need."""

import asyncio
import gzip
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import WSMsgType

from streamd.core.errors import StorageError
from streamd.http.protocols.intake import Intake
from streamd.http.protocols.telegraf import HOLD_TRIES, TelegrafRoutes
from streamd.http.requests import TransportLimits
from streamd.http.sockets import Sockets
from streamd.rule_sets import load_rule_set
from streamd.runtime.service import Service
from tests.support.agent_routes import AgentServer, serve_agents
from tests.support.http_harness import HttpDaemonSettings

TELEGRAF = {"User-Agent": "Telegraf/1.40.0 Go/1.25.0", "Content-Type": "text/plain; charset=utf-8"}
LIMITS = TransportLimits(max_body_bytes=100_000, max_frame_bytes=100_000)

Serve = Callable[..., AbstractAsyncContextManager[AgentServer]]


@pytest.fixture
def serve(tmp_path: Path) -> Serve:
    def serve(ping_seconds: float = 10.0) -> AbstractAsyncContextManager[AgentServer]:
        def make_routes(service: Service, intake: Intake, sockets: Sockets) -> TelegrafRoutes:
            return TelegrafRoutes(service, intake, sockets, ping_seconds=ping_seconds, hold_seconds=0.0)

        settings = HttpDaemonSettings(rule_sets=[load_rule_set("telegraf")])
        return serve_agents(tmp_path, make_routes, LIMITS, settings)

    return serve


@pytest.fixture
async def server(serve: Serve) -> AsyncIterator[AgentServer]:
    async with serve() as served:
        yield served


def make_metric(value: Any = 1.5, **more: Any) -> dict[str, Any]:
    tags = {"cpu": "cpu-total", "host": "web-01"}
    return {"fields": {"usage_user": value}, "name": "cpu", "tags": tags, "timestamp": int(time.time()), **more}


def write(*metrics: Any) -> bytes:
    return json.dumps({"metrics": metrics}).encode() + b"\n"


def make_line(server: str = "web-01") -> bytes:
    return f"cpu,cpu=cpu-total,host={server} usage_user=1 {time.time_ns()}\n".encode()


# ---------------------------------------------------------------- outputs.http
async def test_a_batch_or_one_metric_or_lines_are_taken(server: AgentServer) -> None:
    for body in (write(make_metric(), make_metric(2)), json.dumps(make_metric()).encode(), make_line()):
        reply = await server.post("/telegraf", body, TELEGRAF)
        assert reply.status == 200
        assert reply.body["rejected"] == 0
    assert server.get_counts("telegraf").taken == 4


async def test_a_body_may_be_compressed(server: AgentServer) -> None:
    body = gzip.compress(write(make_metric()))
    assert (await server.post("/telegraf", body, {**TELEGRAF, "Content-Encoding": "gzip"})).body["taken"] == 1


async def test_bad_metrics_are_named_with_200_and_the_good_ones_are_taken(server: AgentServer) -> None:
    """Telegraf would repeat the batch after any other answer."""
    reply = await server.post("/telegraf", write(make_metric(), {"name": 1}, make_metric(2, timestamp="x")), TELEGRAF)
    assert reply.status == 200
    assert (reply.body["taken"], reply.body["rejected"]) == (1, 2)
    assert [error["message"][:10] for error in reply.body["errors"]] == ["metrics[1]", "metrics[2]"]
    reply = await server.post("/telegraf", make_line() + b"bad\n", TELEGRAF)
    assert (reply.status, reply.body["taken"], reply.body["rejected"]) == (200, 1, 1)


async def test_a_body_of_another_form_is_refused(server: AgentServer) -> None:
    for body in (b"{", b"{}", b'{"metrics":5}'):
        reply = await server.post("/telegraf", body, TELEGRAF)
        assert (reply.status, reply.code) == (400, "malformed")
    assert server.get_counts("telegraf").refused == {"malformed": 3}


async def test_a_batch_that_is_too_large_is_not_repeated_by_telegraf(server: AgentServer) -> None:
    body = b" " * (LIMITS.max_body_bytes + 1)
    reply = await server.post("/telegraf", body, TELEGRAF)
    assert (reply.status, reply.code) == (200, "too_large")
    assert (await server.post("/telegraf", body)).status == 413


async def test_an_overload_is_503_before_the_body_is_decoded(
    server: AgentServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server.service.collector.open_rows, "points_kept", server.service.collector.limits.max_points)
    reply = await server.post("/telegraf", b"{", TELEGRAF)
    assert (reply.status, reply.code, reply.headers["Retry-After"]) == (503, "too_busy", "1")


# ---------------------------------------------------------------- outputs.websocket
async def receive_message(socket: aiohttp.ClientWebSocketResponse) -> dict[str, Any]:
    frame = await socket.receive()
    assert frame.type is WSMsgType.TEXT, f"got {frame}"
    message: dict[str, Any] = json.loads(frame.data)
    return message


async def wait_taken(server: AgentServer, socket: aiohttp.ClientWebSocketResponse, count: int) -> None:
    """Send one more frame and wait for its answer: then all frames are taken, although good ones have no answer."""
    await socket.send_bytes(b"{")
    assert (await receive_message(socket))["code"] == "malformed"
    assert server.get_counts("telegraf").taken == count


async def test_frames_of_both_kinds_and_forms_are_taken_without_answers(server: AgentServer) -> None:
    async with server.session.ws_connect(server.url + "/telegraf") as socket:
        for body in (write(make_metric()), make_line("ü")):
            await socket.send_bytes(body)
            await socket.send_str(body.decode())
        await wait_taken(server, socket, 4)


async def test_a_frame_with_errors_is_answered_and_the_connection_stays(server: AgentServer) -> None:
    async with server.session.ws_connect(server.url + "/telegraf") as socket:
        await socket.send_bytes(write(make_metric(), {"name": 1}))
        answer = await receive_message(socket)
        assert (answer["taken"], answer["rejected"]) == (1, 1)
        assert answer["errors"][0]["message"].startswith("metrics[1]")
        for body in (b"{}", b'{"metrics":1}'):
            await socket.send_bytes(body)
            assert (await receive_message(socket))["code"] == "malformed"
        await socket.send_bytes(write(make_metric()))
        await wait_taken(server, socket, 2)


async def test_pings_come_although_frames_do(serve: Serve) -> None:
    """A ping keeps Telegraf's read timeout of 30 s from closing the connection."""
    async with (
        serve(ping_seconds=0.001) as server,
        server.session.ws_connect(server.url + "/telegraf", autoping=False) as socket,
    ):
        for _ in range(3):
            await socket.send_bytes(write(make_metric()))
            assert (await socket.receive()).type is WSMsgType.PING


async def test_pings_end_with_the_connection(serve: Serve) -> None:
    async with serve(ping_seconds=0.001) as server:
        socket = await server.session.ws_connect(server.url + "/telegraf")
        await socket.close()
        socket = await server.session.ws_connect(server.url + "/telegraf")
        assert socket._response.connection is not None
        assert socket._response.connection.transport is not None
        socket._response.connection.transport.abort()
        while any("send_pings" in repr(task) for task in asyncio.all_tasks()):
            await asyncio.sleep(0)


async def test_a_frame_is_held_until_it_can_be_taken(server: AgentServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Telegraf counts the frame as delivered."""
    collector, tries = server.service.collector, 0
    append = collector.point_log.append

    def fail_twice(records: Any) -> None:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise StorageError("the disk is full")
        append(records)

    monkeypatch.setattr(collector.point_log, "append", fail_twice)
    async with server.session.ws_connect(server.url + "/telegraf") as socket:
        await socket.send_bytes(write(make_metric()))
        await wait_taken(server, socket, 1)


async def test_a_frame_that_cannot_be_taken_at_last_is_counted(
    server: AgentServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    collector, tries = server.service.collector, 0
    check_open = collector.check_open

    def count_tries() -> None:
        nonlocal tries
        tries += 1
        check_open()

    monkeypatch.setattr(collector, "check_open", count_tries)
    monkeypatch.setattr(collector.open_rows, "points_kept", collector.limits.max_points)
    async with server.session.ws_connect(server.url + "/telegraf") as socket:
        await socket.send_bytes(write(make_metric()))
        assert (await receive_message(socket))["code"] == "too_busy"
        assert tries == HOLD_TRIES
        monkeypatch.setattr(collector, "is_draining", True)
        await socket.send_bytes(write(make_metric()))
        assert (await receive_message(socket))["code"] == "draining"
    assert server.get_counts("telegraf").refused == {"too_busy": 1, "draining": 1}


async def test_too_large_a_frame_closes_the_connection(server: AgentServer) -> None:
    async with server.session.ws_connect(server.url + "/telegraf") as socket:
        await socket.send_bytes(b" " * (LIMITS.max_frame_bytes + 1))
        assert (await socket.receive()).type is WSMsgType.CLOSE
        assert socket.close_code == 1009


async def test_one_socket_too_many_is_503(tmp_path: Path) -> None:
    limits = TransportLimits(max_sockets=0)
    async with serve_agents(
        tmp_path, lambda service, intake, sockets: TelegrafRoutes(service, intake, sockets), limits
    ) as server:
        upgrade = {
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        }
        reply = await server.call("GET", "/telegraf", headers=upgrade)
        assert (reply.status, reply.code) == (503, "too_busy")
