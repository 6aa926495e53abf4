"""The newest origin of each server that a reader has, by which it knows after a reconnect what it has twice or lacks.

Pure.
"""

from collections.abc import Sequence
from itertools import islice

MAX_SEEN_SERVERS = 1_000_000
"""Servers that are remembered; beyond that, the one that was met first is dropped."""


class SeenOrigins:
    """The origins that a reader has seen, and those that it has not seen again since it came back."""

    def __init__(self, step_seconds: float, max_servers: int = MAX_SEEN_SERVERS) -> None:
        self.step_seconds = step_seconds
        self._max_servers = max_servers
        self._seen: dict[str, float] = {}
        self._before: dict[str, float] = {}

    def note_return(self) -> None:
        """Note that the reader was away: the next forecast of each server may be one that it has."""
        self._before |= self._seen
        self._seen = {}
        for server in list(islice(self._before, max(len(self._before) - self._max_servers, 0))):
            del self._before[server]

    def note(self, server: str, origin: float) -> int | None:
        """Note a forecast; returns how many steps were passed while the reader was away.

        It missed at most so many forecasts of this server: a step may have had none. `None` if it has this forecast
        already. An older origin is a new forecast: the server was forgotten, or its rows begin again.
        """
        before = self._before.pop(server, None) if self._before else None
        self._seen[server] = origin
        if before is None:
            if len(self._seen) > self._max_servers:
                del self._seen[next(iter(self._seen))]
            return 0
        if before == origin:
            return None
        return max(round((origin - before) / self.step_seconds) - 1, 0)

    def note_many(self, servers: Sequence[str], origins: Sequence[float]) -> tuple[int, list[int]]:
        """Note forecasts; returns the sum of the passed steps, and the places of those that the reader has already."""
        if not self._before and len(self._seen) + len(servers) <= self._max_servers:
            self._seen.update(zip(servers, origins, strict=True))
            return 0, []
        passed = [self.note(server, origin) for server, origin in zip(servers, origins, strict=True)]
        return sum(filter(None, passed)), [place for place, steps in enumerate(passed) if steps is None]
