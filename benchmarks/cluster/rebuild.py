"""What a shard's servers take in NATS, and how long a node needs to take them over.

    python -m benchmarks.cluster.rebuild --sizes 250,1000,4000

One server of NATS, two nodes and one shard, whose servers have whole windows of the model that ships (288 rows of 14
features). Measured: the bytes of the streams for a server, the rate at which rows were taken, and after a kill of the
owner the seconds in which the other one loads the shard. A node that follows nothing before has it all to load.
"""

import argparse
import asyncio
import contextlib
import json
import logging
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import numpy as np
import structlog

from benchmarks.cluster.nodes import ClusterDaemon
from benchmarks.cluster.site import Site, stop_by_signal
from benchmarks.harness import ROOT, describe_machine, print_table, write_result
from streamd.cluster.log import StreamState
from streamd.repository.versions import EngineRepository

ROWS = 288
FRAME_ROWS = 500
SETTLE_SECONDS = 120.0
CALM_READS = 4
"""How often the sizes of the streams must be the same."""

SETTINGS = {
    "MIN_CONTEXT_ROWS": str(ROWS),  # one forecast for each server, as after a quiet step
    "SCORED_SERVERS": "0",
    "LOG_FORMAT": "json",
    "LOG_LEVEL": "info",
    "SHARD_LOG_MB": "2048",
    "SHARD_FORECASTS_MB": "2048",
    "REBALANCE_DELAY_SECONDS": "600",
}


async def fill(node: ClusterDaemon, servers: int) -> float:
    """Send whole windows; returns the rows a second."""
    contract = EngineRepository(ROOT / "engines").choose().contract
    random = np.random.default_rng(1)
    names = [f"server-{number:06d}" for number in range(servers)]
    first = int(time.time()) // contract.step_seconds - ROWS
    began = time.monotonic()
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(node.url + "/v1/ingest", max_msg_size=0) as socket,
    ):
        for step in range(first, first + ROWS):
            frames = [names[at : at + FRAME_ROWS] for at in range(0, servers, FRAME_ROWS)]
            for frame in frames:
                values = random.random((len(frame), len(contract.features)), np.float32)
                tensor = {"shape": list(values.shape), "dtype": "float32", "data": values.tobytes()}
                columns = {"servers": frame, "time": step * contract.step_seconds, "values": tensor}
                columns["features"] = contract.features
                await socket.send_bytes(msgspec.msgpack.encode({"columns": columns}))
            for frame in frames:
                answer = msgspec.msgpack.decode((await socket.receive()).data)
                if answer.get("accepted") != len(frame):
                    raise RuntimeError(f"not all rows were taken: {str(answer)[:300]}")
    return servers * ROWS / (time.monotonic() - began)


async def measure(servers: int) -> dict[str, Any]:
    """Measure a shard of so many servers."""
    with tempfile.TemporaryDirectory(prefix="streamd-rebuild-") as folder:
        settings = {**SETTINGS, "MAX_SERVERS": str(servers + 1_000)}
        site = Site(Path(folder), nodes=2, nats=1, shards=1, settings=settings, module="benchmarks.cluster.free_lanes")
        try:
            await site.start_nats()
            owner, other = site.nodes
            await owner.start_and_wait()
            await site.log.table(site.names.bucket("leases")).watch(site.leases.see)
            while not site.leases.list_shards(owner.name):
                await asyncio.sleep(0.1)
            rate = await fill(owner, servers)
            await _wait_settled(owner, servers)
            sizes = await _wait_stable(site)
            await other.start_and_wait()
            await asyncio.sleep(3.0)
            owner.program.kill()
            died = time.time()
            while not site.leases.list_shards(other.name):
                await asyncio.sleep(0.02)
            owned = await _wait_owned(other)
        finally:
            await site.close()
    return {
        "servers": servers,
        "rows_per_second": round(rate),
        "row_log_bytes": round(sizes["rows"].bytes / servers),
        "row_log_messages": sizes["rows"].messages,
        "window_bytes": round(sizes["windows"].bytes / servers),
        "forecast_bytes": round(sizes["forecasts"].bytes / servers),
        "load_seconds": owned["seconds"],
        "after_death_seconds": round(owned["time"] - died, 2),
    }


async def _wait_settled(node: ClusterDaemon, servers: int) -> None:
    """Wait until the owner has all rows and has forecast them."""
    async with asyncio.timeout(SETTLE_SECONDS):
        while True:
            _, status = await node.read("/v1/status")
            if status.get("servers") == servers and not status["due"] and not status["in_flight"]:
                return
            await asyncio.sleep(0.5)


async def _wait_stable(site: Site) -> dict[str, StreamState]:
    """Return what the streams of the shard hold, once that changes no more."""
    names = {
        "rows": site.names.rows_stream(0),
        "windows": site.names.windows_stream(0),
        "forecasts": site.names.forecasts_stream(0),
    }
    sizes: dict[str, StreamState] = {}
    calm = 0
    async with asyncio.timeout(SETTLE_SECONDS):
        while calm < CALM_READS:
            await asyncio.sleep(2.0)
            found = {kind: await site.log.read_state(stream) for kind, stream in names.items()}
            is_calm = all(kind in sizes and sizes[kind].bytes == state.bytes for kind, state in found.items())
            calm, sizes = calm + 1 if is_calm else 0, found
    return sizes


async def _wait_owned(node: ClusterDaemon) -> dict[str, Any]:
    """Return when and in how many seconds a node loaded the shard, from its log."""
    async with asyncio.timeout(SETTLE_SECONDS):
        while True:
            for line in node.program.log.read_text(encoding="utf-8").splitlines():
                found = json.loads(line) if line.startswith("{") else {}
                if found.get("event") == "shard_owned":
                    stamp = found["timestamp"].replace("Z", "+00:00")
                    return {"seconds": found["seconds"], "time": datetime.fromisoformat(stamp).timestamp()}
            await asyncio.sleep(0.05)


def main() -> int:
    """Measure, print a table and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="250,1000,4000", help="servers of the shard [default: %(default)s]")
    parser.add_argument("--result", help="name of the file in benchmarks/results [default: none is written]")
    args = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    cells = []
    with contextlib.suppress(KeyboardInterrupt, asyncio.CancelledError):
        for size in map(int, args.sizes.split(",")):
            cells.append(asyncio.run(stop_by_signal(measure(size))))
            print(json.dumps(cells[-1]), flush=True)
    if cells:
        print_table("A shard", list(cells[0]), [list(cell.values()) for cell in cells])
    if args.result:
        write_result(args.result, {"machine": describe_machine(), "runs": cells})
    return 0


if __name__ == "__main__":
    sys.exit(main())
