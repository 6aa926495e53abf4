"""Tests `streamd/server/access/opening.py`: a process that listens beyond this machine needs tokens or a client CA."""

import pytest

from streamd.core.errors import ConfigError
from streamd.server.access.opening import open_protected_access
from streamd.server.config import Config
from streamd.server.listening import ListenAddress

pytestmark = pytest.mark.asyncio


async def test_it_is_open_on_loopback_and_refused_beyond_it() -> None:
    access = await open_protected_access(Config(), [ListenAddress("127.0.0.1", 8002)])
    assert access.access.is_open
    with pytest.raises(ConfigError, match="every caller would be served"):
        await open_protected_access(Config(), [ListenAddress("192.0.2.1", 8002)])
