"""Samples taken per CPU second of the daemon, beside two floors over the same bytes.

Floors: msgspec decoding into the daemon's own types, in a loop; and an aiohttp WebSocket handler on uvloop that
only counts frames. Not measured: TLS, many connections at once, a network, forecasts (every window stays too
short to be forecast), disk write-back.
"""

import asyncio
import json
import sys
import time
from dataclasses import dataclass
from typing import Any

import aiohttp
import msgspec

from benchmarks.harness import CLOCK_TICKS, ROOT, DaemonProcess, cpu_seconds, free_port, running_daemon
from streamd.http.wire.bodies import Body
from streamd.repository.versions import EngineRepository

FEATURES = EngineRepository(ROOT / "engines").choose().contract.features
SERVERS = 500
STEP_SECONDS = 300
START = 1_700_000_100
ROWS = 600


@dataclass(frozen=True)
class Form:
    """One way to send the same rows."""

    name: str
    samples_a_frame: int
    binary: bool
    acks: bool = False


FORMS = (
    Form("1 sample a frame, JSON", 1, False),
    Form("1 sample a frame, JSON, acked", 1, False, acks=True),
    Form("500 samples a frame, JSON", SERVERS, False),
    Form("500 samples a frame, MessagePack", SERVERS, True),
)


def make_frames(form: Form, rows: int) -> list[bytes]:
    """Return frames of `rows` full rows of each server, in the order of time."""
    encode = msgspec.msgpack.encode if form.binary else msgspec.json.encode
    frames = []
    for row in range(rows):
        samples = [_sample(server, row) for server in range(SERVERS)]
        size = form.samples_a_frame
        frames += [encode({"samples": samples[at : at + size]}) for at in range(0, SERVERS, size)]
    return frames


def _sample(server: int, row: int) -> dict[str, Any]:
    values = {name: round(10 + (server * 7 + row * 3 + place) % 80 + 0.37, 2) for place, name in enumerate(FEATURES)}
    return {"server": f"server-{server:04d}", "time": START + row * STEP_SECONDS, "values": values}


def decode_floor(form: Form, frames: list[bytes]) -> float:
    """Samples a CPU second through msgspec alone."""
    decoder: Any = msgspec.msgpack.Decoder(Body) if form.binary else msgspec.json.Decoder(Body)
    began, count = time.process_time(), 0
    while time.process_time() - began < 1.5:
        for frame in frames:
            count += len(decoder.decode(frame).samples)
    return count / (time.process_time() - began)


async def send(url: str, form: Form, frames: list[bytes]) -> int:
    """Send every frame (acked: with a bounded number under way) and return the samples sent."""
    async with aiohttp.ClientSession() as session, session.ws_connect(url, max_msg_size=0) as socket:
        text = [frame.decode() for frame in frames] if not form.binary else []
        reader = asyncio.create_task(_read_acks(socket, len(frames))) if form.acks else None
        for place, frame in enumerate(frames):
            await (socket.send_bytes(frame) if form.binary else socket.send_str(text[place]))
        if reader is not None:
            await reader
    return len(frames) * form.samples_a_frame


async def _read_acks(socket: aiohttp.ClientWebSocketResponse, count: int) -> None:
    for _ in range(count):
        await socket.receive()


async def through_daemon(form: Form, frames: list[bytes]) -> float:
    """Samples a CPU second of the daemon; every sample is a new row of its server."""
    settings = {"max_servers": SERVERS, "min_context_rows": 288, "lanes": 1}
    async with running_daemon(**settings) as daemon, aiohttp.ClientSession() as session:
        url = f"{daemon.url}/v1/ingest" + ("" if form.acks else "?ack=none")
        first = len(frames) // 10
        taken = await send(url, form, frames[:first])
        await _until_accepted(daemon, session, taken)
        cpu = daemon.cpu_seconds()
        sent = await send(url, form, frames[first:])
        await _until_accepted(daemon, session, taken + sent)
        return sent / (daemon.cpu_seconds() - cpu)


async def _until_accepted(daemon: DaemonProcess, session: aiohttp.ClientSession, samples: int) -> None:
    while (await daemon.status(session))["samples"]["accepted"] < samples:
        await asyncio.sleep(0.05)


async def through_counter(form: Form, frames: list[bytes]) -> float:
    """Samples a CPU second of a WebSocket handler that only counts."""
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.counter", str(port), cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    await process.stdout.readline()
    try:
        url = f"http://127.0.0.1:{port}/"
        quiet = Form(form.name, form.samples_a_frame, form.binary)
        cpu, sent = cpu_seconds(process.pid), 0
        while cpu_seconds(process.pid) - cpu < 0.5:
            sent += await send(url, quiet, frames)
        return sent / (cpu_seconds(process.pid) - cpu)
    finally:
        process.terminate()
        await process.wait()


async def measure() -> dict[str, dict[str, float]]:
    """Return samples a CPU second by form: the daemon and both floors."""
    figures: dict[str, dict[str, float]] = {}
    for form in FORMS:
        frames = make_frames(form, ROWS)
        figures[form.name] = {
            "daemon": await through_daemon(form, frames),
            "counting_handler": await through_counter(form, frames),
            "decode_alone": decode_floor(form, frames),
        }
    return figures


if __name__ == "__main__":
    print(json.dumps(asyncio.run(measure()), indent=1), f"(CPU ticks of 1/{CLOCK_TICKS} s)")
