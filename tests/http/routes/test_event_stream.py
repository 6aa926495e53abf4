"""Tests `streamd/http/routes/forecasts.py`: `GET /v1/forecasts/stream`.

Server-sent events, and resuming where a reader left.
"""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest

from tests.support.http_harness import (
    NEED,
    HttpDaemon,
    Message,
    is_same_array,
    make_rows,
    make_window,
    make_wire_forecast,
    origin,
    read_array,
)


@dataclass
class Event:
    id: str | None
    event: str
    message: Message


class Events:
    """A parser of server-sent events."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._lines = response.content

    async def receive(self) -> Event:
        fields: dict[str, str] = {}
        while True:
            line = (await self._lines.readline()).decode()
            assert line, "the stream ended"
            if line == "\n":
                if "data" in fields:
                    return Event(fields.get("id"), fields["event"], json.loads(fields["data"]))
                fields = {}
            elif not line.startswith(":"):
                name, _, value = line.rstrip("\n").partition(": ")
                fields[name] = value

    async def ended(self) -> bool:
        return await self._lines.read() == b""


@asynccontextmanager
async def stream(daemon: HttpDaemon, query: str = "", **headers: str) -> AsyncIterator[Events]:
    async with daemon.session.get(f"{daemon.url}/v1/forecasts/stream{query}", headers=headers) as response:
        assert response.status == 200
        assert response.headers["Content-Type"].startswith("text/event-stream")
        assert response.headers["X-Accel-Buffering"] == "no", "a proxy passes each event on at once"
        assert response.headers["Cache-Control"] == "no-store"
        # The head of the stream is sent before the handler subscribes.
        while not len(daemon.service.hub):
            await daemon.get("/healthz")
        yield Events(response)


async def test_events_contain_the_same_messages_as_frames(daemon: HttpDaemon) -> None:
    async with stream(daemon) as events, daemon.subscribed() as reader:
        for step in range(NEED + 2):
            await daemon.accept(make_rows("a", 1, [step]))
            if step >= NEED - 1:
                event = await events.receive()
                assert event.event == "forecast"
                assert event.id is not None
                assert event.message == await reader.receive()
                window = make_window(make_rows("a", 1, range(step + 1)), step)
                assert is_same_array(read_array(event.message["values"]), make_wire_forecast(window))


async def test_ids_rise(daemon: HttpDaemon) -> None:
    async with stream(daemon) as events:
        ids = []
        for number in range(5):
            await daemon.accept(make_rows(f"s{number}", number, range(NEED)))
            ids.append(int((await events.receive()).id or 0))
    assert ids == sorted(set(ids))


async def test_the_query_chooses(daemon: HttpDaemon) -> None:
    async with stream(daemon, "?servers=b*&targets=cpu_user&quantiles=0.5&every=4") as events:
        await daemon.accept(make_rows("a", 1, range(NEED)) + make_rows("b", 2, range(NEED)))
        message = (await events.receive()).message
    assert (message["server"], message["targets"], message["quantiles"]) == ("b", ["cpu_user"], [0.5])
    assert read_array(message["values"]).shape == (1, 1, 1)


@pytest.mark.parametrize("by_header", [True, False])
async def test_last_event_id_replays_the_forecasts_that_were_missed(daemon: HttpDaemon, by_header: bool) -> None:
    async with stream(daemon) as events:
        await daemon.accept(make_rows("a", 1, range(NEED)))
        left_at = (await events.receive()).id
        assert left_at is not None
    # 2. While it is away: a newer forecast of `a`, and those of two others, of which it subscribes to one.
    async with daemon.subscribed() as reader:
        for name, steps in (("b", range(NEED)), ("a", range(NEED, NEED + 1)), ("other", range(NEED))):
            await daemon.accept(make_rows(name, 1, steps))
            await reader.receive()
    header: dict[str, Any] = {"Last-Event-ID": left_at} if by_header else {}
    query = "?servers=a,b" if by_header else f"?servers=a,b&last_event_id={left_at}"
    async with stream(daemon, query, **header) as events:
        missed = [await events.receive() for _ in range(2)]
        assert [(event.message["server"], event.message["origin"]) for event in missed] == [
            ("b", origin(NEED - 1)),
            ("a", origin(NEED)),
        ]
        await daemon.accept(make_rows("b", 1, [NEED]))
        newer = await events.receive()
        assert (newer.message["server"], newer.message["origin"]) == ("b", origin(NEED))
        assert int(newer.id or 0) > int(missed[-1].id or 0)
        last = newer.id
    # 3. With the newest id nothing is replayed.
    async with stream(daemon, **{"Last-Event-ID": str(last)}) as events:
        await daemon.accept(make_rows("a", 1, [NEED + 1]))
        assert (await events.receive()).message["origin"] == origin(NEED + 1)


@pytest.mark.parametrize("identifier", ["x", "-1", "1.5", "9" * 19, "1 2"])
async def test_an_id_that_no_event_can_have_is_400(daemon: HttpDaemon, identifier: str) -> None:
    reply = await daemon.call("GET", "/v1/forecasts/stream", headers={"Last-Event-ID": identifier})
    assert (reply.status, reply.code) == (400, "invalid_selection")


async def test_a_head_request_does_not_stream(daemon: HttpDaemon) -> None:
    reply = await daemon.call("HEAD", "/v1/forecasts/stream")
    assert reply.status == 404  # as for any unknown server: `stream` is a possible name
    assert not len(daemon.service.hub)


async def test_draining_delivers_and_ends_the_stream(daemon: HttpDaemon) -> None:
    daemon.backend.script.hold = True
    async with stream(daemon) as events:
        await daemon.accept(make_rows("a", 1, range(NEED)))
        daemon.release_lanes()
        await daemon.service.drain()
        await daemon.service.hub.finish()
        assert (await events.receive()).message["server"] == "a"
        assert await events.ended()
