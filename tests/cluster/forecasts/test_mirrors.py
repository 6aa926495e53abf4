"""Tests `streamd/cluster/forecasts/mirrors.py`."""

import asyncio
from pathlib import Path

from streamd.cluster.forecasts.chains import ChainUse
from streamd.cluster.forecasts.forecasts import ForecastTimes
from streamd.core.selection import ServerGlobs
from tests.support.forecast_rig import ForecastRig, RigNode, make_servers, run_forecast_rig

HERE, ELSEWHERE = make_servers(0, 2), make_servers(1, 2)
QUICK = ForecastTimes(local_seconds=0.05, prepare_seconds=0.05, linger_seconds=0.0)


async def own_both(rig: ForecastRig, owner: RigNode) -> None:
    for shard in (0, 1):
        await owner.own(shard, 1)
    await rig.send([*HERE, *ELSEWHERE], 10, 11)
    await rig.wait_forecast(owner, [*HERE, *ELSEWHERE], 11)


async def test_a_reader_of_names_brings_only_their_shards(tmp_path: Path) -> None:
    async with run_forecast_rig(tmp_path) as rig:
        owner, other = rig.start("a"), rig.start("b")
        await own_both(rig, owner)
        reader = await other.subscribe(HERE[0])
        assert other.forecasts.mirrors.list_read() == [0]
        await rig.send([*HERE, *ELSEWHERE], 12)
        await rig.wait_forecast(other, HERE, 12)
        assert set(other.read_board()) == set(HERE)
        assert reader.steps == {HERE[0]: [12]}


async def test_a_reader_of_globs_brings_all_and_finds_the_board_filled(tmp_path: Path) -> None:
    async with run_forecast_rig(tmp_path) as rig:
        owner, other = rig.start("a"), rig.start("b")
        await own_both(rig, owner)
        await other.subscribe("web-*")
        assert other.read_board() == owner.read_board()
        assert not other.service.pipeline.scheduler.due  # nothing of it is forecast here


async def test_a_forecast_is_known_where_its_chain_is_read(tmp_path: Path) -> None:
    async with run_forecast_rig(tmp_path) as rig:
        owner, other = rig.start("a"), rig.start("b")
        await own_both(rig, owner)
        assert not other.forecasts.mirrors.has_forecast(HERE[0])
        await other.subscribe(HERE[0])
        assert other.forecasts.mirrors.is_loaded
        known = [name for name in (*HERE, *ELSEWHERE, "nobody") if other.forecasts.mirrors.has_forecast(name)]
        assert known == list(HERE)


async def test_a_reader_that_comes_while_a_chain_is_being_left_keeps_it(tmp_path: Path) -> None:
    async with run_forecast_rig(tmp_path, times=QUICK) as rig:
        node = rig.start("a")
        mirrors, chosen = node.forecasts.mirrors, ServerGlobs(HERE)
        mirrors.add(chosen)
        mirrors._begin_release(0)  # its turn comes behind that of the reader
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert node.forecasts.chains.is_used(0, ChainUse.READERS)


async def test_without_readers_the_slots_are_free_after_a_while(tmp_path: Path) -> None:
    async with run_forecast_rig(tmp_path, times=QUICK) as rig:
        owner, other = rig.start("a"), rig.start("b")
        await own_both(rig, owner)
        mirrors = other.forecasts.mirrors
        chosen = ServerGlobs(["*"])
        mirrors.add(chosen)
        await rig.wait_forecast(other, [*HERE, *ELSEWHERE], 11)
        mirrors.remove(chosen)
        await rig.wait_until(lambda: not other.state.directory.slots)
        assert other.forecasts.chains.find(0) is None
        mirrors.add(chosen)
        await rig.wait_forecast(other, [*HERE, *ELSEWHERE], 11)


async def test_a_reader_that_comes_back_in_time_begins_nothing_anew(tmp_path: Path) -> None:
    async with run_forecast_rig(tmp_path) as rig:
        owner, other = rig.start("a"), rig.start("b")
        await own_both(rig, owner)
        reader = await other.subscribe(HERE[0])
        follower = other.forecasts.chains.find(0)
        await reader.close()
        await other.subscribe(HERE[0])
        assert other.forecasts.chains.find(0) is follower


async def test_an_own_shard_stays_when_its_readers_leave(tmp_path: Path) -> None:
    async with run_forecast_rig(tmp_path, times=QUICK) as rig:
        owner = rig.start("a")
        await own_both(rig, owner)
        mirrors, chosen = owner.forecasts.mirrors, ServerGlobs(HERE)
        mirrors.add(chosen)
        mirrors.remove(chosen)
        await rig.wait_until(lambda: not owner.forecasts.chains.is_used(0, ChainUse.READERS))
        await rig.send(HERE, 12)
        await rig.wait_forecast(owner, HERE, 12)


async def test_readers_do_not_wait_for_ever_for_a_log_that_is_away(tmp_path: Path) -> None:
    async with run_forecast_rig(tmp_path, times=QUICK) as rig:
        node = rig.start("a")
        rig.made_log.broker.set_away(True)
        reader = await node.subscribe()
        assert not reader.got
        rig.made_log.broker.set_away(False)


async def test_servers_that_find_no_slot_are_counted(tmp_path: Path) -> None:
    async with run_forecast_rig(tmp_path) as rig:
        owner, other = rig.start("a"), rig.start("b")
        await own_both(rig, owner)
        for number in range(rig.windows.capacity):
            other.service.admission.admit(f"other-{number}", 2e9)
        await other.subscribe()
        await rig.wait_until(lambda: other.forecasts.poster.refused == 4)
