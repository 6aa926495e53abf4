"""Tests `streamd/http/routes/forecasts.py`: subscriptions on a WebSocket whose frames have ids, and that continue."""

from typing import Any

import pytest
from aiohttp import WSMsgType

from tests.support.http_harness import (
    JSON,
    MSGPACK,
    NEED,
    TYPES,
    HttpDaemon,
    Message,
    Socket,
    make_rows,
    origin,
    unpack,
)


async def receive_raw(socket: Socket) -> bytes:
    frame = await socket.raw.receive()
    assert frame.type in (WSMsgType.TEXT, WSMsgType.BINARY)
    return frame.data if isinstance(frame.data, bytes) else str(frame.data).encode()


async def subscribe(socket: Socket, **choice: Any) -> Message:
    answer = await socket.ask({"type": "subscribe", **choice})
    assert answer["type"] == "subscribed", answer
    return answer


@pytest.mark.parametrize("batch", [False, True])
@pytest.mark.parametrize("content_type", TYPES)
async def test_a_frame_with_an_id_is_else_the_same_byte_for_byte(
    daemon: HttpDaemon, content_type: str, batch: bool
) -> None:
    async with (
        daemon.socket("/v1/forecasts", content_type) as plain,
        daemon.socket("/v1/forecasts", content_type) as one,
    ):
        assert "ids" not in await subscribe(plain, batch=batch)
        answer = await subscribe(one, batch=batch, ids=True)
        assert (answer["ids"], answer["id"]) == (True, 0)
        await daemon.accept(make_rows("a", 1, range(NEED)))
        without, with_id = await receive_raw(plain), await receive_raw(one)
    message = unpack(with_id, content_type)
    assert message.pop("id") == daemon.service.state.board.last_serial
    assert message == unpack(without, content_type)
    common = len(without) - 1 if content_type == JSON else len(without)
    assert with_id[1:common] == without[1:common]


@pytest.mark.parametrize("batch", [False, True])
async def test_a_reader_continues_after_its_last_id(daemon: HttpDaemon, batch: bool) -> None:
    choice = {"servers": ["a", "b"], "batch": batch, "ids": True}
    async with daemon.socket("/v1/forecasts", MSGPACK) as reader:
        await subscribe(reader, **choice)
        await daemon.accept(make_rows("a", 1, range(NEED)))
        left_at = (await reader.receive())["id"]
    # While it is away: a newer forecast of `a`, and those of two others, of which it subscribes to one.
    async with daemon.subscribed() as watcher:
        for name, steps in (("b", range(NEED)), ("a", range(NEED, NEED + 1)), ("other", range(NEED))):
            await daemon.accept(make_rows(name, 1, steps))
            await watcher.receive()
    async with daemon.socket("/v1/forecasts", MSGPACK) as reader:
        assert (await subscribe(reader, **choice, last_event_id=left_at))["id"] == left_at
        found: dict[str, int] = {}
        while len(found) < 2:
            message = await reader.receive()
            assert message["type"] in ("forecast", "forecasts")
            servers, origins = message.get("servers"), message.get("origins")
            found |= dict(zip(servers or [message["server"]], origins or [message["origin"]], strict=True))
            last = message["id"]
        assert found == {"b": origin(NEED - 1), "a": origin(NEED)}
    # With the newest id nothing is replayed.
    async with daemon.socket("/v1/forecasts", MSGPACK) as reader:
        await subscribe(reader, **choice, last_event_id=last)
        await daemon.accept(make_rows("a", 1, [NEED + 1]))
        message = await reader.receive()
        assert [message.get("origin"), *message.get("origins", [])][-1 if batch else 0] == origin(NEED + 1)


async def test_a_reader_that_got_nothing_continues_where_it_subscribed(daemon: HttpDaemon) -> None:
    await daemon.accept(make_rows("old", 1, range(NEED)))
    await daemon.service.pipeline.wait_idle()
    async with daemon.socket("/v1/forecasts") as reader:
        begin = (await subscribe(reader, ids=True))["id"]
    await daemon.accept(make_rows("new", 1, range(NEED)))
    await daemon.service.pipeline.wait_idle()
    async with daemon.socket(f"/v1/forecasts?ids=true&last_event_id={begin}") as reader:
        assert (await reader.receive())["type"] == "subscribed"
        assert (await reader.receive())["server"] == "new"


@pytest.mark.parametrize("identifier", [0, 10**17])
async def test_a_reader_of_another_state_gets_all_forecasts(daemon: HttpDaemon, identifier: int) -> None:
    await daemon.accept(make_rows("a", 1, range(NEED)) + make_rows("b", 2, range(NEED)))
    await daemon.service.pipeline.wait_idle()
    async with daemon.socket("/v1/forecasts") as reader:
        assert (await subscribe(reader, ids=True, last_event_id=identifier))["id"] == 0
        assert {(await reader.receive())["server"] for _ in range(2)} == {"a", "b"}


async def test_to_continue_needs_no_ids(daemon: HttpDaemon) -> None:
    await daemon.accept(make_rows("a", 1, range(NEED)))
    await daemon.service.pipeline.wait_idle()
    async with daemon.socket("/v1/forecasts") as reader:
        await subscribe(reader, last_event_id=0)
        assert "id" not in await reader.receive()


@pytest.mark.parametrize(
    ("given", "code"), [(-1, "invalid_selection"), (10**18, "invalid_selection"), ("7", "malformed")]
)
async def test_what_is_no_id_is_refused_and_the_socket_stays(daemon: HttpDaemon, given: object, code: str) -> None:
    async with daemon.socket("/v1/forecasts") as reader:
        answer = await reader.ask({"type": "subscribe", "last_event_id": given})
        assert (answer["type"], answer["code"]) == ("error", code)
        await subscribe(reader)


async def test_a_query_with_no_id_at_all_is_400(daemon: HttpDaemon) -> None:
    reply = await daemon.get("/v1/forecasts/stream?last_event_id=x")
    assert (reply.status, reply.code) == (400, "invalid_selection")
