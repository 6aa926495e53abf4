"""Tests `streamd/cluster/forecasts/chain_follower.py`."""

from pathlib import Path

import pytest

from streamd.cluster.forecasts.chain_follower import ChainFollower
from streamd.core.cluster.chain_entries import ChainGapError
from tests.support.forecast_rig import NAMES, ForecastRig, RigNode, make_servers, run_forecast_rig
from tests.support.made_broker import MadeStream

SERVERS = make_servers(0, 2)


async def start_two(rig: ForecastRig) -> tuple[RigNode, RigNode]:
    """Start an owner of a shard, and a node with a reader."""
    owner, other = rig.start("a"), rig.start("b")
    await owner.own(0, 1)
    await other.subscribe()
    await rig.send(SERVERS, 10, 11)
    await rig.wait_forecast(other, SERVERS, 11)
    return owner, other


async def test_a_message_that_cannot_be_read_is_counted_and_nothing_else_is_lost(tmp_path: Path) -> None:
    async with run_forecast_rig(tmp_path) as rig:
        owner, other = await start_two(rig)
        for data in (b"", b"\x01\x01rubbish", b"\x09\x01", b"\x01\x00"):
            await rig.log.append(NAMES.forecasts(0), data)
        await rig.send(SERVERS, 12)
        await rig.wait_forecast(other, SERVERS, 12)
        assert owner.read_board() == other.read_board()
        follower = other.forecasts.chains.find(0)
        assert follower is not None
        assert follower.unreadable == 4


async def lose_a_part(rig: ForecastRig, other: RigNode) -> ChainFollower:
    """Remove a part of the chain that is in no record, before another node has read it."""
    other.made_log.cut()
    chain = rig.made_log.broker.get_stream(NAMES.forecasts_stream(0))
    await rig.send(SERVERS, 12)
    await rig.wait_until(lambda: chain.last >= 4)
    await rig.log.purge(NAMES.forecasts_stream(0), NAMES.forecasts(0), below=chain.last + 1)
    other.made_log.heal()
    await rig.send(SERVERS, 13)
    await rig.wait_forecast(other, SERVERS, 13)
    follower = other.forecasts.chains.find(0)
    assert follower is not None
    return follower


async def test_a_reader_that_fell_behind_what_was_removed_goes_on(tmp_path: Path) -> None:
    async with run_forecast_rig(tmp_path) as rig:
        owner, other = await start_two(rig)
        follower = await lose_a_part(rig, other)
        assert follower.reloads == 0
        assert not follower.chain.is_whole
        assert other.read_board() == owner.read_board()


async def test_a_chain_of_which_a_part_is_unknown_is_not_owned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamd.cluster.forecasts.chain_follower.READ_AGAIN_SECONDS", 0.0)
    async with run_forecast_rig(tmp_path) as rig:
        owner, other = await start_two(rig)
        follower = await lose_a_part(rig, other)
        await rig.kill(owner)
        last = rig.made_log.broker.get_stream(NAMES.forecasts_stream(0)).last
        held = other.follow(0)
        with pytest.raises(ChainGapError, match="parts were removed"):
            await held.own(2)
        assert follower.incomplete == 1
        assert rig.made_log.broker.get_stream(NAMES.forecasts_stream(0)).last == last, "no marker"


async def test_records_make_a_chain_whole_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with run_forecast_rig(tmp_path) as rig:
        owner, other = await start_two(rig)
        follower = await lose_a_part(rig, other)
        monkeypatch.setattr("streamd.cluster.forecasts.step_recorder.RECORD_SECONDS", 0.0)
        await rig.send(SERVERS, 14)
        await rig.wait_until(lambda: follower.chain.is_whole)
        await rig.kill(owner)
        await other.own(0, 2)
        assert dict(follower.chain.steps) == dict.fromkeys(SERVERS, 14)
        assert follower.reloads == 0


async def test_a_reader_goes_on_with_a_chain_that_was_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamd.cluster.forecasts.chain_follower.READ_AGAIN_SECONDS", 0.0)
    async with run_forecast_rig(tmp_path) as rig:
        owner, other = await start_two(rig)
        for step in (12, 13):
            await rig.send(SERVERS, step)
            await rig.wait_forecast(other, SERVERS, step)
        await rig.kill(owner)
        broker, stream = rig.made_log.broker, NAMES.forecasts_stream(0)
        broker.streams[stream] = MadeStream(broker.streams[stream].plan)
        broker.wake()
        heir = rig.start("c")
        await heir.own(0, 2)
        await rig.send(SERVERS, 14)
        await rig.wait_forecast(other, SERVERS, 14)
        follower = other.forecasts.chains.find(0)
        assert follower is not None
        assert dict(follower.chain.steps) == dict.fromkeys(SERVERS, 14)
