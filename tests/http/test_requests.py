"""Tests `streamd/http/requests.py`: what senders hold counts, not what they announce, and nobody is locked out."""

import asyncio
import contextlib
import gzip
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from streamd.http import compression, requests
from streamd.http.app import make_connection_parts
from streamd.http.compression import Decompressor
from streamd.http.errors import errors_middleware
from streamd.http.peer_turns import PeerTurns
from streamd.http.requests import BodyReader, TransportLimits
from streamd.http.runner import HttpRunner
from streamd.runtime.pauses import Pauses
from tests.support.http_harness import open_listener
from tests.support.open_access import admit_anybody

LIMIT = 10_000
LIMITS = TransportLimits(max_body_bytes=LIMIT, max_pending_body_bytes=2 * LIMIT)


class BodyServer:
    """A server that reads bodies, and handles each until it is released."""

    def __init__(self, bodies: BodyReader) -> None:
        self.bodies = bodies
        self.port = 0
        self.handling: list[bytes] = []
        self.may_finish = asyncio.Event()
        self.may_finish.set()

    async def handle(self, request: web.Request) -> web.Response:
        async with self.bodies.read_body(request) as body:
            self.handling.append(body)
            await self.may_finish.wait()
        return web.Response(text=str(len(body)))

    async def wait_pending(self, count_bytes: int) -> None:
        while self.bodies.pending_bytes != count_bytes:
            await asyncio.sleep(0)


class Sender:
    """A connection from an address, on which one body is sent piece by piece."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer

    async def begin(self, size: int, body: bytes = b"", headers: str = "") -> "Sender":
        self.writer.write(f"POST / HTTP/1.1\r\nHost: localhost\r\n{headers}Content-Length: {size}\r\n\r\n".encode())
        await self.send(body)
        return self

    async def send(self, body: bytes) -> None:
        self.writer.write(body)
        await self.writer.drain()

    async def read_status(self) -> int:
        return int((await self._reader.readline()).split()[1])


@pytest.fixture
async def server() -> AsyncIterator[BodyServer]:
    pauses = Pauses()
    parts = make_connection_parts(LIMITS, pauses)
    server = BodyServer(BodyReader(LIMITS, pauses, parts.budget))
    app = web.Application(middlewares=[errors_middleware, admit_anybody], client_max_size=LIMIT)
    app.router.add_post("/", server.handle)
    runner = HttpRunner(app, parts, shutdown_timeout_seconds=0.05)
    await runner.setup()
    await web.SockSite(runner, open_listener()).start()
    server.port = runner.addresses[0][1]
    yield server
    server.may_finish.set()
    await runner.cleanup()


@asynccontextmanager
async def senders(server: BodyServer, count: int, address: str = "127.0.0.1") -> AsyncIterator[list[Sender]]:
    opened = [
        Sender(*await asyncio.open_connection("127.0.0.1", server.port, local_addr=(address, 0))) for _ in range(count)
    ]
    try:
        yield opened
    finally:
        for sender in opened:
            sender.writer.close()
            with contextlib.suppress(OSError):
                await sender.writer.wait_closed()


async def post(server: BodyServer, body: bytes, address: str = "127.0.0.1", headers: str = "") -> int:
    async with senders(server, 1, address) as (sender,):
        await sender.begin(len(body), body, headers)
        return await sender.read_status()


class CountedTurns(PeerTurns):
    """Turns into which one piece of work fits; work takes its time when `work` is called."""

    def __init__(self) -> None:
        self._now = 0.0
        super().__init__(lambda: self._now, 1.0)
        self.numbers: list[int] = []
        """The turns in which work was done."""

    def work(self) -> None:
        self._now += 1.0
        self.numbers.append(self.number)


class WorkingList(list[bytes]):
    """A list of handled bodies, each of which takes a turn."""

    def __init__(self, turns: CountedTurns) -> None:
        self._turns = turns

    def append(self, body: bytes) -> None:
        self._turns.work()
        super().append(body)


async def test_bodies_of_medium_size_share_the_turns_of_the_loop(
    server: BodyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests, "SHARED_BODY_BYTES", 1_000)
    turns = CountedTurns()
    server.bodies, server.handling = BodyReader(LIMITS, Pauses(), None, turns), WorkingList(turns)
    assert await asyncio.gather(*(post(server, b"x" * 1_000) for _ in range(5))) == [200] * 5
    assert len(set(turns.numbers)) == 5
    waits = turns.waits
    assert await asyncio.gather(*(post(server, b"x" * 999) for _ in range(5))) == [200] * 5
    assert turns.waits == waits, "small ones do not wait"


async def test_a_body_is_decompressed_in_many_turns_of_the_loop(
    server: BodyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = CountedTurns()
    count = Decompressor._count

    def work(self: Decompressor, out: bytes) -> bytes:
        turns.work()
        return count(self, out)

    monkeypatch.setattr(compression, "MAX_PIECE_BYTES", LIMIT // 10)
    monkeypatch.setattr(Decompressor, "_count", work)
    server.bodies = BodyReader(LIMITS, Pauses(), None, turns)
    assert await post(server, gzip.compress(bytes(LIMIT)), headers="Content-Encoding: gzip\r\n") == 200
    assert server.handling == [bytes(LIMIT)]
    assert len(set(turns.numbers)) >= 10


async def test_bodies_that_are_announced_and_not_sent_lock_nobody_out(server: BodyServer) -> None:
    async with senders(server, 9) as idle:
        for sender in idle:
            await sender.begin(LIMIT)
        assert await post(server, b"x" * LIMIT) == 200
        assert server.bodies.pending_bytes == 0


async def test_bytes_count_as_they_arrive_until_the_body_is_handled(server: BodyServer) -> None:
    server.may_finish.clear()
    async with senders(server, 1) as (sender,):
        await sender.begin(300, b"x" * 100)
        await server.wait_pending(100)
        await sender.send(b"x" * 200)
        await server.wait_pending(300)
        server.may_finish.set()
        assert await sender.read_status() == 200
        assert server.bodies.pending_bytes == 0


async def test_a_large_body_of_another_address_makes_way_for_a_small_one(server: BodyServer) -> None:
    async with senders(server, 2, "127.0.0.2") as stalled:
        for sender in stalled:
            await sender.begin(LIMIT, b"x" * (LIMIT - 1))
        await server.wait_pending(2 * LIMIT - 2)
        assert await post(server, b"x" * 100) == 200
        evicted = [asyncio.create_task(sender.read_status()) for sender in stalled]
        done, left = await asyncio.wait(evicted, return_when=asyncio.FIRST_COMPLETED)
        assert [task.result() for task in done] == [429]
        assert server.bodies.pending_bytes == LIMIT - 1
        for task in left:
            task.cancel()


async def test_the_sender_that_holds_most_is_refused_first(server: BodyServer) -> None:
    server.may_finish.clear()
    async with senders(server, 2, "127.0.0.2") as greedy:
        for sender in greedy:
            await sender.begin(LIMIT - 50, b"x" * (LIMIT - 50))
        while len(server.handling) < 2:
            await asyncio.sleep(0)
        assert await post(server, b"x" * 200, "127.0.0.2") == 429, "what is handled already cannot make way"
        server.may_finish.set()
        assert [await sender.read_status() for sender in greedy] == [200, 200]


async def test_who_leaves_while_the_body_waits_for_its_turn_frees_its_memory(
    server: BodyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests, "LARGE_BODY_BYTES", 1_000)
    async with server.bodies.turns.take_turn("another"), senders(server, 1) as (sender,):
        await sender.begin(5_000, b"x" * 5_000)
        await server.wait_pending(5_000)
        while not len(server.bodies.turns):
            await asyncio.sleep(0)
        assert await post(server, b"small") == 200, "a small body needs no turn"
        sender.writer.close()
        await server.wait_pending(0)
        assert len(server.bodies.turns) == 0
    assert server.handling == [b"small"]
    assert await post(server, b"x" * 5_000) == 200


async def test_a_body_that_gets_no_turn_in_time_is_429(server: BodyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "LARGE_BODY_BYTES", 1_000)
    server.bodies._limits = TransportLimits(max_body_bytes=LIMIT, body_timeout_seconds=0.05)
    async with server.bodies.turns.take_turn("another"):
        assert await post(server, b"x" * 5_000) == 429
        assert server.bodies.pending_bytes == 0
    assert await post(server, b"x" * 5_000) == 200


async def test_a_waiting_body_makes_way_too(server: BodyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "LARGE_BODY_BYTES", 1_000)
    async with server.bodies.turns.take_turn("another"), senders(server, 2, "127.0.0.2") as waiting:
        for sender in waiting:
            await sender.begin(LIMIT, b"x" * LIMIT)
        await server.wait_pending(2 * LIMIT)
        assert await post(server, b"x" * 100) == 200
        assert server.bodies.pending_bytes == LIMIT
