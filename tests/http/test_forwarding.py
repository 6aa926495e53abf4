"""Tests `streamd/http/forwarding.py`: requests through a worker to the engine process, and what that one believes."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from streamd.core.access.scopes import Scope
from streamd.http.access.credentials import read_certificate_names, read_secret
from streamd.http.access.forwarded import get_remote, set_forwarded
from streamd.http.access.rules import ROUTE_RULES, RouteRule
from streamd.http.errors import errors_middleware
from streamd.http.forwarding import NAMES_HEADER, REMOTE_HEADER, EngineForwarder, believe_forwarded

RULE = RouteRule(scope=Scope.READ)
LARGE = bytes(range(256)) * 4_096


async def show(request: web.Request) -> web.Response:
    body = await request.read()
    return web.json_response(
        {
            "method": request.method,
            "path": request.raw_path,
            "body": len(body),
            "remote": get_remote(request),
            "names": read_certificate_names(request),
            "authorization": request.headers.get("Authorization"),
        },
        headers={"Retry-After": "3"},
        status=202,
    )


async def send_large(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    await response.write(LARGE)
    return response


@asynccontextmanager
async def run_app(app: web.Application, path: str = "") -> AsyncIterator[str]:
    runner = web.AppRunner(app)
    await runner.setup()
    site: web.BaseSite = web.UnixSite(runner, path) if path else web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield "" if path else f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def run_both(path: str, rule: RouteRule = RULE) -> AsyncIterator[tuple[str, EngineForwarder]]:
    """Run an engine process's application behind a worker's; yields the address of the worker."""
    engine = web.Application(middlewares=[believe_forwarded])
    engine.router.add_get("/large", send_large)
    engine.router.add_route("*", "/{rest:.*}", show)
    forwarder = EngineForwarder(path, lambda: True)
    worker = web.Application(middlewares=[errors_middleware])
    worker.router.add_route("*", "/{rest:.*}", forwarder.make_handler(rule))
    async with run_app(engine, path), run_app(worker) as url:
        yield url, forwarder
    await forwarder.close()


async def call(method: str, url: str) -> tuple[int, Mapping[str, str], Any]:
    async with aiohttp.ClientSession() as session, session.request(method, url) as answer:
        return answer.status, answer.headers, await answer.json()


async def test_a_request_and_its_answer_pass_unchanged(path: str) -> None:
    async with run_both(path) as (url, _), aiohttp.ClientSession() as session:
        headers = {"Authorization": "Bearer secret", REMOTE_HEADER: "forged", NAMES_HEADER: '["forged"]'}
        async with session.post(f"{url}/a%2Fb?c=%20d", data=b"x" * 100_000, headers=headers) as answer:
            assert answer.status == 202
            assert answer.headers["Retry-After"] == "3"
            assert await answer.json() == {
                "method": "POST",
                "path": "/a%2Fb?c=%20d",
                "body": 100_000,
                "remote": "127.0.0.1",
                "names": [],
                "authorization": "Bearer secret",
            }


async def test_long_answers_are_streamed(path: str) -> None:
    async with run_both(path) as (url, _), aiohttp.ClientSession() as session, session.get(f"{url}/large") as answer:
        assert await answer.read() == LARGE


async def test_without_the_engine_process_a_call_can_be_repeated(path: str) -> None:
    forwarder = EngineForwarder(path, lambda: True)
    async with run_app(_make_worker(forwarder)) as url:
        status, headers, body = await call("GET", f"{url}/x")
    await forwarder.close()
    assert (status, body["code"], headers["Retry-After"]) == (503, "unavailable", "1")


async def test_while_it_is_restarted_nothing_is_queued_at_its_socket(path: str) -> None:
    is_up = False
    forwarder = EngineForwarder(path, lambda: is_up)
    async with run_app(_make_worker(forwarder)) as url:
        status, _, _ = await call("GET", f"{url}/x")
    assert status == 503


async def test_a_path_that_is_a_socket_names_the_protocol_that_it_expects(path: str) -> None:
    async with run_both(path, ROUTE_RULES["GET", "/telegraf"]) as (url, _):
        status, headers, _ = await call("GET", f"{url}/telegraf")
    assert (status, headers["Upgrade"]) == (426, "websocket")


async def test_an_error_has_the_form_of_the_route(path: str) -> None:
    forwarder = EngineForwarder(path, lambda: False)
    async with run_app(_make_worker(forwarder, ROUTE_RULES["POST", "/api/v2/write"])) as url:
        status, _, body = await call("POST", f"{url}/api/v2/write")
    assert status == 503
    assert "type" not in body


@asynccontextmanager
async def run_raw_engine(path: str, answer: bytes) -> AsyncIterator[None]:
    """Run an engine process that sends these bytes after the head of a request, and ends."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_unix_server(serve, path)
    async with server:
        yield


@pytest.mark.parametrize("answer", [b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf", b"HTTP/1.1 20"])
async def test_an_engine_process_that_ends_before_the_answer_is_an_error_that_can_be_repeated(
    path: str, answer: bytes
) -> None:
    forwarder = EngineForwarder(path, lambda: True)
    async with run_raw_engine(path, answer), run_app(_make_worker(forwarder)) as url:
        status, _, body = await call("POST", f"{url}/v1/predict")
        await forwarder.close()
    assert (status, body["code"]) == (503, "unavailable")


async def test_an_answer_that_breaks_off_is_not_taken_for_a_whole_one(path: str) -> None:
    forwarder = EngineForwarder(path, lambda: True)
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n" + bytes(1_000)
    async with run_raw_engine(path, answer), run_app(_make_worker(forwarder)) as url:
        with pytest.raises(aiohttp.ClientError):
            await call("POST", f"{url}/v1/predict")
        await forwarder.close()


def _make_worker(forwarder: EngineForwarder, rule: RouteRule = RULE) -> web.Application:
    worker = web.Application(middlewares=[errors_middleware])
    worker.router.add_route("*", "/{rest:.*}", forwarder.make_handler(rule))
    return worker


async def test_names_of_a_certificate_pass_in_any_script(path: str) -> None:
    async def name_caller(request: web.Request) -> web.StreamResponse:
        set_forwarded(request, remote="", names=("agent-ü", "b"))
        return await forwarder.forward(request)

    forwarder = EngineForwarder(path, lambda: True)
    engine = web.Application(middlewares=[believe_forwarded])
    engine.router.add_get("/", show)
    worker = web.Application()
    worker.router.add_get("/", name_caller)
    async with run_app(engine, path), run_app(worker) as url:
        _, _, body = await call("GET", url)
    assert body["names"] == ["agent-ü", "b"]
    await forwarder.close()
    await asyncio.sleep(0)


async def test_a_socket_of_the_engine_process_has_the_token_that_a_page_offered(path: str) -> None:
    async def show_offer(request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse(protocols=["streamd"])
        await socket.prepare(request)
        await socket.send_str(read_secret(request, opens_socket=True) or "")
        return socket

    async def relay(request: web.Request) -> web.StreamResponse:
        async with forwarder.open_socket(request, "/v1/forecasts") as socket:
            return web.Response(text=f"{socket.protocol} {await socket.receive_str()}")

    forwarder = EngineForwarder(path, lambda: True)
    engine, worker = web.Application(), web.Application()
    engine.router.add_get("/v1/forecasts", show_offer)
    worker.router.add_get("/", relay)
    async with run_app(engine, path), run_app(worker) as url, aiohttp.ClientSession() as session:
        headers = {"Sec-WebSocket-Protocol": "streamd, streamd.token.a%2Fb, other"}
        async with session.get(url, headers=headers) as answer:
            assert await answer.text() == "streamd a/b"
        await forwarder.close()
