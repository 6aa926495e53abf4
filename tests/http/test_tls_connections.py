"""Tests `streamd/http/connections.py` under TLS: handshakes that fail or never end, and readers that stall."""

import asyncio
import contextlib
import gc
import logging
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import trustme

from streamd.server.listening import HttpListener
from tests.http.conftest import Start
from tests.support.http_harness import HttpDaemon, HttpDaemonSettings, make_sample
from tests.support.paused_clock import PausableClock
from tests.support.raw_peers import HEAD
from tests.support.stalled_peer import BIG

HANDSHAKE_SECONDS = 0.1

PROBE = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"

ServeTls = Callable[[HttpDaemon], Awaitable[int]]


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
async def serve_tls(authority: trustme.CA) -> AsyncIterator[ServeTls]:
    """Let a daemon listen on one more port, under TLS; returns the port."""
    listeners: list[HttpListener] = []

    async def serve(daemon: HttpDaemon) -> int:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("localhost").configure_cert(context)
        listener = await HttpListener.open("127.0.0.1", 0, backlog=16)
        listeners.append(listener)
        await listener.serve(daemon.runner, context, HANDSHAKE_SECONDS)
        return listener.addresses[0].port

    yield serve
    for listener in listeners:
        await listener.stop()
        listener.close()


async def wait_until_counted(daemon: HttpDaemon) -> None:
    table = daemon.http_app.connections.table
    while not table.closed["tls_handshake"]:
        gc.collect()  # it is counted when the connection, which has a cycle, is freed
        await daemon.get("/healthz")
    assert (table.closed["tls_handshake"], table.handshakes) == (1, 0)


@pytest.mark.parametrize("sent", [b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", b"", b"\x16\x03\x01"])
async def test_a_handshake_that_fails_or_never_ends_is_one_quiet_event(
    daemon: HttpDaemon, serve_tls: ServeTls, caplog: pytest.LogCaptureFixture, sent: bytes
) -> None:
    port = await serve_tls(daemon)
    loop = asyncio.get_running_loop()
    with caplog.at_level(logging.INFO), socket.create_connection(("127.0.0.1", port)) as peer:
        peer.setblocking(False)
        await loop.sock_sendall(peer, sent)
        while await loop.sock_recv(peer, 1_000):
            pass  # an alert, before the daemon closes
        await wait_until_counted(daemon)
    assert [record.getMessage() for record in caplog.records] == []


async def test_a_reader_that_stalls_under_tls_holds_little_and_is_dropped(
    start: Start, serve_tls: ServeTls, authority: trustme.CA
) -> None:
    daemon = await start(HttpDaemonSettings(contract=BIG))
    port, table = await serve_tls(daemon), daemon.http_app.connections.table
    context = ssl.create_default_context()
    authority.configure_trust(context)
    plain = socket.socket()
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    plain.connect(("127.0.0.1", port))
    plain.setblocking(False)
    _, writer = await asyncio.open_connection(sock=plain, ssl=context, server_hostname="localhost", limit=1_024)
    writer.write(f"GET /v1/forecasts/stream HTTP/1.1\r\n{HEAD}\r\n".encode())
    while not len(daemon.service.hub):
        await daemon.get("/healthz")
    step = largest = 0
    while not daemon.has_stalled_reader():
        await daemon.accept([make_sample("x", step, {"a": 1.0, "b": 1.0})])
        step += 1
        await daemon.service.pipeline.wait_idle()
        assert daemon.runner.server is not None
        transports = [each.transport for each in daemon.runner.server.connections if each.transport is not None]
        largest = max(largest, *(each.get_write_buffer_size() for each in transports))
    assert largest < 2**18
    pauses = daemon.service.pauses
    now, clock = pauses.clock(), PausableClock(pauses)
    clock.base, pauses.clock = lambda: now, clock
    clock.run(31.0)
    table.close_overdue()
    assert table.closed["stalled_reader"] == 1
    while len(daemon.service.hub):
        await daemon.get("/healthz")
    writer.transport.abort()


async def test_replaced_client_cas_end_every_connection_and_each_handshake_that_began_before(
    daemon: HttpDaemon, serve_tls: ServeTls, authority: trustme.CA
) -> None:
    table = daemon.http_app.connections.table
    port = await serve_tls(daemon)
    context = ssl.create_default_context()
    authority.configure_trust(context)
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="localhost")
    writer.write(PROBE)
    await reader.readline()
    late_reader, late_writer = await asyncio.open_connection("127.0.0.1", port)
    while not table.handshakes:
        await asyncio.sleep(0)
    table.end_former()
    await reader.read()
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        await late_writer.start_tls(context, server_hostname="localhost")
        late_writer.write(PROBE.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        assert await late_reader.read() == b""
    while table.closed["client_ca"] + table.closed["tls_handshake"] < 2:  # the latter if this test was slow
        gc.collect()
        await asyncio.sleep(0)
    for each in (writer, late_writer):
        each.close()
