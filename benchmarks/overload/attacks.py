"""Peers that cost the daemon more than they bring, all at once, from a process of its own and in harmless sizes."""

import asyncio
import json
import multiprocessing
import os
import struct
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from typing import Any

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
PAUSE_SECONDS = 1.0
_UPGRADE = (
    "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
)


@dataclass(frozen=True, slots=True)
class Attacker:
    """The target of the attacks, and what they send to be let in."""

    port: int
    head: str
    """Lines of a head, such as the token."""

    @asynccontextmanager
    async def open(self, line: str, more: str = "", *, ends_head: bool = True) -> AsyncIterator[Streams]:
        """Connect and send the head of a request; without its end if `ends_head` is false."""
        end = "\r\n" if ends_head else "X-Slow: "
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(f"{line} HTTP/1.1\r\nHost: 127.0.0.1\r\n{self.head}{more}{end}".encode())
            await writer.drain()
            yield reader, writer
        finally:
            writer.transport.abort()

    @asynccontextmanager
    async def open_socket(self, path: str) -> AsyncIterator[Streams]:
        """Open a WebSocket."""
        async with self.open(f"GET {path}", _UPGRADE) as (reader, writer):
            await reader.readuntil(b"\r\n\r\n")
            yield reader, writer

    async def post(self, path: str, body: bytes) -> None:
        """Send a body and read its answer."""
        head = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close\r\n"
        async with self.open(f"POST {path}", head) as (reader, writer):
            writer.write(body)
            await reader.read()


def make_frame(payload: bytes, length: int | None = None) -> bytes:
    """Return a text frame, masked with zeros; `length` is announced in place of the length that it has."""
    size = len(payload) if length is None else length
    head = bytes([0x80 | size]) if size < 126 else b"\xff" + struct.pack(">Q", size)
    return b"\x81" + head + bytes(4) + payload


# ---------------------------------------------------------------- attacks
async def announce_bodies(attacker: Attacker) -> None:
    """Announce a body of 8 MB and send nothing of it."""
    head = "Content-Type: application/json\r\nContent-Length: 8388608\r\n"
    async with attacker.open("POST /v1/samples", head) as (reader, _):
        await reader.read()


async def send_empty_frames(attacker: Attacker) -> None:
    """Send empty frames as fast as they are taken."""
    frames = make_frame(b"") * 2_000
    async with attacker.open_socket("/v1/ingest?ack=none") as (_, writer):
        while True:
            writer.write(frames)
            await writer.drain()


async def subscribe_to_globs(attacker: Attacker) -> None:
    """Subscribe with 10,000 globs."""
    globs = [f"*{number}*{number % 7}*" for number in range(10_000)]
    async with attacker.open_socket("/v1/forecasts") as (reader, writer):
        writer.write(make_frame(json.dumps({"type": "subscribe", "servers": globs}).encode()))
        await writer.drain()
        await reader.read(100)


async def send_slow_heads(attacker: Attacker) -> None:
    """Send a head byte by byte."""
    async with attacker.open("GET /v1/status", ends_head=False) as (reader, writer):
        while not reader.at_eof():
            writer.write(b"a")
            await writer.drain()
            await asyncio.sleep(PAUSE_SECONDS)


async def leave_frames_unfinished(attacker: Attacker) -> None:
    """Hold most of a large frame."""
    async with attacker.open_socket("/v1/ingest") as (reader, writer):
        writer.write(make_frame(bytes(1_900_000), 2_000_000))
        await writer.drain()
        await reader.read()


async def send_empty_objects(attacker: Attacker) -> None:
    """Send a body of a megabyte of empty objects."""
    await attacker.post("/v1/samples", b'{"samples":[' + b"{}," * 350_000 + b"{}]}")


_rounds = count()


async def send_new_names(attacker: Attacker) -> None:
    """Send a sample of each of 2,000 servers that did not exist."""
    at, turn = int(time.time()) - 600, next(_rounds)
    samples = [{"server": f"new-{turn}-{number}", "time": at, "values": {"cpu_user": 1.0}} for number in range(2_000)]
    await attacker.post("/v1/samples", json.dumps({"samples": samples}).encode())


async def stall(attacker: Attacker) -> None:
    """Subscribe to all forecasts and read none."""
    async with attacker.open_socket("/v1/forecasts") as (_, writer):
        writer.write(make_frame(b'{"type":"subscribe"}'))
        await writer.drain()
        await asyncio.sleep(3_600)


Attack = Callable[[Attacker], Coroutine[Any, Any, None]]
ATTACKS: tuple[tuple[Attack, int], ...] = (
    (announce_bodies, 12),
    (send_empty_frames, 5),
    (subscribe_to_globs, 2),
    (send_slow_heads, 100),
    (leave_frames_unfinished, 20),
    (send_empty_objects, 1),
    (send_new_names, 1),
    (stall, 10),
)
"""All attacks, and how many of each at once."""


@contextmanager
def attacking(port: int, head: str = "", cores: Sequence[int] = ()) -> Iterator[None]:
    """Run all attacks while the block runs, on these cores if any are given."""
    process = multiprocessing.get_context("spawn").Process(target=_attack, args=(port, head, cores), daemon=True)
    process.start()
    try:
        yield
    finally:
        process.kill()
        process.join()


def _attack(port: int, head: str, cores: Sequence[int]) -> None:
    if cores:
        os.sched_setaffinity(0, cores)
    os.nice(5)  # the attackers must not win by taking the cores of a small machine
    asyncio.run(_attack_all(Attacker(port, head)))


async def _attack_all(attacker: Attacker) -> None:
    async def repeat(attack: Attack) -> None:
        while True:
            with suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):  # refused, as it should be
                await attack(attacker)
            await asyncio.sleep(PAUSE_SECONDS)

    await asyncio.gather(*(repeat(attack) for attack, times in ATTACKS for _ in range(times)))
