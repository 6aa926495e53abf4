"""Tests `streamd/server/cluster/fleet_view.py`: all forecasts are here while somebody looks, and for a while after."""

import asyncio
from typing import Any, cast

from streamd.core.selection import ServerGlobs
from streamd.server.cluster.fleet_view import FLEET_LINGER_SECONDS, WholeFleet
from tests.support.virtual_time import run_in_virtual_time


class NotedMirrors:
    """Mirrors that count the readers of all servers."""

    def __init__(self) -> None:
        self.readers = 0
        self.prepared = 0

    def add(self, globs: ServerGlobs) -> None:
        assert globs.is_all
        self.readers += 1

    def remove(self, globs: ServerGlobs) -> None:
        assert globs.is_all
        self.readers -= 1

    async def prepare(self, globs: ServerGlobs) -> None:
        assert self.readers == 1, "what is prepared must stay"
        self.prepared += 1


def test_what_is_shown_stays_for_a_while_after_the_last_look() -> None:
    async def run() -> None:
        mirrors, looking = NotedMirrors(), [0]
        fleet = WholeFleet(cast(Any, mirrors), lambda: looking[0])
        await fleet.show_all()
        await asyncio.sleep(FLEET_LINGER_SECONDS / 2)
        await fleet.show_all()
        assert (mirrors.readers, mirrors.prepared) == (1, 2)
        await asyncio.sleep(FLEET_LINGER_SECONDS * 0.9)
        assert mirrors.readers == 1
        looking[0] = 1
        await asyncio.sleep(FLEET_LINGER_SECONDS * 5)
        assert mirrors.readers == 1, "somebody looks"
        looking[0] = 0
        await asyncio.sleep(FLEET_LINGER_SECONDS * 2)
        assert mirrors.readers == 0
        await fleet.show_all()
        assert mirrors.readers == 1
        fleet.close()

    run_in_virtual_time(run())
