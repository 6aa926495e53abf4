"""Tests `streamd/cluster/forecasts/shard.py`."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from streamd.cluster.forecasts.shard import ShardState
from streamd.cluster.log import LogMessage
from streamd.core.cluster.chain_entries import FencedError
from streamd.core.cluster.formats import LaterFormatError
from tests.support.forecast_rig import NAMES, ForecastRig, RigNode, RigReader, make_servers, run_forecast_rig

SERVERS = make_servers(0, 3)


async def test_an_owner_forecasts_and_readers_of_all_nodes_get_the_same_numbers(tmp_path: Path) -> None:
    async with run_forecast_rig(tmp_path) as rig:
        owner, other = rig.start("a"), rig.start("b")
        await owner.own(0, 1)
        readers = [await owner.subscribe(), await other.subscribe()]
        await rig.send(SERVERS, 10, 11, 12)
        await rig.wait_forecast(other, SERVERS, 12)
        await rig.wait_until(lambda: all(len(reader.steps) == 3 for reader in readers))
        assert owner.read_board() == other.read_board()
        assert {each.fence for reader in readers for each in reader.got} == {1}
        await rig.check_readers()


async def test_a_follower_forecasts_nothing_until_it_owns_then_the_rows_that_wait(tmp_path: Path) -> None:
    async with run_forecast_rig(tmp_path) as rig:
        node = rig.start("a")
        held = node.follow(0)
        await rig.send(SERVERS, 10, 11)
        await held.wait_caught_up()
        assert not await rig.read_log(0)
        assert held.state is ShardState.FOLLOWING
        await held.own(1)
        await rig.wait_forecast(node, SERVERS, 11)
        assert len(await rig.check_log()) == 3


async def test_a_successor_goes_on_where_a_dead_owner_was(tmp_path: Path) -> None:
    async with run_forecast_rig(tmp_path) as rig:
        owner, heir = rig.start("a"), rig.start("b")
        await owner.own(0, 1)
        await rig.send(SERVERS, 10, 11)
        await rig.wait_forecast(owner, SERVERS, 11)
        board = owner.read_board()
        await rig.kill(owner)
        await rig.send(SERVERS[:1], 12)
        await heir.own(0, 2)
        await rig.wait_forecast(heir, SERVERS[:1], 12)
        assert {name: heir.read_board()[name] for name in SERVERS[1:]} == {name: board[name] for name in SERVERS[1:]}
        assert len(await rig.check_log()) == 4


async def test_a_former_owner_that_does_not_know_it_is_fenced(tmp_path: Path) -> None:
    async with run_forecast_rig(tmp_path) as rig:
        former, heir = rig.start("a"), rig.start("b")
        await former.own(0, 1)
        reader = await former.subscribe()
        await rig.send(SERVERS, 10, 11)
        await rig.wait_forecast(former, SERVERS, 11)
        await heir.own(0, 2)
        await rig.send(SERVERS, 12)
        await rig.wait_forecast(heir, SERVERS, 12)
        await rig.wait_forecast(former, SERVERS, 12)  # by its reader's mirror
        await rig.wait_until(lambda: len(former.failures) == 1)
        assert isinstance(former.failures[0], FencedError)
        assert former.read_board() == heir.read_board()
        await rig.wait_until(lambda: all(steps[-1] == 12 for steps in reader.steps.values()))
        await rig.check_readers()


async def test_what_a_later_release_has_written_ends_an_owner_and_nobody_of_this_release_follows_it(
    tmp_path: Path,
) -> None:
    async with run_forecast_rig(tmp_path) as rig:
        owner, heir = rig.start("a"), rig.start("b")
        await owner.own(0, 1)
        await rig.send(SERVERS, 10, 11)
        await rig.wait_forecast(owner, SERVERS, 11)
        last = (await rig.log.append(NAMES.forecasts(0), b"\x02\x02a marker of a later release")).sequence
        await rig.send(SERVERS, 12)
        await rig.wait_until(lambda: len(owner.failures) == 1)
        assert isinstance(owner.failures[0], LaterFormatError)
        with pytest.raises(LaterFormatError, match=f"streamd_forecasts_0, message {last}: a message of the forecast"):
            await heir.own(0, 2)
        assert rig.made_log.broker.get_stream(NAMES.forecasts_stream(0)).last == last


async def test_both_think_that_they_own(tmp_path: Path) -> None:
    async with run_forecast_rig(tmp_path) as rig:
        first, second = rig.start("a"), rig.start("b")
        await asyncio.gather(first.own(0, 1), second.own(0, 2), return_exceptions=True)
        reader = await rig.start("c").subscribe()
        for step in range(10, 20):
            await rig.send(SERVERS, step)
            await asyncio.sleep(0)
        await rig.wait_until(lambda: [reader.steps.get(name, [0])[-1] for name in SERVERS] == [19] * 3)
        await rig.check_readers()


async def test_a_handover_appends_what_waits(tmp_path: Path) -> None:
    async with run_forecast_rig(tmp_path) as rig:
        owner, heir = rig.start("a"), rig.start("b")
        await owner.own(0, 1)
        await rig.send(SERVERS, 10, 11)
        await rig.wait_forecast(owner, SERVERS, 11)
        await heir.follow(0).wait_caught_up()
        await owner.release(0)
        assert not owner.read_board()  # nobody reads there: the servers' slots are free
        await heir.own(0, 2)
        await rig.send(SERVERS, 12)
        await rig.wait_forecast(heir, SERVERS, 12)
        assert len(await rig.check_log()) == 6


@pytest.mark.parametrize("fault", ["lose_answers", "refuse", "repeat"])
@pytest.mark.parametrize("skip", range(4))
async def test_an_append_with_a_fault_counts_once(tmp_path: Path, fault: str, skip: int) -> None:
    async with run_forecast_rig(tmp_path) as rig:
        owner = rig.start("a")
        reader = await owner.subscribe()
        if skip == 0:
            setattr(owner.made_log, fault, 1)  # the first call of the takeover
        try:
            await owner.own(0, 1)
        except Exception:
            await owner.own(0, 1)
        for step in range(10, 16):
            if step == 11 + skip:
                setattr(owner.made_log, fault, 1)
            await rig.send(SERVERS, step)
        await rig.wait_until(lambda: [reader.steps.get(name, [0])[-1] for name in SERVERS] == [15] * 3)
        await rig.check_readers()
        assert all(steps == sorted(set(steps)) for steps in reader.steps.values())


async def forecast_while_cut_off(rig: ForecastRig, owner: RigNode) -> RigReader:
    """Cut an owner off while its rows are forecast; returns a reader there that has got all."""
    reader = await owner.subscribe()
    owner.backend.script.hold = True
    await rig.send(SERVERS, 10, 11)
    await rig.wait_until(lambda: bool(owner.backend.script.runs))
    owner.made_log.cut()
    owner.backend.release_all()
    await rig.wait_until(lambda: len(reader.got) == 3)
    return reader


async def test_without_the_log_readers_get_forecasts_without_a_fence_which_come_into_it_later(tmp_path: Path) -> None:
    async with run_forecast_rig(tmp_path) as rig:
        owner = rig.start("a")
        held = await owner.own(0, 1)
        reader = await forecast_while_cut_off(rig, owner)
        assert {each.fence for each in reader.got} == {0}
        assert held.publisher.is_away
        owner.made_log.heal()
        await rig.wait_until(lambda: not held.publisher.waiting)
        rows = await rig.check_log()
        assert {(each.server, each.step): each.values for each in reader.got} == rows
        assert [int(owner.forecasts.slots.fences[owner.state.directory.slots[name]]) for name in SERVERS] == [1] * 3
        assert len(reader.got) == 3


async def test_after_a_cut_with_a_successor_the_numbers_of_the_log_hold(tmp_path: Path) -> None:
    async with run_forecast_rig(tmp_path) as rig:
        owner, heir = rig.start("a"), rig.start("b")
        await owner.own(0, 1)
        reader = await forecast_while_cut_off(rig, owner)
        await heir.own(0, 2)
        await rig.wait_forecast(heir, SERVERS, 11)
        owner.made_log.heal()
        await rig.wait_until(lambda: owner.read_board() == heir.read_board())
        await rig.wait_until(lambda: len(owner.failures) == 1)
        await rig.check_readers()
        assert len(reader.got) == 3  # told nothing twice


async def test_a_forgotten_server_is_gone_everywhere_and_may_begin_anew(tmp_path: Path) -> None:
    async with run_forecast_rig(tmp_path) as rig:
        owner, other = rig.start("a"), rig.start("b")
        await owner.own(0, 1)
        await other.subscribe()
        await rig.send(SERVERS, 10, 11)
        await rig.wait_forecast(other, SERVERS, 11)
        await rig.order_forget(SERVERS[0])
        await rig.wait_until(lambda: SERVERS[0] not in other.read_board())
        await rig.send(SERVERS[:1], 5, 6)  # steps that the chain has seen before
        await rig.wait_until(lambda: other.read_board().get(SERVERS[0], (0,))[0] == 6)
        await rig.check_log()


async def test_a_new_owner_reads_the_orders_to_forget_that_the_former_one_has_read(tmp_path: Path) -> None:
    async with run_forecast_rig(tmp_path) as rig:
        owner, heir = rig.start("a"), rig.start("b")
        held = await owner.own(0, 1)
        await rig.send(SERVERS, 10, 11)
        await rig.wait_forecast(owner, SERVERS, 11)
        following = heir.follow(0)
        await following.wait_caught_up()
        may_apply = asyncio.Event()
        apply = following._rows.apply

        async def apply_later(messages: Sequence[LogMessage]) -> None:
            await may_apply.wait()
            await apply(messages)

        following._rows.apply = apply_later  # type: ignore[method-assign]
        following._reading.catch_up = following._follower.loaded.wait  # type: ignore[method-assign, assignment]
        await rig.order_forget(SERVERS[0])  # after it has caught up
        await rig.wait_until(lambda: held._follower.chain.forgot_rows > 0)
        await rig.kill(owner)
        owning = asyncio.create_task(following.own(2))
        await rig.wait_until(lambda: following._follower.chain.fence == 2)
        for _ in range(20):
            await asyncio.sleep(0)
        assert following.state is ShardState.FOLLOWING, "it would forecast rows of before the order"
        may_apply.set()
        await owning
        assert SERVERS[0] not in heir.read_board()
        assert len(await rig.check_log()) == 3


async def test_a_reader_that_comes_while_a_shard_is_closed_keeps_its_forecasts(tmp_path: Path) -> None:
    async with run_forecast_rig(tmp_path) as rig:
        owner = rig.start("a")
        held = await owner.own(0, 1)
        await rig.send(SERVERS, 10, 11)
        await rig.wait_forecast(owner, SERVERS, 11)
        board, pause = owner.read_board(), held._follower.pause

        async def pause_and_get_a_reader() -> None:
            await pause()
            await owner.subscribe()

        held._follower.pause = pause_and_get_a_reader  # type: ignore[method-assign]
        await owner.release(0)
        assert owner.read_board() == board


async def test_a_handover_leaves_no_order_to_forget_that_the_chain_lacks(tmp_path: Path) -> None:
    async with run_forecast_rig(tmp_path) as rig:
        owner = rig.start("a")
        held = await owner.own(0, 1)
        await rig.send(SERVERS, 10, 11)
        await rig.wait_forecast(owner, SERVERS, 11)
        held.note_forgotten(SERVERS[0], 3)
        await owner.release(0)
        assert (await rig.read_log(0))[-1].forgotten == (SERVERS[0],)
