"""The fixture `daemon`: a daemon over real sockets, as the HTTP tests have it."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.http_harness import Running, Setup, running


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Running]:
    async with running(tmp_path / "state", Setup()) as found:
        yield found
