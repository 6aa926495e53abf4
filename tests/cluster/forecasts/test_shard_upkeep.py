"""Tests `streamd/cluster/forecasts/shard_upkeep.py`."""

import asyncio
from pathlib import Path

import pytest

from streamd.cluster.forecasts.shard_upkeep import ShardUpkeep
from streamd.cluster.log import LogAwayError
from streamd.core.cluster.chain_entries import FencedError
from tests.support.forecast_rig import RigNode, make_servers, run_forecast_rig

SERVERS = make_servers(0, 3)


@pytest.fixture(autouse=True)
def works_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the upkeep come without a wait."""
    monkeypatch.setattr("streamd.cluster.forecasts.shard_upkeep.UPKEEP_SECONDS", 0.0)


class MadeSnapshots:
    """Snapshots that are only counted; `errors` are raised before that, one at a time."""

    def __init__(self, *errors: Exception) -> None:
        self.fence = 1
        self.written = 0
        self._errors = list(errors)

    async def load(self) -> None: ...

    async def claim(self, fence: int) -> None: ...

    async def write_due(self, now: float) -> None:
        if self._errors:
            raise self._errors.pop(0)
        self.written += 1


def make_upkeep(node: RigNode, snapshots: MadeSnapshots, orders: list[str]) -> ShardUpkeep:
    held = node.forecasts.shards[0]
    return ShardUpkeep(0, node.service, snapshots, held._follower, lambda: bool(orders), node.forecasts.log_clock)


async def test_no_snapshot_is_written_while_the_chain_lacks_an_order_to_forget(tmp_path: Path) -> None:
    async with run_forecast_rig(tmp_path) as rig:
        node = rig.start("a")
        await node.own(0, 1)
        snapshots, orders = MadeSnapshots(), ["web-1"]
        running = asyncio.create_task(make_upkeep(node, snapshots, orders).run())
        for _ in range(20):
            await asyncio.sleep(0)
        assert snapshots.written == 0, "the next owner would not see the order behind it"
        orders.clear()
        await rig.wait_until(lambda: snapshots.written > 0)
        running.cancel()


async def test_neither_a_log_that_is_away_nor_a_defect_ends_it_and_a_later_owner_does(tmp_path: Path) -> None:
    async with run_forecast_rig(tmp_path) as rig:
        node = rig.start("a")
        await node.own(0, 1)
        snapshots = MadeSnapshots(LogAwayError("away"), ZeroDivisionError("a defect"))
        upkeep = make_upkeep(node, snapshots, [])
        running = asyncio.create_task(upkeep.run())
        await rig.wait_until(lambda: snapshots.written > 0)
        running.cancel()
        with pytest.raises(FencedError):
            await make_upkeep(node, MadeSnapshots(FencedError("a later owner")), []).run()


async def test_steps_of_servers_that_came_and_went_are_dropped(tmp_path: Path) -> None:
    async with run_forecast_rig(tmp_path) as rig:
        node = rig.start("a")
        held = await node.own(0, 1)
        await rig.send(SERVERS, 10, 11)
        await rig.wait_forecast(node, SERVERS, 11)
        chain = held._follower.chain
        chain._steps["gone"] = 11
        make_upkeep(node, MadeSnapshots(), []).drop_gone()
        assert dict(chain.steps) == dict.fromkeys(SERVERS, 11)
