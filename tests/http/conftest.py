"""Fixtures with daemons over real sockets: `daemon` has the defaults, `start` starts one with other settings."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.support.http_harness import HttpDaemon, HttpDaemonSettings, run_http_daemon

Start = Callable[[HttpDaemonSettings], Awaitable[HttpDaemon]]


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
