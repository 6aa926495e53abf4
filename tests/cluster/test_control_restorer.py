"""Tests `streamd/cluster/control_restorer.py`: what operators have set outlives the table `control`."""

import asyncio
from collections.abc import Awaitable, Callable

from streamd.cluster.control_restorer import ControlRestorer
from streamd.cluster.log import Entry, SharedTable
from streamd.cluster.meta import META_KEY
from streamd.cluster.nodes.operator_requests import DRAIN_KEY, REBALANCE_KEY
from streamd.cluster.versions.version_plans import PLAN_KEY
from tests.support.made_log import MemoryLog
from tests.support.virtual_time import run_in_virtual_time

BUCKET = "streamd_control"
SET = {
    META_KEY: b"meta",
    PLAN_KEY: b"plan",
    f"{DRAIN_KEY}.a": b"{}",
    "silence.1": b"silence",
    "node.a": b"1",
    REBALANCE_KEY: b"{}",
}
LASTING = (META_KEY, PLAN_KEY, f"{DRAIN_KEY}.a", "silence.1")


class TwoNodes:
    """The logs of two nodes that know the table, and what the first one was told of its keys."""

    def __init__(self) -> None:
        self.log = MemoryLog()
        self.log.broker.make_bucket(BUCKET)
        self.other = self.log.connect()
        self.told: list[tuple[str, bytes | None]] = []

    @property
    def control(self) -> SharedTable:
        return self.log.table(BUCKET)

    async def set_keys(self) -> None:
        for key, value in SET.items():
            await self.control.put(key, value)

    async def watch(self) -> None:
        def see(key: str, entry: Entry | None) -> None:
            self.told.append((key, None if entry is None else entry.value))

        await self.control.watch(see)
        self.told.clear()

    async def read(self) -> dict[str, bytes]:
        return {key: entry.value for key, entry in (await self.control.read_all()).items()}


def with_nodes(test: Callable[[TwoNodes], Awaitable[None]]) -> None:
    """Run a test in virtual time, with the keys set and restorers at both nodes."""

    async def run() -> None:
        nodes = TwoNodes()
        restorers = [ControlRestorer(log.table(BUCKET)) for log in (nodes.log, nodes.other)]
        for restorer in restorers:
            restorer.start()
        await nodes.set_keys()
        await nodes.watch()
        await test(nodes)
        for restorer in restorers:
            await restorer.close()
        await nodes.log.close()
        await nodes.other.close()

    run_in_virtual_time(run())


def test_what_operators_have_set_is_put_back_and_the_rest_is_not() -> None:
    async def test(nodes: TwoNodes) -> None:
        nodes.log.make_bucket_anew(BUCKET)
        await asyncio.sleep(1)
        assert await nodes.read() == {key: SET[key] for key in LASTING}

    with_nodes(test)


def test_drains_and_silences_hold_meanwhile() -> None:
    async def test(nodes: TwoNodes) -> None:
        nodes.log.make_bucket_anew(BUCKET)
        await asyncio.sleep(1)
        gone = {key for key, value in nodes.told if value is None}
        assert gone == {META_KEY, PLAN_KEY, "node.a", REBALANCE_KEY}
        assert (PLAN_KEY, b"plan") in nodes.told, "its new revision is told"

    with_nodes(test)


def test_what_nodes_that_start_wait_for_comes_last() -> None:
    async def test(nodes: TwoNodes) -> None:
        nodes.log.make_bucket_anew(BUCKET)
        while META_KEY not in (found := await nodes.read()):
            await asyncio.sleep(0)
        assert set(found) == set(LASTING)

    with_nodes(test)


def test_what_is_there_already_stays() -> None:
    async def test(nodes: TwoNodes) -> None:
        nodes.log.hold_requests = nodes.other.hold_requests = True
        nodes.log.make_bucket_anew(BUCKET)
        await asyncio.sleep(0.01)
        await nodes.log.connect().table(BUCKET).put(PLAN_KEY, b"newer")
        nodes.log.release()
        nodes.other.release()
        await asyncio.sleep(1)
        assert (await nodes.read())[PLAN_KEY] == b"newer"

    with_nodes(test)


def test_it_is_put_back_also_after_the_log_was_away_or_the_table_was_lost_again() -> None:
    async def test(nodes: TwoNodes) -> None:
        nodes.other.cut()
        nodes.log.refuse = 3
        nodes.log.make_bucket_anew(BUCKET)
        await asyncio.sleep(2)
        assert await nodes.read() == {key: SET[key] for key in LASTING}
        nodes.log.make_bucket_anew(BUCKET)
        await asyncio.sleep(2)
        assert await nodes.read() == {key: SET[key] for key in LASTING}

    with_nodes(test)
