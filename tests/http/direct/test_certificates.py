"""Tests `streamd/http/direct/predict.py` under TLS: a client certificate counts as it does on aiohttp's way."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import trustme

from streamd.core.access.access_list import AccessList
from streamd.core.access.records import TokenRecord
from streamd.core.access.scopes import Scope
from streamd.server.listening import HttpListener
from tests.http.conftest import Start
from tests.support.access_tokens import ALL, make_test_token
from tests.support.http_harness import MSGPACK, HttpDaemon, HttpDaemonSettings, pack
from tests.support.predict_inputs import as_tensors, make_inputs

Ask = Callable[[HttpDaemon, str, bytes], Awaitable[bytes]]
RECORDS = [
    TokenRecord(name="caller", certificate="caller.example", scopes={Scope.PREDICT: ALL}),
    TokenRecord(name="reader", certificate="reader.example", scopes={Scope.READ: ALL}),
    TokenRecord(name="former", certificate="former.example", scopes={Scope.PREDICT: ALL}, expires=1.5e9),
]
UNKNOWN = "X-Other: 1\r\n"
"""A field by which a request is left to aiohttp."""

TOKEN = make_test_token("any", {Scope.PREDICT: ALL})


def make_request(more: str = "") -> bytes:
    body = pack(as_tensors(make_inputs(1)), MSGPACK)
    head = f"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: {MSGPACK}\r\n{more}"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


async def predict_nothing(*args: object) -> None:
    raise AssertionError("aiohttp served the call")


@pytest.fixture
async def ask() -> AsyncIterator[Ask]:
    """Send a request over a connection of its own, with a client certificate of a name; returns the status line."""
    authority, listeners = trustme.CA(), list[HttpListener]()

    async def serve(daemon: HttpDaemon) -> int:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("localhost").configure_cert(context)
        authority.configure_trust(context)
        context.verify_mode = ssl.CERT_OPTIONAL
        listeners.append(await HttpListener.open("127.0.0.1", 0, backlog=16))
        await listeners[-1].serve(daemon.runner, context, 10.0)
        return listeners[-1].addresses[0].port

    async def ask_one(daemon: HttpDaemon, name: str, request: bytes) -> bytes:
        context = ssl.create_default_context()
        authority.configure_trust(context)
        if name:
            authority.issue_cert(name).configure_cert(context)
        port = listeners[-1].addresses[0].port if listeners else await serve(daemon)
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="localhost")
        try:
            writer.write(request)
            return await reader.readline()
        finally:
            writer.close()

    yield ask_one
    for listener in listeners:
        await listener.stop()
        listener.close()


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("caller.example", b"200"),
        ("reader.example", b"403"),
        ("former.example", b"401"),
        ("x.example", b"401"),
        ("", b"401"),
    ],
)
async def test_a_certificate_counts_on_both_ways(start: Start, ask: Ask, name: str, status: bytes) -> None:
    daemon = await start(HttpDaemonSettings(access=AccessList([*RECORDS, TOKEN.record])))
    assert (await ask(daemon, name, make_request(more=UNKNOWN))).startswith(b"HTTP/1.1 " + status)
    assert (await ask(daemon, name, make_request())).startswith(b"HTTP/1.1 " + status)
    # A token counts before the certificate, also one that is wrong.
    for token, expected in ((TOKEN.token, b"200"), ("x", b"401")):
        request = make_request(more=f"Authorization: Bearer {token}\r\n")
        assert (await ask(daemon, name, request)).startswith(b"HTTP/1.1 " + expected)
    if status == b"200":
        daemon.service.predict = predict_nothing  # type: ignore[method-assign, assignment]
        assert (await ask(daemon, name, make_request())).startswith(b"HTTP/1.1 200 ")
