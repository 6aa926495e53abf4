"""Tests `streamd/http/fleet_sources.py` and `engine_relay.py`: a worker passes on the frames of the engine process."""

import base64
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import aiohttp
import msgspec
import pytest
from aiohttp import web

from streamd.core.access.scopes import Scope
from streamd.core.fleet.query import FleetQuery
from streamd.http import engine_relay
from streamd.http.engine_relay import EngineRelay
from streamd.http.fleet_sources import RelayedFleet
from streamd.http.forwarding import EngineForwarder
from streamd.http.wire.codecs import Encoding
from streamd.runtime.fleet import overview
from tests.http.conftest import Start
from tests.support.access_tokens import make_access_list, make_test_token
from tests.support.http_harness import HttpDaemon, HttpDaemonSettings, make_rows

DB = make_test_token("db", {Scope.SUBSCRIBE: ["db-*"]})
DECODERS: dict[Encoding, Any] = {Encoding.JSON: msgspec.json.decode, Encoding.MSGPACK: msgspec.msgpack.decode}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overview, "REFRESH_SECONDS", 0.01)
    monkeypatch.setattr(engine_relay, "RELAY_WAIT_SECONDS", 0.01)


@asynccontextmanager
async def follow(
    engine: HttpDaemon, path: str, encoding: Encoding = Encoding.JSON, headers: Any = None, **query: Any
) -> AsyncIterator[AsyncIterator[Any]]:
    """Read the frames that a worker in front of an engine process has for a reader."""
    await web.UnixSite(engine.runner, path).start()
    forwarder = EngineForwarder(path, lambda: True)
    source = RelayedFleet(EngineRelay(forwarder))

    async def push(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        async with aclosing(source.open_frames(request, FleetQuery(**query), encoding)) as frames:
            async for frame in frames:
                await response.write(base64.b64encode(frame) + b"\n")
        return response

    app = web.Application()
    app.router.add_get("/", push)
    runner = web.AppRunner(app, shutdown_timeout=0.05)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
        async with aiohttp.ClientSession() as session, session.get(url, headers=headers) as response:
            yield (DECODERS[encoding](base64.b64decode(line)) async for line in response.content)
    finally:
        await runner.cleanup()
        await forwarder.close()


async def report(engine: HttpDaemon, *servers: str) -> None:
    for server in servers:
        await engine.accept(make_rows(server, 1, [0]))


@pytest.mark.parametrize("encoding", Encoding)
async def test_frames_are_passed_on_in_the_encoding_of_the_reader(start: Start, path: str, encoding: Encoding) -> None:
    engine = await start(HttpDaemonSettings())
    await report(engine, "db-1", "web-1")
    async with follow(engine, path, encoding, search="DB", sort="name") as frames:
        assert (await anext(frames))["order"] == ["db-1"]
        await report(engine, "db-2")
        assert (await anext(frames))["order"] == ["db-1", "db-2"]


async def test_a_reader_gets_only_what_its_token_permits(start: Start, path: str) -> None:
    engine = await start(HttpDaemonSettings(access=make_access_list(DB)))
    for server in ("db-1", "web-1"):
        engine.service.state.admit(server, 1.0)
    async with follow(engine, path, headers=DB.headers) as frames:
        frame = await anext(frames)
        assert (frame["order"], frame["total"]) == (["db-1"], 1)


async def test_after_a_restart_of_the_engine_process_a_reader_gets_all_again(start: Start, path: str) -> None:
    engine = await start(HttpDaemonSettings())
    await report(engine, "db-1", "web-1")
    async with follow(engine, path) as frames:
        assert len((await anext(frames))["servers"]) == 2
        sockets = engine.http_app.sockets
        for socket in list(sockets._open):
            sockets.drop_peer(socket)
        assert len((await anext(frames))["servers"]) == 2
