"""Fixtures over real sockets: `daemon`, a `relay` before it, and a `client` that reaches it through the relay."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from streamd.client import Client, retries
from tests.support.http_harness import HttpDaemon, HttpDaemonSettings, run_http_daemon
from tests.support.relay import Relay, open_relay


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the next attempt follow at once; `test_retries.py` tests the pauses."""
    monkeypatch.setattr(retries, "FIRST_PAUSE_SECONDS", 0.0)


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[HttpDaemon]:
    async with run_http_daemon(tmp_path / "state", HttpDaemonSettings()) as daemon:
        yield daemon


@pytest.fixture
async def relay(daemon: HttpDaemon) -> AsyncIterator[Relay]:
    async with open_relay(daemon.port) as relay:
        yield relay


@pytest.fixture
async def client(relay: Relay) -> AsyncIterator[Client]:
    async with Client(relay.url) as client:
        yield client
