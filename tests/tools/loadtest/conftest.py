"""The fixture `daemon`: a daemon over real sockets, as the HTTP tests have it."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.http_harness import HttpDaemon, HttpDaemonSettings, run_http_daemon


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[HttpDaemon]:
    async with run_http_daemon(tmp_path / "state", HttpDaemonSettings()) as found:
        yield found
