"""Samples that the daemon accepts in a CPU second, beside two floors over the same bytes.

The floors: msgspec decoding into the daemon's own types, in a loop; and an aiohttp WebSocket handler on uvloop that
only counts frames. Not measured: TLS, many connections at once, a network, forecasts (every window stays too short to
be forecast), disk write-back.
"""

import asyncio
import json
import sys
import time
from dataclasses import dataclass, replace
from typing import Any

import aiohttp
import msgspec
import numpy as np

from benchmarks.harness import CLOCK_TICKS, ROOT, DaemonProcess, find_free_port, read_cpu_seconds, running_daemon
from streamd.http.wire.body_types import Body
from streamd.http.wire.tensors import make_wire_tensor
from streamd.repository.versions import EngineRepository

FEATURES = EngineRepository(ROOT / "engines").choose().contract.features
SERVERS = 500
STEP_SECONDS = 300
START = 1_700_000_100
ROWS = 600


@dataclass(frozen=True)
class Form:
    """A form in which the same rows are sent."""

    name: str
    samples_a_frame: int
    is_binary: bool
    has_acks: bool = False
    servers: int = SERVERS
    has_columns: bool = False
    """Whether the rows are columns, with the values as a tensor in MessagePack, and as lists in JSON."""


FORMS = (
    Form("1 sample a frame, JSON", 1, False),
    Form("1 sample a frame, JSON, acked", 1, False, has_acks=True),
    Form("500 samples a frame, JSON", SERVERS, False),
    Form("500 samples a frame, MessagePack", SERVERS, True),
    Form("500 rows of columns a frame, JSON", SERVERS, False, has_columns=True),
    Form("500 rows of columns a frame, MessagePack", SERVERS, True, has_columns=True),
    Form("2,000 rows of columns a frame, MessagePack", 2_000, True, servers=2_000, has_columns=True),
)


def make_frames(form: Form, rows: int) -> list[bytes]:
    """Make frames of `rows` full rows of each server, in the order of time."""
    encode = msgspec.msgpack.encode if form.is_binary else msgspec.json.encode
    frames = []
    for row in range(rows):
        samples = [_sample(server, row) for server in range(form.servers)]
        size = form.samples_a_frame
        for at in range(0, form.servers, size):
            some = samples[at : at + size]
            frames.append(encode({"columns": _columns(some, form)} if form.has_columns else {"samples": some}))
    return frames


def _sample(server: int, row: int) -> dict[str, Any]:
    values = {name: round(10 + (server * 7 + row * 3 + place) % 80 + 0.37, 2) for place, name in enumerate(FEATURES)}
    return {"server": f"server-{server:04d}", "time": START + row * STEP_SECONDS, "values": values}


def _columns(samples: list[dict[str, Any]], form: Form) -> dict[str, Any]:
    values: Any = [list(sample["values"].values()) for sample in samples]
    if form.is_binary:
        values = make_wire_tensor(np.array(values, np.float32))
    servers = [sample["server"] for sample in samples]
    return {"servers": servers, "time": samples[0]["time"], "features": list(FEATURES), "values": values}


def measure_decoding(form: Form, frames: list[bytes]) -> float:
    """Measure the samples a CPU second that msgspec alone decodes."""
    decoder: Any = msgspec.msgpack.Decoder(Body) if form.is_binary else msgspec.json.Decoder(Body)
    began, count = time.process_time(), 0
    while time.process_time() - began < 1.5:
        for frame in frames:
            decoder.decode(frame)
            count += form.samples_a_frame
    return count / (time.process_time() - began)


async def send(url: str, form: Form, frames: list[bytes]) -> int:
    """Send every frame and read the acks, if the form has them; returns the number of samples sent."""
    async with aiohttp.ClientSession() as session, session.ws_connect(url, max_msg_size=0) as socket:
        text = [frame.decode() for frame in frames] if not form.is_binary else []
        reader = asyncio.create_task(_read_acks(socket, len(frames))) if form.has_acks else None
        for place, frame in enumerate(frames):
            await (socket.send_bytes(frame) if form.is_binary else socket.send_str(text[place]))
        if reader is not None:
            await reader
    return len(frames) * form.samples_a_frame


async def _read_acks(socket: aiohttp.ClientWebSocketResponse, count: int) -> None:
    for _ in range(count):
        await socket.receive()


async def measure_daemon(form: Form, frames: list[bytes]) -> float:
    """Measure the samples a CPU second of the daemon; every sample is a new row of its server."""
    settings = {"max_servers": form.servers, "min_context_rows": 288, "lanes": 1}
    async with running_daemon(**settings) as daemon, aiohttp.ClientSession() as session:
        url = f"{daemon.url}/v1/ingest" + ("" if form.has_acks else "?ack=none")
        first = len(frames) // 10
        warmed = await send(url, form, frames[:first])
        await _wait_accepted(daemon, session, warmed)
        cpu = daemon.read_cpu_seconds()
        sent = await send(url, form, frames[first:])
        await _wait_accepted(daemon, session, warmed + sent)
        return sent / (daemon.read_cpu_seconds() - cpu)


async def _wait_accepted(daemon: DaemonProcess, session: aiohttp.ClientSession, samples: int) -> None:
    while (await daemon.fetch_status(session))["samples"]["accepted"] < samples:
        await asyncio.sleep(0.05)


async def measure_counter(form: Form, frames: list[bytes]) -> float:
    """Measure the samples a CPU second of a WebSocket handler that only counts frames."""
    port = find_free_port()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.counter", str(port), cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    await process.stdout.readline()
    try:
        url = f"http://127.0.0.1:{port}/"
        without_acks = replace(form, has_acks=False)
        cpu, sent = read_cpu_seconds(process.pid), 0
        while read_cpu_seconds(process.pid) - cpu < 0.5:
            sent += await send(url, without_acks, frames)
        return sent / (read_cpu_seconds(process.pid) - cpu)
    finally:
        process.terminate()
        await process.wait()


async def measure() -> dict[str, dict[str, float]]:
    """Measure the samples a CPU second by form: the daemon and both floors."""
    figures: dict[str, dict[str, float]] = {}
    for form in FORMS:
        frames = make_frames(form, ROWS)
        figures[form.name] = {
            "daemon": await measure_daemon(form, frames),
            "counting_handler": await measure_counter(form, frames),
            "decode_alone": measure_decoding(form, frames),
        }
    return figures


if __name__ == "__main__":
    print(json.dumps(asyncio.run(measure()), indent=1), f"(CPU ticks of 1/{CLOCK_TICKS} s)")
