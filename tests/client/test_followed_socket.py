"""Tests `streamd/client/followed_socket.py`: pings, peers that fall silent, and answers that no daemon gives."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest
from aiohttp import ClientWebSocketResponse, WSMessage, web

from streamd.client import Client, ClientError, DaemonUnreachableError, Reconnected, RefusedError
from streamd.http.requests import TransportLimits
from tests.support.http_harness import HttpDaemonSettings, open_listener, run_http_daemon
from tests.support.relay import Relay, open_relay

TALKS = 5
"""Pieces that this side sends while nothing else happens."""

ANSWER_SECONDS = 60.0
"""The time for an answer where none may be late: silence is short here, and a slow machine may need as long."""


async def wait_until_sent(relay: Relay, pieces: int) -> None:
    async with asyncio.timeout(ANSWER_SECONDS):
        while relay.passed_up < pieces:
            await asyncio.sleep(0)


def let_answers_be_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a client that has asked wait `ANSWER_SECONDS` for what comes next."""
    ping, receive = ClientWebSocketResponse.ping, ClientWebSocketResponse.receive
    asking = set[ClientWebSocketResponse]()

    async def ask(socket: ClientWebSocketResponse) -> None:
        asking.add(socket)
        await ping(socket)

    async def receive_patiently(socket: ClientWebSocketResponse, seconds: float | None = None) -> WSMessage:
        is_asking = socket in asking
        asking.discard(socket)
        return await receive(socket, ANSWER_SECONDS if is_asking else seconds)

    monkeypatch.setattr(ClientWebSocketResponse, "ping", ask)
    monkeypatch.setattr(ClientWebSocketResponse, "receive", receive_patiently)


async def test_a_silent_daemon_is_asked_and_stays(
    client: Client, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_answers_be_late(monkeypatch)
    monkeypatch.setattr("streamd.client.followed_socket.SILENT_SECONDS", 0.02)
    async with client.subscribe() as events:
        reading = asyncio.create_task(anext(events, None))
        await wait_until_sent(relay, relay.passed_up + TALKS)
        assert relay.accepted == 1
        await events.close()
        assert await reading is None


async def test_pings_of_the_daemon_are_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A daemon that pings so often would wait 10 ms for an answer; that there is one shows in what is passed up.
    monkeypatch.setattr(web.WebSocketResponse, "_pong_not_received", lambda _socket: None)
    settings = HttpDaemonSettings(limits=TransportLimits(heartbeat_seconds=0.02))
    async with (
        run_http_daemon(tmp_path / "x", settings) as daemon,
        open_relay(daemon.port) as relay,
        Client(relay.url) as client,
        client.subscribe() as events,
    ):
        reading = asyncio.create_task(anext(events, None))
        await wait_until_sent(relay, relay.passed_up + TALKS)
        assert relay.accepted == 1
        await events.close()
        assert await reading is None


async def test_a_daemon_that_is_gone_without_a_word_is_noticed(
    client: Client, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamd.client.followed_socket.SILENT_SECONDS", 0.02)
    async with client.subscribe() as events:
        relay.loses_answers = True
        reading = asyncio.create_task(anext(events))
        while relay.accepted < 2:  # it asks, gets no answer, and connects again
            await asyncio.sleep(0)
        relay.loses_answers = False
        relay.cut()
        assert isinstance(await reading, Reconnected)


async def serve(handler: Callable[[web.WebSocketResponse], Awaitable[object]]) -> tuple[web.AppRunner, str]:
    async def open_socket(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.receive()
        await handler(socket)
        return socket

    app = web.Application()
    app.router.add_get("/v1/forecasts", open_socket)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.SockSite(runner, open_listener()).start()
    return runner, f"http://127.0.0.1:{runner.addresses[0][1]}"


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        ({"type": "welcome"}, ClientError, "answered 'welcome', expected 'subscribed'"),
        ({"type": "error", "code": "forbidden", "message": "no"}, RefusedError, "forbidden: no"),
        (None, DaemonUnreachableError, "ended before the subscription was answered"),
    ],
)
async def test_another_answer_than_the_expected_one_is_an_error(
    answer: object, error: type[ClientError], message: str
) -> None:
    async def handle(socket: web.WebSocketResponse) -> None:
        await (socket.close() if answer is None else socket.send_bytes(msgspec.msgpack.encode(answer)))

    runner, url = await serve(handle)
    try:
        async with Client(url, retry_seconds=0.0) as client:
            with pytest.raises(error, match=message):
                await client.subscribe().__aenter__()
    finally:
        await runner.cleanup()


async def test_what_is_no_message_at_all_is_an_error() -> None:
    async def handle(socket: web.WebSocketResponse) -> None:
        await socket.send_bytes(msgspec.msgpack.encode({"type": "subscribed", "step_seconds": 60}))
        await socket.send_bytes(b"\xc1")
        await socket.receive()

    runner, url = await serve(handle)
    try:
        async with Client(url) as client, client.subscribe() as events:
            with pytest.raises(ClientError, match="unknown message"):
                await anext(events)
    finally:
        await runner.cleanup()
