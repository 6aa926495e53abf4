"""The floods, by name. Each runs in a process of its own, on some connections at once, in harmless sizes."""

import asyncio
import gzip
import json
import multiprocessing
import os
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

from benchmarks.overload import attacks as overload
from benchmarks.overload.attacks import PAUSE_SECONDS, Attack, Attacker, make_frame

Flood = tuple[Attack, int]
"""An attack, and on how many connections it runs."""

JSON_HEAD = "Content-Type: application/json\r\n"


async def pipeline(attacker: Attacker, path: str) -> None:
    """Send requests one behind the other as fast as they are taken, and read the answers."""
    request = f"GET {path} HTTP/1.1\r\nHost: a\r\n{attacker.head}\r\n".encode()
    async with attacker.open(f"GET {path}") as (reader, writer):
        answers = asyncio.create_task(_read_all(reader))
        with suppress(OSError):
            while True:
                writer.write(request * 200)
                await writer.drain()
        await answers


async def pipeline_unread(attacker: Attacker, path: str) -> None:
    """Send requests one behind the other and read no answer."""
    request = f"GET {path} HTTP/1.1\r\nHost: a\r\n{attacker.head}\r\n".encode()
    async with attacker.open(f"GET {path}") as (_, writer):
        while True:
            writer.write(request * 200)
            await writer.drain()


async def ask_anew(attacker: Attacker, path: str) -> None:
    """Open a connection for each request."""
    async with attacker.open(f"GET {path}", "Connection: close\r\n") as (reader, _):
        await reader.read()


async def hang_up(attacker: Attacker) -> None:
    """Open connections as fast as they are accepted, send one request on each, and leave before it is answered."""
    for _ in range(200):
        async with attacker.open("GET /v1/status"):
            pass


async def send_byte_chunks(attacker: Attacker) -> None:
    """Send a body in chunks of one byte."""
    async with attacker.open("POST /v1/samples", JSON_HEAD + "Transfer-Encoding: chunked\r\n") as (reader, writer):
        answers = asyncio.create_task(_read_all(reader))
        with suppress(OSError):
            for _ in range(1_000):
                writer.write(b"1\r\n \r\n" * 2_000)
                await writer.drain()
        await answers


async def send_long_heads(attacker: Attacker) -> None:
    """Send heads of 120 lines and 40 kB, one behind the other."""
    head = "".join(f"X-{number}: {'a' * 320}\r\n" for number in range(120))
    request = f"GET /healthz HTTP/1.1\r\nHost: a\r\n{attacker.head}{head}\r\n".encode()
    async with attacker.open("GET /healthz") as (reader, writer):
        answers = asyncio.create_task(_read_all(reader))
        with suppress(OSError):
            while True:
                writer.write(request * 8)
                await writer.drain()
        await answers


async def send_short_lines(attacker: Attacker) -> None:
    """Send one head of 40,000 lines."""
    async with attacker.open("GET /healthz", "A:b\r\n" * 40_000) as (reader, _):
        await reader.read()


async def send_frames(attacker: Attacker, frame: bytes, path: str) -> None:
    """Send tiny frames as fast as they are taken, and read what is answered."""
    async with attacker.open_socket(path) as (reader, writer):
        answers = asyncio.create_task(_read_all(reader))
        with suppress(OSError):
            while True:
                writer.write(frame * 2_000)
                await writer.drain()
        await answers


async def send_body(attacker: Attacker, path: str, body: bytes, more: str = "") -> None:
    """Send a body and read the answer."""
    head = f"{JSON_HEAD}{more}Content-Length: {len(body)}\r\nConnection: close\r\n"
    async with attacker.open(f"POST {path}", head) as (reader, writer):
        writer.write(body)
        await reader.read()


async def _read_all(reader: asyncio.StreamReader) -> None:
    with suppress(OSError):
        while await reader.read(2**16):
            pass


def make_samples(count: int) -> bytes:
    """Return a body of refused samples: their time is long over."""
    sample = {"server": "flood", "time": 1, "values": {"cpu_user": 1.0}}
    return json.dumps({"samples": [sample] * count}).encode()


def make_ping(payload: bytes = b"") -> bytes:
    """Return a ping, masked with zeros."""
    return bytes([0x89, 0x80 | len(payload)]) + bytes(4) + payload


FRAGMENT = b"\x00\x81" + bytes(4) + b"a"
"""A middle fragment of one byte of a text message that never ends."""

FLOODS: dict[str, Flood] = {
    "pipelined /healthz": (partial(pipeline, path="/healthz"), 60),
    "pipelined /metrics": (partial(pipeline, path="/metrics"), 60),
    "pipelined /v1/status": (partial(pipeline, path="/v1/status"), 60),
    "pipelined /v1/servers": (partial(pipeline, path="/v1/servers"), 60),
    "pipelined /v1/servers of 1,000": (partial(pipeline, path="/v1/servers?limit=1000"), 60),
    "pipelined unread": (partial(pipeline_unread, path="/v1/servers?limit=1000"), 60),
    "pipelined 404": (partial(pipeline, path="/none"), 60),
    "new connections": (partial(ask_anew, path="/v1/status"), 60),
    "connections that leave": (hang_up, 20),
    "1-byte chunks": (send_byte_chunks, 20),
    "heads of 40 kB": (send_long_heads, 20),
    "heads of 40,000 lines": (send_short_lines, 20),
    "slow heads": (overload.send_slow_heads, 200),
    "empty frames": (partial(send_frames, frame=make_frame(b""), path="/v1/ingest?ack=none"), 60),
    "empty frames, acked": (partial(send_frames, frame=make_frame(b""), path="/v1/ingest"), 60),
    "pings": (partial(send_frames, frame=make_ping(b"x" * 100), path="/v1/ingest"), 60),
    "fragments": (partial(send_frames, frame=FRAGMENT, path="/v1/ingest"), 60),
    "subscriptions": (overload.subscribe_to_globs, 20),
    "unfinished frames": (overload.leave_frames_unfinished, 50),
    "announced bodies": (overload.announce_bodies, 50),
    "empty samples": (overload.send_empty_objects, 10),
    "refused samples": (partial(send_body, path="/v1/samples", body=make_samples(90_000)), 10),
    "compressed zeros": (
        partial(send_body, path="/v1/samples", body=gzip.compress(bytes(2**23)), more="Content-Encoding: gzip\r\n"),
        20,
    ),
    "new names": (overload.send_new_names, 4),
    "stalled readers": (overload.stall, 50),
}


@contextmanager
def flooding(port: int, name: str, head: str = "") -> Iterator[None]:
    """Run one flood while the block runs; the process of the attacker has the lowest priority."""
    process = multiprocessing.get_context("spawn").Process(target=_flood, args=(port, name, head), daemon=True)
    process.start()
    try:
        yield
    finally:
        process.kill()
        process.join()


def _flood(port: int, name: str, head: str) -> None:
    os.nice(10)  # it must not win by taking the cores of a small machine
    attack, connections = FLOODS[name]
    asyncio.run(_attack_all(attack, Attacker(port, head), connections))


async def _attack_all(attack: Callable[[Attacker], Coroutine[Any, Any, None]], attacker: Attacker, count: int) -> None:
    async def repeat() -> None:
        while True:
            with suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):  # refused, as it should be
                await attack(attacker)
                continue
            await asyncio.sleep(PAUSE_SECONDS)  # the daemon closed the connection

    await asyncio.gather(*(repeat() for _ in range(count)))
