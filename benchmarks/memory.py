"""The memory of a server in the daemon: resident bytes, by kind, with a full window and one forecast.

Mapped bytes belong to the page cache: the kernel may write them out under pressure. Not measured: subscribers.
"""

import asyncio

import aiohttp

from benchmarks.harness import running_daemon
from benchmarks.throughput import SERVERS, Client

ROWS = 290


async def measure() -> dict[str, float]:
    """Measure the bytes for each server: heap, mapped files, and both together."""
    async with running_daemon(max_servers=SERVERS) as daemon, aiohttp.ClientSession() as session:
        client = Client(session, daemon)
        before = daemon.read_memory_bytes()
        await client.prefill(ROWS)
        after = daemon.read_memory_bytes()
    figures = {kind: (after[kind] - before[kind]) / SERVERS for kind in after}
    return {**figures, "total": sum(figures.values())}


if __name__ == "__main__":
    print(asyncio.run(measure()))
