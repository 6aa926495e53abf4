"""Tests `streamd/cluster/forecasts/forecasts.py`: nodes, readers and a log with random faults."""

import asyncio
import contextlib
import random
from pathlib import Path

import pytest

from streamd.cluster.log import LogAwayError
from streamd.core.cluster.chain_entries import ChainGapError, FencedError
from tests.support.forecast_rig import ForecastRig, RigNode, make_servers, run_forecast_rig

SERVERS = make_servers(0, 3)
SEEDS = range(12)
ACTIONS = 30


class FaultSchedule:
    """Random owners, faults and rows of one shard over two nodes."""

    def __init__(self, rig: ForecastRig, seed: int) -> None:
        self.rig = rig
        self.random = random.Random(seed)
        self.fence = 0
        self.step = 10
        self.nodes = [rig.start("a"), rig.start("b")]
        self.claims: list[asyncio.Task[None]] = []
        self.locks = {node.name: asyncio.Lock() for node in self.nodes}

    async def act(self) -> None:
        """Do something."""
        node = self.random.choice(self.nodes)
        log = node.made_log
        match self.random.randrange(10):
            case 0:
                log.cut()
            case 1 | 2:
                log.heal()
            case 3:
                self.claims.append(asyncio.create_task(self._claim(node)))
            case 4:
                log.lose_answers = self.random.randrange(3)
            case 5:
                log.repeat = 1
            case 6:
                log.hold_requests = True
                self._release_soon(node)
            case _:
                self.step += self.random.randrange(2)
                await self.rig.send(self.random.sample(SERVERS, self.random.randrange(1, 4)), self.step)
        for _ in range(self.random.randrange(40)):
            await asyncio.sleep(0)

    def _release_soon(self, node: RigNode) -> None:
        def release() -> None:
            if self.random.random() < 0.5:
                node.made_log.time_out_held()
            node.made_log.release()

        asyncio.get_running_loop().call_later(self.random.uniform(0.0, 0.02), release)

    async def _claim(self, node: RigNode) -> None:
        """Own by the next fence, as after a lease was taken; a lost claim is another's."""
        self.fence += 1
        fence = self.fence
        async with self.locks[node.name]:  # a node does one thing with a shard after the other
            held = node.forecasts.shards.get(0)
            if held is not None and held.is_owning:
                await node.release(0, leaves=self.random.random() < 0.5)
            with contextlib.suppress(FencedError, ChainGapError, LogAwayError):
                await node.own(0, fence)

    async def end(self) -> RigNode:
        """End all faults; one node owns the shard."""
        for node in self.nodes:
            node.made_log.lose_answers = node.made_log.repeat = 0
            node.made_log.release()
            node.made_log.heal()
        await asyncio.gather(*self.claims)
        for node in self.nodes:
            if 0 in node.forecasts.shards:
                await node.release(0, leaves=False)
        self.fence += 1
        await self.nodes[0].own(0, self.fence)
        return self.nodes[0]


@pytest.mark.parametrize("seed", SEEDS)
async def test_whatever_happens_the_log_has_one_forecast_a_row_and_readers_get_its_numbers(
    tmp_path: Path, seed: int
) -> None:
    async with run_forecast_rig(tmp_path) as rig:
        schedule = FaultSchedule(rig, seed)
        readers = [await node.subscribe() for node in schedule.nodes]
        for _ in range(ACTIONS):
            await schedule.act()
        owner = await schedule.end()
        await rig.send(SERVERS, schedule.step + 1, schedule.step + 2)
        await rig.wait_forecast(owner, SERVERS, schedule.step + 2)
        await rig.wait_until(lambda: len({repr(sorted(node.read_board().items())) for node in schedule.nodes}) == 1)
        await rig.wait_until(
            lambda: all(reader.steps.get(name, [0])[-1] == schedule.step + 2 for reader in readers for name in SERVERS)
        )
        await rig.check_readers()


async def test_a_reader_that_changes_nodes_misses_nothing(tmp_path: Path) -> None:
    async with run_forecast_rig(tmp_path) as rig:
        owner, other = rig.start("a"), rig.start("b")
        await owner.own(0, 1)
        first = await owner.subscribe()
        await rig.send(SERVERS, 10, 11)
        await rig.wait_until(lambda: len(first.got) == 3)
        since = first.last_id
        await first.close()
        await rig.send(SERVERS, 12)
        await rig.wait_forecast(owner, SERVERS, 12)
        second = await other.subscribe(since=since)
        await rig.wait_until(lambda: all(second.steps.get(name, [0])[-1] == 12 for name in SERVERS))
        await rig.check_readers()


async def test_a_reader_that_has_all_gets_nothing_old_at_another_node(tmp_path: Path) -> None:
    async with run_forecast_rig(tmp_path) as rig:
        owner, other = rig.start("a"), rig.start("b")
        await owner.own(0, 1)
        rig.made_log.broker.now -= 60.0
        await rig.send(SERVERS, 10, 11)
        await rig.wait_forecast(owner, SERVERS, 11)
        rig.made_log.broker.now += 60.0
        reader = await other.subscribe(since=int((rig.made_log.broker.now - 5.0) * 1e6))
        await rig.send(SERVERS[:1], 12)
        await rig.wait_until(lambda: bool(reader.got))
        assert reader.steps == {SERVERS[0]: [12]}
