"""Fixtures over real sockets: `daemon` has the defaults, `start` starts one with other settings, `connect` a peer.

`path` is that of a socket between processes.
"""

import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.support.http_harness import HttpDaemon, HttpDaemonSettings, run_http_daemon
from tests.support.raw_peers import RawPeer

Start = Callable[[HttpDaemonSettings], Awaitable[HttpDaemon]]
Connect = Callable[[HttpDaemon], Awaitable[RawPeer]]


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    async with AsyncExitStack() as stack:
        count = 0

        async def start_one(setup: HttpDaemonSettings) -> HttpDaemon:
            nonlocal count
            count += 1
            return await stack.enter_async_context(run_http_daemon(tmp_path / f"state-{count}", setup))

        yield start_one


@pytest.fixture
async def daemon(start: Start) -> HttpDaemon:
    return await start(HttpDaemonSettings())


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    async with AsyncExitStack() as stack:

        async def connect_one(daemon: HttpDaemon) -> RawPeer:
            peer = RawPeer()
            stack.callback(peer.close)
            await peer.connect(daemon.port)
            return peer

        yield connect_one


@pytest.fixture
def path() -> Iterator[str]:
    """The path of a socket, which must be short."""
    with tempfile.TemporaryDirectory(prefix="sd") as folder:
        yield str(Path(folder) / "engine.sock")
