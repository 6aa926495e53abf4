"""Tests `streamd/http/routes/samples.py`: the WebSocket `GET /v1/ingest`.

Frames of samples, acks, and errors after which the connection stays open.
"""

import asyncio
from typing import Any

import aiohttp
import numpy as np
import pytest
from aiohttp import WSMsgType

from streamd.http.requests import TransportLimits
from tests.http.conftest import Start
from tests.support.http_harness import (
    CONTRACT,
    JSON,
    MSGPACK,
    TYPES,
    HttpDaemon,
    HttpDaemonSettings,
    at,
    is_same_array,
    make_rows,
    make_sample,
    make_tensor,
    make_window,
    pack,
)
from tests.support.stalled_peer import StalledReader


@pytest.mark.parametrize("content_type", TYPES)
@pytest.mark.parametrize("identifier", ["a", "", 0, 7, -(2**63), 2**63 - 1, 1.5, None])
async def test_an_ack_has_the_id_of_its_frame(daemon: HttpDaemon, content_type: str, identifier: Any) -> None:
    async with daemon.socket("/v1/ingest", content_type) as agent:
        ack = await agent.ask({"id": identifier, "samples": [make_sample("a", 0), make_sample("", 0)]})
    assert ack["errors"][0].pop("message")
    assert ack == {
        "type": "ack",
        "id": identifier,
        "accepted": 1,
        "rejected": 1,
        "errors": [{"index": 1, "code": "invalid_server"}],
    }


@pytest.mark.parametrize("content_type", TYPES)
async def test_a_frame_without_id_is_acked_with_null(daemon: HttpDaemon, content_type: str) -> None:
    async with daemon.socket("/v1/ingest", content_type) as agent:
        assert (await agent.ask({"samples": []}))["id"] is None


@pytest.mark.parametrize("content_type", TYPES)
@pytest.mark.parametrize("identifier", ["[1]", "{}", "true", str(2**64), str(10**40), str(-(10**40))])
async def test_an_id_of_another_kind_is_an_error_and_the_connection_stays(
    daemon: HttpDaemon, content_type: str, identifier: str
) -> None:
    async with daemon.socket("/v1/ingest", JSON) as agent:
        await agent.send_bytes(b'{"id": %s, "samples": []}' % identifier.encode())
        answer = await agent.receive()
        assert (answer["type"], answer["code"]) == ("error", "malformed")
        assert (await agent.ask({"id": 1, "samples": []}))["id"] == 1


async def test_frames_may_hold_columns(daemon: HttpDaemon) -> None:
    rows = np.arange(6, dtype="<f4").reshape(2, 3)
    names = {"servers": ["a", "b"], "time": at(0), "features": list(CONTRACT.features)}
    async with daemon.socket("/v1/ingest", MSGPACK) as agent:
        ack = await agent.ask({"id": "c", "columns": {**names, "values": make_tensor(rows)}})
        assert (ack["id"], ack["accepted"], ack["rejected"]) == ("c", 2, 0)
    async with daemon.socket("/v1/ingest", JSON) as agent:
        ack = await agent.ask({"id": "d", "columns": {**names, "time": [at(1), -1], "values": rows.tolist()}})
        assert (ack["id"], ack["accepted"]) == ("d", 1)
        assert [(error["index"], error["code"]) for error in ack["errors"]] == [(1, "invalid_time")]
    assert (await daemon.window("a"))[-2:].tolist() == [[0, 1, 2], [0, 1, 2]]
    assert (await daemon.window("b"))[-1].tolist() == [3, 4, 5]


async def test_text_and_binary_frames_on_one_connection(daemon: HttpDaemon) -> None:
    async with daemon.session.ws_connect(daemon.url + "/v1/ingest") as socket:
        for step in range(4):
            body = {"id": step, "samples": make_rows("a", 1, [step])}
            if step % 2:
                await socket.send_bytes(pack(body, MSGPACK))
            else:
                await socket.send_str(pack(body, JSON).decode())
        kinds = [(await socket.receive()).type for _ in range(4)]
    assert kinds == [WSMsgType.TEXT, WSMsgType.BINARY] * 2
    assert is_same_array(await daemon.window("a"), make_window(make_rows("a", 1, range(4)), 3))


async def test_acks_arrive_in_the_order_of_the_frames(daemon: HttpDaemon) -> None:
    async with daemon.socket("/v1/ingest") as agent:
        for number in range(200):
            await agent.send({"id": number, "samples": make_rows("a", 1, [number])})
        assert [(await agent.receive())["id"] for _ in range(200)] == list(range(200))


async def test_frames_of_any_kind_that_arrive_together_are_answered_in_order(daemon: HttpDaemon) -> None:
    """Small ones are taken together; a ping, a large frame and a bad one come between."""
    async with daemon.socket("/v1/ingest") as agent:
        for number in range(60):
            await agent.send({"id": number, "samples": make_rows("a", 1, [number])})
            if number % 20 == 5:
                await agent.raw.ping()
            if number % 20 == 10:
                await agent.send({"id": -number, "samples": make_rows("b", 2, range(100 * number, 100 * number + 100))})
            if number % 20 == 15:
                await agent.send_bytes(b"{")
        answers = [await agent.receive() for _ in range(66)]
    expected: list[tuple[str, int | None, int | None]] = []
    for number in range(60):
        expected.append(("ack", number, 1))
        if number % 20 == 10:
            expected.append(("ack", -number, 100))
        if number % 20 == 15:
            expected.append(("error", None, None))
    assert [(answer["type"], answer.get("id"), answer.get("accepted")) for answer in answers] == expected
    assert is_same_array(await daemon.window("a"), make_window(make_rows("a", 1, range(60)), 59))


async def test_frames_that_arrive_together_make_no_more_servers_than_the_daemon_holds(start: Start) -> None:
    daemon = await start(HttpDaemonSettings(capacity=8))
    async with daemon.socket("/v1/ingest") as agent:
        for number in range(40):
            await agent.send({"id": number, "samples": make_rows(f"web-{number}", 1, [0])})
        answers = [await agent.receive() for _ in range(40)]
    assert [answer["id"] for answer in answers] == list(range(40))
    assert [answer["accepted"] for answer in answers] == [1] * 8 + [0] * 32
    assert {error["code"] for answer in answers for error in answer["errors"]} == {"no_capacity"}


async def test_frames_of_an_agent_that_reads_no_acks_are_not_taken(daemon: HttpDaemon) -> None:
    agent = StalledReader()
    await agent.connect(daemon.port, "/v1/ingest")
    frame = pack({"id": "x" * 3_000, "samples": make_rows("a", 1, [0])}, JSON)

    async def send_all() -> None:
        for _ in range(40):
            await agent.send([frame] * 100)

    sending = asyncio.create_task(send_all())
    while not daemon.has_stalled_reader():
        await daemon.status()
    taken = daemon.service.ingest.accepted
    assert 0 < taken < 4_000
    for _ in range(5):
        assert (await daemon.status())["samples"]["accepted"] == taken
    sending.cancel()
    agent.close()


async def test_without_acks_only_errors_are_sent(daemon: HttpDaemon) -> None:
    async with daemon.socket("/v1/ingest?ack=none") as agent, daemon.subscribed() as reader:
        for step in range(3):
            await agent.send({"id": step, "samples": make_rows("a", 1, [step])})
        assert (await reader.receive())["server"] == "a"
        await agent.send_bytes(b"{")
        assert (await agent.receive())["type"] == "error"
    assert is_same_array(await daemon.window("a"), make_window(make_rows("a", 1, range(3)), 2))


BAD_FRAMES = [
    b"",
    b"null",
    b"[]",
    b"{}",
    b"1",
    b'{"samples": 5}',
    b'{"samples": [',
    b'{"samples": null}',
    b"\xc1",
    b"\x81",
]


@pytest.mark.parametrize("content_type", TYPES)
@pytest.mark.parametrize("frame", BAD_FRAMES)
async def test_a_bad_frame_gets_an_error_and_the_connection_stays(
    daemon: HttpDaemon, content_type: str, frame: bytes
) -> None:
    if content_type == JSON:
        frame = frame.decode("latin-1").encode()
    async with daemon.socket("/v1/ingest", content_type) as agent:
        await agent.send_bytes(frame)
        answer = await agent.receive()
        assert set(answer) == {"type", "code", "message"}
        assert (answer["type"], answer["code"]) == ("error", "malformed")
        assert (await agent.ask({"id": 1, "samples": [make_sample("a", 0)]}))["accepted"] == 1


@pytest.mark.parametrize("content_type", TYPES)
async def test_a_frame_too_large_ends_its_own_connection_only(start: Start, content_type: str) -> None:
    daemon = await start(HttpDaemonSettings(limits=TransportLimits(max_frame_bytes=1_000)))
    async with daemon.socket("/v1/ingest", content_type) as agent, daemon.socket("/v1/ingest", content_type) as other:
        assert (await other.ask({"id": 1, "samples": []}))["id"] == 1
        await agent.send_bytes(b" " * 1_001)
        assert await agent.wait_closed() == aiohttp.WSCloseCode.MESSAGE_TOO_BIG
        assert (await other.ask({"id": 2, "samples": [make_sample("a", 0)]}))["accepted"] == 1
        # 2. A frame of exactly the limit is read.
        frame = pack({"id": "", "samples": []}, content_type)
        frame = pack({"id": "x" * (1_000 - len(frame) - 2 * (content_type == MSGPACK)), "samples": []}, content_type)
        assert len(frame) == 1_000
        await other.send_bytes(frame)
        assert (await other.receive())["accepted"] == 0


async def test_a_text_frame_that_is_not_utf8_ends_its_own_connection_only(daemon: HttpDaemon) -> None:
    """RFC 6455 requires it: such a frame is not text, and the connection must fail."""
    async with daemon.socket("/v1/ingest") as agent, daemon.socket("/v1/ingest") as other:
        await agent.raw.send_frame(b'{"samples": ["\xff"]}', WSMsgType.TEXT)
        assert await agent.wait_closed() == aiohttp.WSCloseCode.INVALID_TEXT
        assert (await other.ask({"id": 2, "samples": []}))["id"] == 2


@pytest.mark.parametrize("path", ["/v1/ingest", "/v1/forecasts", "/v1/forecasts/stream"])
async def test_too_many_sockets_are_429_with_retry_after(start: Start, path: str) -> None:
    daemon = await start(HttpDaemonSettings(limits=TransportLimits(max_sockets=1)))
    headers = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
    headers["Sec-WebSocket-Key"] = "AAAAAAAAAAAAAAAAAAAAAA=="
    async with daemon.socket("/v1/ingest"):
        reply = await daemon.call("GET", path, headers=headers)
        assert (reply.status, reply.code) == (429, "too_busy")
        assert int(reply.headers["Retry-After"]) >= 1
    async with daemon.session.get(daemon.url + "/v1/status") as response:  # ordinary requests are still answered
        assert response.status == 200


async def test_many_agents_at_once_do_not_mix_their_samples(daemon: HttpDaemon) -> None:
    async def agent(number: int) -> None:
        name = f"web-{number}"
        content_type = TYPES[number % 2]
        async with daemon.socket("/v1/ingest", content_type) as socket:
            for step in range(20):
                ack = await socket.ask({"id": step, "samples": make_rows(name, number, [step])})
                assert (ack["id"], ack["accepted"]) == (step, 1)

    await asyncio.gather(*(agent(number) for number in range(30)))
    for number in range(30):
        expected = make_window(make_rows("", number, range(20)), 19)
        assert is_same_array(await daemon.window(f"web-{number}"), expected)


async def test_an_agent_that_vanishes_leaves_what_was_acked(daemon: HttpDaemon) -> None:
    async with daemon.socket("/v1/ingest") as agent:
        assert (await agent.ask({"samples": make_rows("a", 1, range(2))}))["accepted"] == 2
        await agent.send_bytes(b'{"samples": [')
        agent.raw._writer.transport.abort()
    assert is_same_array(await daemon.window("a"), make_window(make_rows("a", 1, range(2)), 1))


async def test_stopping_closes_sockets_as_going_away(daemon: HttpDaemon) -> None:
    async with daemon.socket("/v1/ingest") as agent, daemon.subscribed() as reader:
        closing = asyncio.create_task(daemon.http_app.sockets.close_all())
        assert await agent.wait_closed() == aiohttp.WSCloseCode.GOING_AWAY
        assert await reader.wait_closed() == aiohttp.WSCloseCode.GOING_AWAY
        await closing
        reply = await daemon.call("GET", "/v1/forecasts/stream")
        assert (reply.status, reply.code) == (503, "draining")


async def test_an_agent_that_never_reads_is_not_stopped_by_its_errors(daemon: HttpDaemon) -> None:
    agent = StalledReader()
    await agent.connect(daemon.port, "/v1/ingest?ack=none")
    async with daemon.subscribed() as reader:
        for _ in range(60):
            await agent.send([b'{"samples": 5}'] * 1_000)  # their errors are more than the buffers of both sockets hold
        await agent.send([pack({"samples": make_rows("a", 1, range(4))}, JSON)])
        assert (await reader.receive())["server"] == "a"
    assert (await daemon.status())["samples"]["refused_frames"] == {"malformed": 60_000}
    agent.close()
