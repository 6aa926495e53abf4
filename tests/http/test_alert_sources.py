"""Tests `streamd/http/alert_sources.py`: a worker passes on the alerts of the engine process that a caller may see."""

import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from streamd.core.access.scopes import Scope
from streamd.http import engine_relay
from streamd.http.alert_frames import make_alert_choice
from streamd.http.alert_sources import RelayedAlerts
from streamd.http.engine_relay import EngineRelay
from streamd.http.forwarding import EngineForwarder
from streamd.runtime.alerts.alert_subscriptions import AlertChoice
from tests.http.conftest import Start
from tests.support.access_tokens import make_access_list, make_test_token
from tests.support.http_harness import HttpDaemon, HttpDaemonSettings
from tests.support.made_alerts import ServedAlerts, make_alert, make_resolved_alert

DB = make_test_token("db", {Scope.SUBSCRIBE: ["db-*"]})
ALL = make_alert_choice(["*"], (), None)


@asynccontextmanager
async def run_worker(
    engine: HttpDaemon, path: str, choice: AlertChoice, is_up: Callable[[], bool] = lambda: True
) -> AsyncIterator[str]:
    """Serve what a worker's source of alerts yields, a message a line, in front of an engine process."""
    await web.UnixSite(engine.runner, path).start()
    forwarder = EngineForwarder(path, is_up)
    source = RelayedAlerts(EngineRelay(forwarder))

    async def show(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        async with aclosing(source.read_alerts(request, choice)) as messages:
            async for message in messages:
                await response.write(json.dumps(message).encode() + b"\n")
        return response

    app = web.Application()
    app.router.add_get("/", show)
    runner = web.AppRunner(app, shutdown_timeout=0.05)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/"
    finally:
        await runner.cleanup()
        await forwarder.close()


@asynccontextmanager
async def read(url: str, headers: Mapping[str, str] | None = None) -> AsyncIterator[AsyncIterator[Any]]:
    async with aiohttp.ClientSession() as session, session.get(url, headers=headers) as response:
        yield (json.loads(line) async for line in response.content)


def name(message: Any) -> list[tuple[str, str]]:
    return [(each["server"], each["state"]) for each in message["alerts"]]


async def test_a_worker_passes_on_the_snapshot_and_changes_that_its_caller_may_see(start: Start, path: str) -> None:
    engine = await start(HttpDaemonSettings(access=make_access_list(DB)))
    alerts = ServedAlerts(engine.service, make_alert(server="db-1"), make_alert(server="web-1"))
    async with run_worker(engine, path, ALL) as url, read(url, DB.headers) as messages:
        assert name(await anext(messages)) == [("db-1", "firing")]
        alerts.put(make_resolved_alert(server="web-1"), make_resolved_alert(server="db-1"))
        assert name(await anext(messages)) == [("db-1", "resolved")]


async def test_any_choice_reaches_the_engine_process(start: Start, path: str) -> None:
    engine = await start(HttpDaemonSettings())
    servers = ["a,b", "db[1]", "ä/&?"]
    ServedAlerts(engine.service, *(make_alert(server=each) for each in (*servers, "other")), make_alert("x", "a,b"))
    choice = make_alert_choice([*servers, *(f"web-{number:0200}" for number in range(1_000))], (), ["disk_fills"])
    async with run_worker(engine, path, choice) as url, read(url) as messages:
        assert [server for server, _ in name(await anext(messages))] == servers


async def test_after_a_restart_of_the_engine_process_a_reader_gets_a_new_snapshot(
    start: Start, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_relay, "RELAY_WAIT_SECONDS", 0.01)
    engine = await start(HttpDaemonSettings())
    alerts = ServedAlerts(engine.service, make_alert())
    async with run_worker(engine, path, ALL) as url, read(url) as messages:
        assert (await anext(messages))["snapshot"]
        sockets = engine.http_app.sockets
        for socket in list(sockets._open):
            sockets.drop_peer(socket)
        again = await anext(messages)
        assert (again["snapshot"], name(again)) == (True, [("db-07", "firing")])
        alerts.put(make_resolved_alert())
        assert name(await anext(messages)) == [("db-07", "resolved")]


async def test_a_reader_waits_while_the_engine_process_is_away(
    start: Start, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_relay, "RELAY_WAIT_SECONDS", 0.001)
    engine = await start(HttpDaemonSettings())
    ServedAlerts(engine.service, make_alert())
    answers = iter([False, False])
    async with run_worker(engine, path, ALL, lambda: next(answers, True)) as url, read(url) as messages:
        assert name(await anext(messages)) == [("db-07", "firing")]
    assert next(answers, None) is None
