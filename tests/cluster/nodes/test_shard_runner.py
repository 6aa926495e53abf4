"""Tests `streamd/cluster/nodes/shard_runner.py`: a shard that never comes to be loaded is given up."""

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from streamd.cluster.nodes.load_turns import LoadTurns
from streamd.cluster.nodes.shard_runner import ShardRunner
from streamd.core.cluster.formats import LaterFormatError
from streamd.core.cluster.lease_actions import Activate, Lease, Prepare
from streamd.core.cluster.shards import ClusterNames
from tests.support.made_log import make_memory_log

NAMES = ClusterNames("test")


class MadeShard:
    """A shard that reads `steps` more messages, one in each moment, and then is loaded or stands still."""

    def __init__(self, steps: int, *, is_loaded_then: bool) -> None:
        self.is_closed = False
        self._steps = steps
        self._read = 0
        self._is_loaded_then = is_loaded_then

    async def follow(self) -> None:
        await asyncio.Event().wait()

    async def wait_caught_up(self) -> None:
        for _ in range(self._steps):
            await asyncio.sleep(0.02)
            self._read += 1
        if not self._is_loaded_then:
            await asyncio.Event().wait()

    async def own(self, fence: int) -> None:
        await self.wait_caught_up()

    async def leave(self) -> None:
        """Nothing to append."""

    async def close(self) -> None:
        self.is_closed = True

    def describe(self) -> Mapping[str, Any]:
        return {"rows_sequence": self._read, "chain_sequence": 0}


class MadeOutcomes:
    def __init__(self) -> None:
        self.found: list[str] = []

    def took(self, shard: int, revision: int | None) -> None:
        self.found.append("took")

    def prepared(self, shard: int) -> None:
        self.found.append("prepared")

    def released(self, shard: int, revision: int | None) -> None:
        self.found.append("released")

    def failed(self, shard: int) -> None:
        self.found.append("failed")

    async def ask_handover(self, shard: int, holder: str) -> None:
        """Ask nobody."""


async def run(held: MadeShard, action: Activate | Prepare) -> list[str]:
    """Do an action; returns its outcomes."""
    outcomes = MadeOutcomes()
    leases = make_memory_log(NAMES, 1).table(NAMES.bucket("leases"))
    runner = ShardRunner(0, lambda shard: held, leases, Lease("a", 1), outcomes, LoadTurns(), stuck_seconds=0.1)
    runner.do(action)
    async with asyncio.timeout(5.0):
        while not runner.is_idle:
            await asyncio.sleep(0.005)
    await runner.close()
    return outcomes.found


async def test_a_shard_that_stands_still_while_it_is_to_be_owned_is_given_up() -> None:
    held = MadeShard(3, is_loaded_then=False)
    assert await run(held, Activate(0, 7)) == ["failed"]
    assert held.is_closed


async def test_a_shard_that_stands_still_while_it_is_prepared_is_given_up() -> None:
    held = MadeShard(0, is_loaded_then=False)
    assert await run(held, Prepare(0)) == ["failed"]
    assert held.is_closed


async def test_a_shard_that_loads_for_long_is_waited_for() -> None:
    assert await run(MadeShard(25, is_loaded_then=True), Prepare(0)) == ["prepared"]
    assert await run(MadeShard(25, is_loaded_then=True), Activate(0, 7)) == []


async def test_why_a_shard_cannot_be_owned_is_known_until_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    held = MadeShard(0, is_loaded_then=True)
    leases = make_memory_log(NAMES, 1).table(NAMES.bucket("leases"))
    runner = ShardRunner(0, lambda shard: held, leases, Lease("a", 1), MadeOutcomes(), LoadTurns())

    async def own() -> None:
        runner.do(Activate(0, 1))
        async with asyncio.timeout(5.0):
            while not runner.is_idle:
                await asyncio.sleep(0)

    async def refuse(fence: int) -> None:
        raise LaterFormatError("message 3 is of format 2")

    with monkeypatch.context() as patch:
        patch.setattr(held, "own", refuse)
        await own()
        assert (runner.failure, runner.has_later_format) == ("message 3 is of format 2", True)
    await own()
    assert (runner.failure, runner.has_later_format) == ("", False)
    await runner.close()
