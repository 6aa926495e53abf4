"""Brings what other nodes forecast to the readers of this node: reads the chains of the shards that they want.

A chain is read for a while after its last reader has left, so that one who comes back does not begin anew.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Iterable

import structlog

from streamd.cluster.forecasts.chains import ChainUse, ShardChains
from streamd.cluster.forecasts.forecast_poster import ForecastPoster
from streamd.cluster.lasting_tasks import start_task
from streamd.cluster.shard_slots import ShardSlots
from streamd.core.cluster.shards import find_shard
from streamd.core.selection import ServerGlobs

log = structlog.get_logger(__name__)

PREPARE_SECONDS = 2.0
"""A subscription waits so long for the latest forecasts of other nodes, at most."""

READ_ON_SECONDS = 60.0
"""A chain is read so long after its last reader has left."""

RELEASED_AT_ONCE = 500
"""Slots that are freed in one turn of the event loop."""


class Mirrors:
    """The interest of this node's readers (`ForecastInterest`), by shard."""

    def __init__(
        self,
        shards: int,
        chains: ShardChains,
        slots: ShardSlots,
        poster: ForecastPoster,
        *,
        prepare_seconds: float = PREPARE_SECONDS,
        linger_seconds: float = READ_ON_SECONDS,
    ) -> None:
        self._shards = shards
        self._chains = chains
        self._slots = slots
        self._poster = poster
        self._prepare_seconds = prepare_seconds
        self._linger_seconds = linger_seconds
        self._readers: Counter[int] = Counter()
        self._timers: dict[int, asyncio.TimerHandle] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def add(self, globs: ServerGlobs) -> None:
        """Read the chains of these servers from now on."""
        for shard in self.find_shards(globs):
            self._readers[shard] += 1
            if (timer := self._timers.pop(shard, None)) is not None:
                timer.cancel()
            self._chains.acquire(shard, ChainUse.READERS)

    def remove(self, globs: ServerGlobs) -> None:
        """Note that one reader of these servers has left."""
        for shard in self.find_shards(globs):
            self._readers[shard] -= 1
            if self._readers[shard] <= 0:
                del self._readers[shard]
                loop = asyncio.get_running_loop()
                self._timers[shard] = loop.call_later(self._linger_seconds, self._begin_release, shard)

    async def prepare(self, globs: ServerGlobs) -> None:
        """Return when all that the chains of these servers had is on the board, or after a moment."""
        self.add(globs)
        try:
            async with asyncio.timeout(self._prepare_seconds):
                for shard in self.find_shards(globs):
                    follower = self._chains.find(shard)
                    if follower is not None:
                        await follower.loaded.wait()
        except TimeoutError:
            log.warning("forecasts_of_others_late", servers=list(globs.globs[:3]))
        finally:
            self.remove(globs)

    def find_shards(self, globs: ServerGlobs) -> Iterable[int]:
        """Return the shards that servers of these globs may be in."""
        names = globs.exact_names
        if names is None:
            return range(self._shards)
        return {find_shard(name, self._shards) for name in names}

    def has_forecast(self, server: str) -> bool:
        """Whether the latest forecast of a server is known here: its chain is read, and has one."""
        follower = self._chains.find(find_shard(server, self._shards))
        return follower is not None and follower.loaded.is_set() and self._poster.has_forecast(server)

    @property
    def is_loaded(self) -> bool:
        """Whether all that the chains had which are read for readers is on the board."""
        followers = (self._chains.find(shard) for shard in self._readers)
        return all(follower is not None and follower.loaded.is_set() for follower in followers)

    def list_read(self) -> list[int]:
        """Return the shards with readers here."""
        return sorted(self._readers)

    def _begin_release(self, shard: int) -> None:
        self._timers.pop(shard, None)
        task = start_task(self._release(shard))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _release(self, shard: int) -> None:
        """Read a chain no more, and free the slots of its servers, unless a reader comes or their rows are here."""
        if self._readers[shard]:
            return  # one came before this task had its turn
        await self._chains.release(shard, ChainUse.READERS)
        slots = self._slots.list_slots(shard)
        for begin in range(0, len(slots), RELEASED_AT_ONCE):
            if self._chains.find(shard) is not None:
                return
            some = slots[begin : begin + RELEASED_AT_ONCE]
            self._poster.release_slots(some[self._slots.find(some) == shard])
            await asyncio.sleep(0)

    async def close(self) -> None:
        """Free nothing any more."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        for task in list(self._tasks):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
