"""A load in a process of its own: rows of some servers into one node, and their forecasts from another one.

    python -m benchmarks.cluster.load TO FROM PREFIX SERVERS FRAME_ROWS WARM_SECONDS SECONDS ALL_SHARDS SHARD,... READ

`TO` and `FROM` are the addresses of these nodes; the servers are of the shards that are listed. With `READ` "names"
they are read by name, with "glob" by a glob: then `FROM` follows all shards, since they may be in each.

Each connection sends its next frame when each row of the one before was forecast, so that no row is superseded and the
rate is what the cluster can do. Prints a JSON object: forecasts a second, CPU seconds, and milliseconds from a frame to
its last forecast.
"""

import asyncio
import itertools
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import msgspec
import numpy as np

from streamd.core.cluster.shards import find_shard

FILL_ROWS = 3
STALLED_SECONDS = 20.0
MAX_NAMES = 10_000
"""Names that one subscription may have."""


@dataclass
class Frame:
    """The servers of one connection, and the rows of its frame that were not forecast yet."""

    names: list[str]
    origin: float = 0.0
    """The origin of the forecasts of the rows that were sent last."""
    missing: set[str] = field(default_factory=set)
    is_done: asyncio.Event = field(default_factory=asyncio.Event)


class Load:
    """The connections to one node."""

    def __init__(
        self, to: str, source: str, prefix: str, names: Sequence[str], frame_rows: int, *, by_name: bool
    ) -> None:
        self._to = to
        self._from = source
        self._choices = (
            [names[at : at + MAX_NAMES] for at in range(0, len(names), MAX_NAMES)] if by_name else [[f"{prefix}-*"]]
        )
        self._frames = [Frame(list(names[at : at + frame_rows])) for at in range(0, len(names), frame_rows)]
        self._frame_of = {name: frame for frame in self._frames for name in frame.names}
        self._forecasts = 0
        self._refused = 0
        self._seconds: list[float] = []
        self._step_seconds = 0
        self._features: list[str] = []
        self._targets: list[str] = []
        self._first_step = 0
        self._origin: dict[str, float] = {}

    async def run(self, warm_seconds: float, seconds: float) -> dict[str, Any]:
        """Run, and return what was measured."""
        async with aiohttp.ClientSession() as session:
            await self._read_contract(session)
            readers = [asyncio.create_task(self._read(session, chosen)) for chosen in self._choices]
            await asyncio.sleep(0.5)
            senders = [asyncio.create_task(self._send(session, frame)) for frame in self._frames]
            await asyncio.sleep(warm_seconds)
            count, cpu, began = self._forecasts, time.process_time(), time.monotonic()
            self._seconds.clear()
            done, _ = await asyncio.wait([*readers, *senders], timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()  # none of them ends by itself
            took = time.monotonic() - began
            times = np.array(self._seconds or [0.0]) * 1e3
            result = {
                "forecasts_per_second": (self._forecasts - count) / took,
                "cpu_seconds": time.process_time() - cpu,
                "frames": len(self._seconds),
                "refused": self._refused,
                "p50_ms": float(np.percentile(times, 50)),
                "p99_ms": float(np.percentile(times, 99)),
            }
            for task in [*readers, *senders]:
                task.cancel()
            await asyncio.gather(*readers, *senders, return_exceptions=True)
            return result

    async def _read_contract(self, session: aiohttp.ClientSession) -> None:
        async with session.get(f"{self._to}/v1/status") as response:
            contract = (await response.json())["contract"]
        self._step_seconds = contract["step_seconds"]
        self._features = contract["features"]
        self._targets = contract["targets"]
        self._first_step = int(time.time()) // self._step_seconds - 5 * 86_400 // self._step_seconds

    async def _read(self, session: aiohttp.ClientSession, chosen: Sequence[str]) -> None:
        async with session.ws_connect(f"{self._from}/v1/forecasts", max_msg_size=0) as socket:
            message = {
                "type": "subscribe",
                "servers": list(chosen),
                "targets": self._targets[:1],
                "quantiles": [0.5],
                "every": 96,
                "batch": True,
            }
            await socket.send_bytes(msgspec.msgpack.encode(message))
            async for frame in socket:
                found = msgspec.msgpack.decode(frame.data)
                if found["type"] == "forecast":
                    self._take(found["server"], found["origin"])
                elif found["type"] == "forecasts":
                    for name, origin in zip(found["servers"], found["origins"], strict=True):
                        self._take(name, origin)
                elif found["type"] == "error":
                    raise RuntimeError(found["message"])

    def _take(self, name: str, origin: float) -> None:
        if origin <= self._origin.get(name, 0.0):
            return
        self._origin[name] = origin
        self._forecasts += 1
        frame = self._frame_of[name]
        if origin >= frame.origin:
            frame.missing.discard(name)
        if not frame.missing:
            frame.is_done.set()

    async def _send(self, session: aiohttp.ClientSession, frame: Frame) -> None:
        values = np.random.default_rng(1).random((len(frame.names), len(self._features)), np.float32)
        tensor = {"shape": list(values.shape), "dtype": "float32", "data": values.tobytes()}
        step, refused_since = self._first_step, 0.0
        async with session.ws_connect(f"{self._to}/v1/ingest", max_msg_size=0) as socket:
            while True:
                origin = float((step + 1) * self._step_seconds)
                if origin > frame.origin:  # else it is sent again, and some of its rows may have been taken
                    frame.origin, frame.missing = origin, set(frame.names)
                    frame.is_done.clear()
                columns = {
                    "servers": frame.names,
                    "time": step * self._step_seconds,
                    "features": self._features,
                    "values": tensor,
                }
                began = time.monotonic()
                await socket.send_bytes(msgspec.msgpack.encode({"columns": columns}))
                answer = msgspec.msgpack.decode((await socket.receive()).data)
                if answer.get("rejected"):
                    raise RuntimeError(f"rows were rejected: {answer['errors'][:1]}")
                if answer.get("accepted") != len(frame.names):
                    self._refused += 1
                    refused_since = refused_since or began
                    if began - refused_since > STALLED_SECONDS:
                        raise RuntimeError(f"rows are refused all the time: {answer}")
                    await asyncio.sleep(0.2)  # too busy, or joining
                    continue
                refused_since = 0.0
                step += 1
                if step > self._first_step + FILL_ROWS:  # before that, windows are too short
                    await self._wait_forecast(frame)
                    self._seconds.append(time.monotonic() - began)

    async def _wait_forecast(self, frame: Frame) -> None:
        try:
            async with asyncio.timeout(STALLED_SECONDS):
                await frame.is_done.wait()
        except TimeoutError:
            name = min(frame.missing)
            raise RuntimeError(
                f"{len(frame.missing)} of {len(frame.names)} servers of a frame got no forecast, "
                f"{name} has {self._origin.get(name)}, expected {frame.origin}"
            ) from None


def name_servers(prefix: str, count: int, all_shards: int, shards: set[int]) -> list[str]:
    """Return names of servers that belong to these shards."""
    numbered = (f"{prefix}-{number:07d}" for number in itertools.count())
    return list(itertools.islice((name for name in numbered if find_shard(name, all_shards) in shards), count))


def main(arguments: list[str]) -> int:
    """Run the load that the arguments name, and print the result."""
    to, source, prefix, servers, frame_rows, warm, seconds, all_shards, shards, read = arguments
    names = name_servers(prefix, int(servers), int(all_shards), set(map(int, shards.split(","))))
    load = Load(to, source, prefix, names, int(frame_rows), by_name=read == "names")
    print(json.dumps(asyncio.run(load.run(float(warm), float(seconds)))))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
