"""Sends the rows of a large fleet at a steady rate, in a process of its own.

First it fills the windows up to the newest step that has ended, then each server gets a row every few seconds, each a
step later than the one before: time passes 60 times as fast as outside.
"""

import argparse
import asyncio
import sys
import time
from collections.abc import Iterator
from typing import Any

import aiohttp
import msgspec
import numpy as np

from streamd.core.arrays import Float32

ROWS_A_FRAME = 100
FILL_ROWS_A_FRAME = 5_000
PREFIXES = ("web", "db", "cache", "batch", "edge")
LEVELS = 97
"""Different levels of load; a prime, so that neighbours in the list differ."""


class FleetRows:
    """The rows of `servers` servers, the same in each run."""

    def __init__(self, servers: int, features: list[str], fill_rows: int, step_seconds: int) -> None:
        self.names = [f"{PREFIXES[number % len(PREFIXES)]}-{number:05d}" for number in range(servers)]
        self.features = features
        self.fill_rows = fill_rows
        self.step_seconds = step_seconds
        self.next_step = int(time.time()) // step_seconds
        random = np.random.default_rng(1)
        base = 20.0 + 60.0 * (np.arange(servers) % LEVELS) / LEVELS
        self._values: Float32 = (base[:, None] + random.normal(0, 2, (servers, len(features)))).astype(np.float32)

    def make_fill(self) -> Iterator[bytes]:
        """Yield frames of whole windows, a few servers in each."""
        steps = self.next_step - self.fill_rows + np.arange(self.fill_rows)
        servers_a_frame = max(FILL_ROWS_A_FRAME // self.fill_rows, 1)
        for begin in range(0, len(self.names), servers_a_frame):
            names = self.names[begin : begin + servers_a_frame]
            values = np.repeat(self._values[begin : begin + servers_a_frame], self.fill_rows, axis=0)
            times = np.tile(steps * self.step_seconds, len(names))
            yield self._encode([name for name in names for _ in range(self.fill_rows)], times.tolist(), values)

    def make_round(self) -> Iterator[bytes]:
        """Yield frames with the next row of each server."""
        at = self.next_step * self.step_seconds
        self.next_step += 1
        for begin in range(0, len(self.names), ROWS_A_FRAME):
            part = slice(begin, begin + ROWS_A_FRAME)
            yield self._encode(self.names[part], at, self._values[part])

    def _encode(self, names: list[str], times: Any, values: Float32) -> bytes:
        tensor = {"shape": list(values.shape), "dtype": "float32", "data": np.ascontiguousarray(values).tobytes()}
        columns = {"servers": names, "time": times, "features": self.features, "values": tensor}
        return msgspec.msgpack.encode({"columns": columns})


async def send_fleet(url: str, rows: FleetRows, rate: float) -> None:
    """Fill the windows, say so on the standard output, and send at this rate until cancelled."""
    async with aiohttp.ClientSession() as session, session.ws_connect(f"{url}/v1/ingest", max_msg_size=0) as socket:
        for frame in rows.make_fill():
            await _send(socket, frame)
        print("filled", flush=True)
        began, sent = time.monotonic(), 0
        while True:
            for frame in rows.make_round():
                await _send(socket, frame)
                sent += ROWS_A_FRAME
                await asyncio.sleep(max(began + sent / rate - time.monotonic(), 0.0))


async def _send(socket: aiohttp.ClientWebSocketResponse, frame: bytes) -> None:
    await socket.send_bytes(frame)
    ack = msgspec.msgpack.decode(await socket.receive_bytes())
    if ack.get("rejected", 1):
        raise RuntimeError(f"the daemon rejects rows: {str(ack)[:500]}")


async def main() -> None:
    """Read the arguments, and send."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--servers", type=int, required=True)
    parser.add_argument("--rate", type=float, required=True, help="rows a second")
    parser.add_argument("--fill-rows", type=int, required=True)
    args = parser.parse_args()
    async with aiohttp.ClientSession() as session, session.get(f"{args.url}/v1/status") as answer:
        contract = (await answer.json())["contract"]
    rows = FleetRows(args.servers, contract["features"], args.fill_rows, contract["step_seconds"])
    await send_fleet(args.url, rows, args.rate)


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
