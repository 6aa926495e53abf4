"""The memory of a server in the daemon: resident bytes, by kind, with a full window and one forecast.

A full fleet, so that what the process needs anyhow hardly counts: that is measured before the first sample and
subtracted. Mapped bytes belong to the page cache: the kernel may write them out under pressure. Not measured:
subscribers, agents of other protocols.
"""

import asyncio
import itertools

import aiohttp
import msgspec
import numpy as np

from benchmarks.harness import DaemonProcess, running_daemon
from benchmarks.ingest import FEATURES, START, STEP_SECONDS

FLEET = 8_192
SERVERS_A_FRAME = 512
ROWS = 290
FIRST_FORECAST = 288
"""Rows that a window needs before it is forecast: only the last rows are, so that the fleet is filled quickly."""

SETTLE_SECONDS = 3.0


async def measure() -> dict[str, float]:
    """Measure the bytes for each server: heap, mapped files, and both together."""
    async with (
        running_daemon(max_servers=FLEET, min_context_rows=FIRST_FORECAST) as daemon,
        aiohttp.ClientSession() as session,
    ):
        before = daemon.read_memory_bytes()
        await _fill_fleet(session, daemon)
        after = daemon.read_memory_bytes()
    figures = {kind: (after[kind] - before[kind]) / FLEET for kind in after}
    return {**figures, "total": sum(figures.values())}


async def _fill_fleet(session: aiohttp.ClientSession, daemon: DaemonProcess) -> None:
    names = [f"server-{server:05d}" for server in range(FLEET)]
    random = np.random.default_rng(1)
    async with session.ws_connect(f"{daemon.url}/v1/ingest", max_msg_size=0) as socket:
        for row, first in itertools.product(range(ROWS), range(0, FLEET, SERVERS_A_FRAME)):
            await socket.send_bytes(_make_frame(names[first : first + SERVERS_A_FRAME], row, random))
            await socket.receive()
    while (status := await daemon.fetch_status(session))["due"] or status["in_flight"]:
        await asyncio.sleep(0.5)
    await asyncio.sleep(SETTLE_SECONDS)


def _make_frame(names: list[str], row: int, random: np.random.Generator) -> bytes:
    values = random.random((len(names), len(FEATURES)), np.float32)
    tensor = {"shape": list(values.shape), "dtype": "float32", "data": values.tobytes()}
    times = [START + row * STEP_SECONDS] * len(names)
    columns = {"servers": names, "time": times, "features": FEATURES, "values": tensor}
    return msgspec.msgpack.encode({"columns": columns})


if __name__ == "__main__":
    print(asyncio.run(measure()))
