"""Tests `streamd/client/client.py`: each call against a daemon, and what a call does when it fails."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trustme
from aiohttp import web

from streamd.client import (
    Client,
    ClientError,
    ClientSample,
    DaemonUnreachableError,
    ForecastPending,
    PushResult,
    RefusedError,
    ServerForecast,
)
from streamd.core.access.scopes import Scope
from streamd.core.accuracy.history_selection import HistoryLimits
from streamd.runtime.service import ServiceLimits
from tests.support.access_tokens import make_access_list, make_test_token
from tests.support.http_harness import (
    ADMIN_TOKEN,
    CONTRACT,
    MODEL,
    NEED,
    HttpDaemon,
    HttpDaemonSettings,
    at,
    is_same_array,
    make_question,
    make_rows,
    make_window,
    make_wire_forecast,
    open_listener,
    origin,
    run_http_daemon,
    values_of,
)
from tests.support.relay import Relay, open_relay

ODD_NAMES = ["a b/c?&+é", "db[1]", "..", "stream", "a,b", "100%", "#1"]
ROWS = make_rows("a", 1, range(NEED))
WINDOW = make_window(ROWS, NEED - 1)
FORECAST = make_wire_forecast(WINDOW)

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


def make_samples(server: str, steps: range = range(NEED), number: int = 1) -> list[ClientSample]:
    return [ClientSample(server, values_of(number, step), at(step)) for step in steps]


@asynccontextmanager
async def answering(*answers: web.Response | Answer) -> AsyncIterator[tuple[str, list[web.Request]]]:
    """Serve each answer once, the last one for ever; yields the URL and the requests that came."""
    requests: list[web.Request] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        requests.append(request)
        await request.read()
        given = answers[min(len(requests), len(answers)) - 1]
        if isinstance(given, web.Response):
            return web.Response(status=given.status, body=given.body, headers=given.headers)
        return await given(request)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.SockSite(runner, open_listener())
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}", requests
    finally:
        await runner.cleanup()


# ---------------------------------------------------------------- the calls
async def test_samples_that_are_rejected_are_part_of_the_answer(client: Client) -> None:
    samples = [*make_samples("a"), ClientSample("", {"cpu_user": 1.0}, at(0)), ClientSample("b", {"cpu_user": None})]
    result = await client.push_samples(samples)
    assert (result.accepted, result.rejected) == (NEED + 1, 1)
    assert [(each.index, each.code) for each in result.errors] == [(NEED, "invalid_server")]


async def test_a_sample_is_of_now_if_it_has_no_time(client: Client, daemon: HttpDaemon) -> None:
    assert await client.push_samples([ClientSample("a", values_of(1, 0), status=3)]) == PushResult(1, 0)
    assert daemon.service.state.windows.get_newest_step(0) * CONTRACT.step_seconds <= float(ClientSample("a", {}).time)


async def test_columns_fill_the_windows_of_many_servers(client: Client) -> None:
    servers, features = ["a", "b"], list(CONTRACT.features)
    values = np.array([[*values_of(number, 0).values()] for number in (1, 2)])
    values[1, 1] = np.nan
    assert await client.push_columns(servers, at(0), features, values) == PushResult(2, 0)
    assert await client.push_columns(servers, [at(1), at(2)], features, values) == PushResult(2, 0)
    window = await client.get_window("b")
    assert (window.server, window.origin, window.have) == ("b", origin(2), 2)
    assert is_same_array(window.values[[-3, -1]], values[[1, 1]].astype(np.float32))


@pytest.mark.parametrize(
    ("times", "values", "named"),
    [(0.0, [[1.0]], r"values has the shape \(1, 1\)"), ([0.0], [[1.0], [2.0]], r"times has the shape \(1,\)")],
)
async def test_columns_that_do_not_fit_are_not_sent(client: Client, times: Any, values: Any, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        await client.push_columns(["a", "b"], times, ["cpu_user"], values)


async def test_the_latest_forecast_is_that_of_the_window(client: Client, daemon: HttpDaemon) -> None:
    await client.push_samples(make_samples("a", range(NEED - 1)))
    assert await client.get_forecast("a") == ForecastPending("a", "warming", NEED - 1, NEED)
    await client.push_samples(make_samples("a", range(NEED - 1, NEED)))
    await daemon.service.pipeline.wait_idle()
    forecast = await client.get_forecast("a")
    assert isinstance(forecast, ServerForecast)
    assert is_same_array(forecast.values, FORECAST)
    assert (forecast.server, forecast.origin, forecast.model, forecast.context) == ("a", origin(NEED - 1), MODEL, NEED)
    assert (forecast.targets, forecast.quantiles) == (CONTRACT.targets, CONTRACT.quantiles)
    assert forecast.times.tolist() == [origin(NEED - 1) + step * 60 for step in range(CONTRACT.horizon)]
    part = await client.get_forecast("a", targets=["load_average"], quantiles=[0.1, 0.5], every=2)
    assert isinstance(part, ServerForecast)
    assert is_same_array(part.values, np.ascontiguousarray(FORECAST[1:, 1::2, :2]))
    assert part.times.tolist() == [origin(NEED - 1) + step * 60 for step in (1, 3)]
    assert is_same_array(part.get_curve("load_average", 0.5), FORECAST[1, 1::2, 1])
    with pytest.raises(KeyError, match="cpu_user"):
        part.get_curve("cpu_user", 0.5)


async def test_a_server_may_have_any_name(client: Client, daemon: HttpDaemon) -> None:
    for name in ODD_NAMES:
        await client.push_samples(make_samples(name))
    found = [server.server async for server in client.list_servers()]
    assert sorted(found) == sorted(ODD_NAMES)
    for name in ODD_NAMES:
        assert (await client.get_window(name)).server == name
        async with Client(daemon.url, ADMIN_TOKEN) as admin:
            await admin.forget_server(name)
        with pytest.raises(RefusedError, match="unknown_server") as caught:
            await client.get_forecast(name)
        assert (caught.value.code, caught.value.status) == ("unknown_server", 404)


async def test_servers_are_listed_page_by_page(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamd.client.client.PAGE_ENTRIES", 2)
    names = [f"s{number}" for number in range(5)]
    await client.push_columns(names, at(0), ["cpu_user"], np.ones((5, 1)))
    found = [server async for server in client.list_servers()]
    assert [server.server for server in found] == names
    assert (found[0].have, found[0].origin, found[0].last_forecast) == (0, None, None), "the row is still open"


async def test_predict_returns_what_the_model_makes_of_the_callers_windows(client: Client) -> None:
    question = make_question(3.0, 4.0)["inputs"]
    inputs = {name: np.frombuffer(each["data"], "<f4").reshape(each["shape"]) for name, each in question.items()}
    answer = await client.predict(inputs)
    assert answer.model == MODEL
    assert answer.predictions.shape == (2, *CONTRACT.output_shape)
    one = await client.predict({name: each[0] for name, each in inputs.items()})
    assert is_same_array(one.predictions, answer.predictions[0])


async def test_the_status_and_readiness_are_reported(client: Client, daemon: HttpDaemon) -> None:
    assert (await client.get_status())["engine"] == MODEL
    assert await client.is_ready()


async def test_a_daemon_without_lanes_is_not_ready(tmp_path: Path) -> None:
    async with run_http_daemon(tmp_path / "x", HttpDaemonSettings(lanes=0)) as daemon, Client(daemon.url) as client:
        assert not await client.is_ready()


# ---------------------------------------------------------------- access
async def test_a_token_is_needed_and_limits_what_is_sent(tmp_path: Path) -> None:
    token = make_test_token("agent", {Scope.INGEST: ["web-*"]})
    access = make_access_list(token)
    async with run_http_daemon(tmp_path / "x", HttpDaemonSettings(access=access)) as daemon:
        async with Client(daemon.url) as client:
            with pytest.raises(RefusedError) as caught:
                await client.push_samples([])
            assert (caught.value.code, caught.value.status) == ("unauthorized", 401)
        async with Client(daemon.url, token.token) as client:
            result = await client.push_samples([*make_samples("web-1"), *make_samples("db-1")])
            assert (result.accepted, {each.code for each in result.errors}) == (NEED, {"forbidden"})
            with pytest.raises(RefusedError, match="forbidden"):
                await client.get_status()


async def test_a_redirect_is_not_followed_since_it_would_carry_the_token_away() -> None:
    redirect = web.Response(status=302, headers={"Location": "/elsewhere"})
    async with answering(redirect) as (url, requests), Client(url, "secret") as client:
        with pytest.raises(RefusedError, match="HTTP 302"):
            await client.get_status()
    assert [request.path for request in requests] == ["/v1/status"]


@pytest.mark.parametrize("token", ["secret\n", "sécret"])
def test_a_token_that_no_header_can_have_is_refused_and_not_shown(token: str) -> None:
    with pytest.raises(ValueError, match="characters that a header cannot have") as caught:
        Client("http://localhost", token)
    assert "cret" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["localhost:8002", "ftp://x", "http://", "http://u:p@x", "http://x?a=1", "http://x#y", "http://x:y"]
)
def test_what_is_not_the_url_of_a_daemon_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="URL"):
        Client(url)


# ---------------------------------------------------------------- failures
async def test_a_busy_daemon_is_asked_again_after_the_time_that_it_names() -> None:
    busy = web.Response(
        status=429, body=b'{"type":"error","code":"too_busy","message":"m"}', headers={"Retry-After": "0"}
    )
    starting = web.Response(status=503, body=b"<html>", headers={"Retry-After": "0", "Content-Type": "text/html"})
    good = web.json_response({"accepted": 1, "rejected": 0, "errors": []})
    async with answering(busy, starting, busy, good) as (url, requests), Client(url) as client:
        assert await client.push_samples(make_samples("a")) == PushResult(1, 0)
    assert len(requests) == 4


@pytest.mark.parametrize(("retry_after", "attempts"), [("3600", 1), ("Wed, 21 Oct 2099 07:28:00 GMT", 1)])
async def test_no_call_waits_longer_than_the_limit(retry_after: str, attempts: int) -> None:
    body = b'{"type":"error","code":"rate_limited","message":"m"}'
    busy = web.Response(status=429, body=body, headers={"Retry-After": retry_after})
    async with answering(busy) as (url, requests), Client(url, retry_seconds=0.5) as client:
        with pytest.raises(RefusedError, match="rate_limited") as caught:
            await client.push_samples([])
    assert caught.value.retry_after_seconds in (3600.0, 1.0)
    assert len(requests) == attempts


async def test_what_a_proxy_answers_is_named_by_its_status() -> None:
    page = web.Response(status=502, body=b"<h1>Bad Gateway</h1>", content_type="text/html")
    async with answering(page) as (url, _), Client(url, retry_seconds=0.0) as client:
        with pytest.raises(RefusedError, match="Bad Gateway") as caught:
            await client.get_status()
    assert (caught.value.code, caught.value.is_temporary) == ("http_502", True)


async def test_an_answer_that_is_no_daemon_s_is_an_error() -> None:
    async with answering(web.Response(body=b"<html>", content_type="text/html")) as (url, _), Client(url) as client:
        with pytest.raises(ClientError, match="gave an answer that is not of a daemon"):
            await client.push_samples([])


async def test_without_a_daemon_the_error_says_so() -> None:
    with open_listener() as listener:
        port = listener.getsockname()[1]
    async with Client(f"http://127.0.0.1:{port}", retry_seconds=0.0) as client:
        with pytest.raises(DaemonUnreachableError, match="is the daemon running"):
            await client.get_status()


async def test_a_call_whose_connection_breaks_is_made_again(client: Client, relay: Relay) -> None:
    relay.loses_answers = True
    pushing = asyncio.create_task(client.push_samples(make_samples("a")))
    while not relay.accepted:
        await asyncio.sleep(0)
    relay.loses_answers = False
    relay.cut()
    assert await pushing == PushResult(NEED, 0)


async def test_a_daemon_that_does_not_answer_in_time_is_unreachable(daemon: HttpDaemon) -> None:
    async with open_relay(daemon.port) as relay, Client(relay.url, retry_seconds=0.0, timeout_seconds=0.05) as client:
        relay.loses_answers = True
        with pytest.raises(DaemonUnreachableError, match="no answer in time"):
            await client.get_status()


async def test_a_client_that_is_not_open_says_how_it_is_used() -> None:
    with pytest.raises(ClientError, match="async with"):
        await Client("http://localhost").get_status()


# ---------------------------------------------------------------- the way to the daemon
@pytest.mark.parametrize("end", ["", "/"])
async def test_a_proxy_may_serve_the_daemon_below_a_path(daemon: HttpDaemon, end: str) -> None:
    async with open_relay(daemon.port, b"/some/path") as relay, Client(f"{relay.url}/some/path{end}") as client:
        assert await client.push_samples(make_samples("a")) == PushResult(NEED, 0)
        assert (await client.get_window("a")).have == NEED
        await daemon.service.pipeline.wait_idle()  # else its forecast may be replaced by the next before it is read
        async with client.subscribe() as events, client.open_ingest() as ingest:
            await ingest.push_samples(make_samples("a", range(NEED, NEED + 1)))
            assert isinstance(await anext(events), ServerForecast)


async def test_tls_with_a_ca_of_ones_own(daemon: HttpDaemon) -> None:
    authority = trustme.CA()
    served = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(served)
    listener = open_listener()
    await web.SockSite(daemon.runner, listener, ssl_context=served).start()
    url = f"https://localhost:{listener.getsockname()[1]}"
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    async with Client(url, tls=trusting) as client:
        await client.push_samples(make_samples("a"))
        async with client.subscribe(last_event_id=0) as events:
            assert isinstance(await anext(events), ServerForecast)
    async with Client(url) as client:
        with pytest.raises(DaemonUnreachableError, match="certificate is not accepted") as caught:
            await client.get_status()
        assert not caught.value.is_temporary


async def test_past_forecasts_come_as_arrays_beside_what_came_true(tmp_path: Path) -> None:
    history = HttpDaemonSettings(service_limits=ServiceLimits(history=HistoryLimits(every_steps=1, settle_steps=0)))
    async with run_http_daemon(tmp_path / "x", history) as daemon, Client(daemon.url) as client:
        for step in range(NEED + CONTRACT.horizon + 1):
            await client.push_samples(make_samples("a", range(step, step + 1)))
            await daemon.service.pipeline.wait_idle()
        daemon.service.history.sweep()
        found = await client.get_accuracy("a", targets="cpu_user", limit=1, since=origin(NEED))
    (forecast,) = found["forecasts"]
    assert (found["server"], found["targets"]) == ("a", ["cpu_user"])
    assert forecast["values"].shape == (1, CONTRACT.horizon, len(CONTRACT.quantiles))
    assert forecast["truth"].shape == (1, CONTRACT.horizon)


async def test_the_fleet_is_shown(tmp_path: Path) -> None:
    async with run_http_daemon(tmp_path / "x", HttpDaemonSettings()) as daemon, Client(daemon.url) as client:
        for server in ("db-1", "db-2", "web-1"):
            await client.push_samples(make_samples(server, range(1)))
        found = await client.get_fleet(search="db", sort="name", limit=1)
        groups = await client.get_fleet(group=True)
    assert ([each["server"] for each in found["servers"]], found["matching"]) == (["db-1"], 2)
    assert [each["prefix"] for each in groups["groups"]] == ["db-", "web-"]
