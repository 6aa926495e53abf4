"""Bytes of memory a server costs the daemon: resident, by kind, with full windows and a forecast each.

Mapped bytes are the page cache's: the kernel may write them out under pressure. Not measured: subscribers.
"""

import asyncio

import aiohttp

from benchmarks.harness import running_daemon
from benchmarks.throughput import SERVERS, Client

ROWS = 290


async def measure() -> dict[str, float]:
    """Return bytes a server: heap, mapped files, together."""
    async with running_daemon(max_servers=SERVERS) as daemon, aiohttp.ClientSession() as session:
        client = Client(session, daemon)
        before = daemon.memory_bytes()
        await client.prefill(ROWS)
        after = daemon.memory_bytes()
    figures = {kind: (after[kind] - before[kind]) / SERVERS for kind in after}
    return {**figures, "total": sum(figures.values())}


if __name__ == "__main__":
    print(asyncio.run(measure()))
