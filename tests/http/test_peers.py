"""Tests `streamd/http/connection_errors.py`: peers that leave at any moment, and peers that do not speak HTTP.

Both are noted quietly and affect no other connection.
"""

import asyncio
import json
import logging
import re
import socket
import struct
from collections.abc import Callable, Iterator

import pytest
import structlog
from prometheus_client.parser import text_string_to_metric_families

from streamd.http.requests import TransportLimits
from tests.http.conftest import Start
from tests.support.http_harness import NEED, HttpDaemon, HttpDaemonSettings, at, make_rows, make_sample, open_listener
from tests.support.stalled_peer import BIG, StalledReader

UPGRADE = (
    "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
)
POST = "Content-Type: application/json\r\nContent-Length: 1000\r\n"
FRAME = b'{"samples":[{"server":"a","time":%d,"values":{"cpu_user":1}}]}' % at(0)
MASKED = b"\x81" + bytes([0x80 | len(FRAME)]) + bytes(4) + FRAME


def request(line: str, headers: str = "") -> bytes:
    return f"{line} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n".encode()


BEGINNINGS = {
    "an event stream": request("GET /v1/forecasts/stream"),
    "a subscriber": request("GET /v1/forecasts", UPGRADE),
    "a subscriber by its query": request("GET /v1/forecasts?servers=*", UPGRADE),
    "an agent": request("GET /v1/ingest", UPGRADE),
    "an agent with frames in progress": request("GET /v1/ingest", UPGRADE) + MASKED * 50,
    "samples": request("POST /v1/samples", POST) + b'{"samples":[',
    "compressed samples": request("POST /v1/samples", POST + "Content-Encoding: gzip\r\n") + b"\x1f\x8b",
    "samples in chunks": request(
        "POST /v1/samples", POST.replace("Content-Length: 1000", "Transfer-Encoding: chunked")
    ),
    "a call": request("POST /v1/predict", POST) + b"{",
    "a status": request("GET /v1/status"),
}
"""The bytes that each kind of peer has sent when it leaves."""


class Log:
    """The log of a test: events of streamd, and records of libraries."""

    def __init__(self, events: list[structlog.typing.EventDict], records: list[logging.LogRecord]) -> None:
        self._events = events
        self._records = records

    def assert_quiet(self) -> None:
        """Assert that nothing was logged above debug level."""
        loud = [event for event in self._events if event["log_level"] != "debug"]
        assert loud == []
        assert [record.getMessage() for record in self._records] == []

    def events(self, name: str) -> list[structlog.typing.EventDict]:
        return [event for event in self._events if event["event"] == name]


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[Log]:
    with structlog.testing.capture_logs() as events, caplog.at_level(logging.WARNING):
        yield Log(events, caplog.records)


def reset(peer: socket.socket) -> None:
    """Leave by a reset, as a process does that is killed with unread bytes."""
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()


def half_close(peer: socket.socket) -> None:
    peer.shutdown(socket.SHUT_WR)


LEAVING: dict[str, Callable[[socket.socket], None]] = {
    "reset": reset,
    "close": socket.socket.close,
    "half-close": half_close,
}


async def read_metric(daemon: HttpDaemon, name: str) -> float:
    text = (await daemon.get("/metrics")).data.decode()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    return float(families[f"streamd_{name}"].samples[0].value)


async def wait_until_all_left(daemon: HttpDaemon) -> None:
    """Wait until only the connection of the test itself is open, and no WebSocket or event stream is counted."""
    server = daemon.runner.server
    assert server is not None
    while len(server.connections) > 1 or len(daemon.http_app.sockets):
        await daemon.get("/healthz")
    assert len(daemon.service.hub) == 0
    assert asyncio.all_tasks() - {asyncio.current_task()} == {
        connection._task_handler for connection in server.connections
    }


@pytest.mark.parametrize("leave", LEAVING.values(), ids=LEAVING)
@pytest.mark.parametrize("sent", BEGINNINGS.values(), ids=BEGINNINGS)
async def test_a_peer_that_leaves_at_any_turn_is_noted_quietly(
    daemon: HttpDaemon, log: Log, sent: bytes, leave: Callable[[socket.socket], None]
) -> None:
    """The peer leaves 0 to 11 turns of the loop after it has sent: before, while and after it is answered."""
    await daemon.accept(make_rows("a", 1, range(NEED)))
    for turns in (*range(12), None):
        with socket.create_connection(("127.0.0.1", daemon.port)) as peer:
            peer.sendall(sent)
            if turns is None:
                await daemon.get("/healthz")  # by now the daemon has done all that it can before the peer sends more
            for _ in range(turns or 0):
                await asyncio.sleep(0)
            leave(peer)
            await wait_until_all_left(daemon)
    log.assert_quiet()
    assert len(log.events("peer_left")) == await read_metric(daemon, "peers_left")
    await daemon.accept([make_sample("a", NEED)])


@pytest.mark.parametrize("leave", [reset, socket.socket.close])
async def test_an_event_stream_whose_reader_left_is_not_counted(
    daemon: HttpDaemon, log: Log, leave: Callable[[socket.socket], None]
) -> None:
    peer = socket.create_connection(("127.0.0.1", daemon.port))
    peer.sendall(BEGINNINGS["an event stream"])
    while not len(daemon.service.hub):
        await daemon.get("/healthz")
    leave(peer)
    await wait_until_all_left(daemon)
    assert await read_metric(daemon, "peers_left") == 1
    log.assert_quiet()


async def test_places_of_readers_that_left_are_free(start: Start) -> None:
    daemon = await start(HttpDaemonSettings(limits=TransportLimits(max_sockets=3)))
    peers = [socket.create_connection(("127.0.0.1", daemon.port)) for _ in range(3)]
    for peer in peers:
        peer.sendall(BEGINNINGS["an event stream"])
    while len(daemon.http_app.sockets) < 3:
        await daemon.get("/healthz")
    assert (await daemon.get("/v1/forecasts/stream")).status == 429
    for peer in peers:
        peer.close()
    await wait_until_all_left(daemon)
    async with daemon.subscribed():
        assert len(daemon.http_app.sockets) == 1


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="Linux has it")
async def test_an_event_stream_to_a_machine_without_power_ends(daemon: HttpDaemon) -> None:
    """Such a machine acknowledges nothing, and the kernel drops it; here only the limit of the kernel is read back."""
    server = daemon.runner.server
    assert server is not None
    async with daemon.session.get(f"{daemon.url}/v1/forecasts/stream"):
        (connection,) = [each for each in server.connections if each.transport]
        assert connection.transport is not None
        peer = connection.transport.get_extra_info("socket")
        assert peer.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 45_000


@pytest.mark.parametrize("path", ["/v1/forecasts", "/v1/forecasts/stream"])
async def test_a_reader_that_is_reset_while_a_send_waits_is_noted_quietly(start: Start, log: Log, path: str) -> None:
    """A send that waits for space in the buffer ends with another error than one that begins after the reset."""
    daemon = await start(HttpDaemonSettings(contract=BIG, listener=open_listener(4_096)))
    reader = StalledReader()
    await reader.connect(daemon.port, f"{path}?servers=*")
    while not len(daemon.service.hub):
        await daemon.get("/healthz")
    step = 0
    while not daemon.has_stalled_reader():
        rows = [make_sample("a", each, {"a": each, "b": each}) for each in range(step, step + NEED)]
        await daemon.accept(rows)
        step += NEED
        await daemon.service.pipeline.wait_idle()
        await daemon.get("/healthz")
    reset(reader._socket)
    await wait_until_all_left(daemon)
    log.assert_quiet()


# ---------------------------------------------------------------- bytes that are not HTTP
NOT_HTTP = {
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "words": b"hello\r\n\r\n",
    "another protocol": b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
    "an unknown version": b"GET / HTTP/9.9\r\n\r\n",
    "a bad header": b"GET /healthz HTTP/1.1\r\nHost x\r\n\r\n",
    "a header too long": request("GET /healthz", "X: " + "x" * 20_000 + "\r\n"),
    "too many headers": request("GET /healthz", "".join(f"X-{n}: 1\r\n" for n in range(500))),
    "a path too long": request("GET /" + "x" * 20_000),
    "an invalid length": request("POST /v1/samples", "Content-Length: many\r\n"),
    "a length and chunks": request("POST /v1/samples", "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n"),
    "an invalid URL": b"GET http://[::1 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "bytes in the method": b"G\xff\xfeT / HTTP/1.1\r\n\r\n",
    "bytes in a header": b"GET / HTTP/1.1\r\nX\xff: \xfe\r\n\r\n",
    "an answer": b"HTTP/1.1 200 OK\r\n\r\n",
    "bytes after a valid request": request("GET /healthz") + b"hello\r\n\r\n",
    "bytes after an upgrade that was declined": request("GET /v1/status", UPGRADE) + b"hello\r\n\r\n",
}


@pytest.mark.parametrize("sent", NOT_HTTP.values(), ids=NOT_HTTP)
async def test_bytes_that_are_not_http_get_an_error_in_the_usual_form(
    daemon: HttpDaemon, log: Log, sent: bytes
) -> None:
    with socket.create_connection(("127.0.0.1", daemon.port)) as peer:
        peer.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(peer, sent)
        answer = b""
        while more := await loop.sock_recv(peer, 65_536):  # the daemon closes the connection
            answer += more
    last = answer[answer.rindex(b"HTTP/1.") :]
    head, _, body = last.partition(b"\r\n\r\n")
    assert re.match(rb"HTTP/1\.[01] 400 ", head)
    assert b"Content-Type: application/json" in head
    message = json.loads(body)
    assert set(message) == {"type", "code", "message"}
    assert (message["type"], message["code"]) == ("error", "malformed")
    assert "HTTP" in message["message"]
    assert "\n" not in message["message"]
    log.assert_quiet()
    (event,) = log.events("malformed_request")
    assert event["reason"] in message["message"]
    assert await read_metric(daemon, "malformed_requests") == 1


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("chunk", [b"zz\r\n", b"5\r\nhelloxx", b"ffffffffffffffffffff\r\n"])
async def test_invalid_chunks_are_400(start: Start, log: Log, chunk: bytes, at_once: bool) -> None:
    daemon = await start(HttpDaemonSettings(limits=TransportLimits(body_timeout_seconds=0.05)))
    with socket.create_connection(("127.0.0.1", daemon.port)) as peer:
        peer.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(peer, BEGINNINGS["samples in chunks"])
        if not at_once:
            await daemon.get("/healthz")  # by now the body is being read, so the missing chunks lead to a timeout
        await loop.sock_sendall(peer, chunk)
        answer = await loop.sock_recv(peer, 65_536)
    assert re.match(rb"HTTP/1\.[01] 400 ", answer)
    assert b'"malformed"' in answer
    assert (await daemon.get("/healthz")).status == 200
    log.assert_quiet()


async def test_no_task_waits_for_the_rest_of_a_refused_body_whose_peer_left(daemon: HttpDaemon) -> None:
    def list_connections() -> list[str]:
        return [repr(task) for task in asyncio.all_tasks() if "RequestHandler.start" in repr(task)]

    reader, writer = await asyncio.open_connection("127.0.0.1", daemon.port)
    writer.write(request("POST /v1/nothing", POST))
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 404")
    assert list_connections()
    writer.transport.abort()
    async with asyncio.timeout(5.0):  # aiohttp alone waits for ten seconds
        while list_connections():
            await asyncio.sleep(0.01)
