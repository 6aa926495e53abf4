"""Opens the access of a process that listens, or refuses to serve everybody there."""

from collections.abc import Iterable

from streamd.server.access.control import AccessControl, open_access
from streamd.server.access.exposure import require_protection
from streamd.server.config import Config, read_admin_token
from streamd.server.disk import run_disk_work
from streamd.server.listening import ListenAddress


async def open_protected_access(config: Config, addresses: Iterable[ListenAddress]) -> AccessControl:
    """Read tokens and certificates in a thread, so that signals work while a file system hangs.

    Raises `ConfigError` if a file cannot be used, or if callers of other machines reach an address without either.
    """
    access = await run_disk_work(
        "the tokens and certificates",
        config.engine.read_timeout_seconds,
        lambda: open_access(config.access, read_admin_token(config)),
    )
    require_protection(addresses, config.access, has_tokens=not access.access.is_open)
    return access
