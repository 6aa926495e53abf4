"""Fixtures over real sockets: `daemon` has the defaults, `start` starts one with other settings, `connect` a peer."""

from collections.abc import AsyncIterator, Awaitable, Callable
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
