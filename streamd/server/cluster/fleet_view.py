"""The forecasts of all servers at this node while somebody looks at the whole fleet."""

import asyncio
from collections.abc import Callable

from streamd.cluster.forecasts.mirrors import Mirrors
from streamd.core.selection import ServerGlobs

FLEET_LINGER_SECONDS = 30.0
"""All chains are read for so long after somebody looked last."""

ALL = ServerGlobs(("*",))


class WholeFleet:
    """Reads the chains of all shards on demand; `count_readers` returns the number of those who look."""

    def __init__(self, mirrors: Mirrors, count_readers: Callable[[], int]) -> None:
        self._mirrors = mirrors
        self._count_readers = count_readers
        self._timer: asyncio.TimerHandle | None = None

    async def show_all(self) -> None:
        """Return when the latest forecasts of all servers are here, or after a moment, and keep them for a while."""
        if self._timer is None:
            self._mirrors.add(ALL)
        self._wait()
        await self._mirrors.prepare(ALL)

    def _wait(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(FLEET_LINGER_SECONDS, self._check)

    def _check(self) -> None:
        if self._count_readers():
            self._wait()
            return
        self._timer = None
        self._mirrors.remove(ALL)

    def close(self) -> None:
        """Stop reading: no caller looks any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
