"""Tests `streamd/cluster/forecasts/chain_purger.py`: a log that is full takes forecasts again."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streamd.cluster.log import LogAwayError, LogFullError
from tests.support.contracts import make_contract
from tests.support.forecast_rig import NAMES, ForecastRig, RigNode, make_forecast_rows, make_servers, run_forecast_rig
from tests.support.made_broker import MadeStream

SERVERS = make_servers(0, 3)

FORECAST_BYTES = 4 * int(np.prod(make_contract().forecast_shape)) + 80


@pytest.fixture(autouse=True)
def records_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let records come without a wait. Where the log has no limit, the chain is too short to be trimmed."""
    monkeypatch.setattr("streamd.cluster.forecasts.step_recorder.RECORD_SECONDS", 0.0)


@pytest.fixture
def small_messages(records_at_once: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each forecast be a message, and records come by the growth of the chain alone."""
    monkeypatch.setattr("streamd.cluster.forecasts.forecast_publisher.MAX_BATCH_BYTES", FORECAST_BYTES)
    monkeypatch.setattr("streamd.cluster.forecasts.step_recorder.RECORD_SECONDS", 1e6)


def find_chain(rig: ForecastRig) -> MadeStream:
    return rig.made_log.broker.get_stream(NAMES.forecasts_stream(0))


async def read_newest(rig: ForecastRig) -> dict[str, int]:
    """Return the newest step of each server of which the log has a forecast."""
    batches = await rig.read_log(0)
    return {name: step for batch in batches for name, step in zip(batch.servers, batch.steps.tolist(), strict=True)}


async def offer(rig: ForecastRig, owner: RigNode, servers: Sequence[str], step: int) -> None:
    """Have forecasts of a step appended."""
    publisher = owner.forecasts.shards[0].publisher
    publisher.offer(make_forecast_rows(owner, servers, step))
    await rig.wait_until(lambda: not publisher.waiting)


async def refuse_purge(*given: Any, **options: Any) -> None:
    raise LogAwayError("no answer")


def limit_chain(rig: ForecastRig, forecasts: float) -> MadeStream:
    """Let the log take the bytes of so many forecasts, as the nodes that start from now on know; returns the chain."""
    chain, limit = find_chain(rig), int(forecasts * FORECAST_BYTES)
    chain.plan = replace(chain.plan, max_bytes=limit)
    rig.max_chain_bytes = limit
    return chain


async def forecast_steps(
    rig: ForecastRig, owner: RigNode, first: int, end: int, servers: Sequence[str] = SERVERS
) -> None:
    for step in range(first, end):
        await rig.send(servers, step)
        await rig.wait_forecast(owner, servers, step)
    await rig.wait_until(lambda: not any(held.publisher.waiting for held in owner.forecasts.shards.values()))


async def test_forecasts_go_on_in_a_log_that_was_full(tmp_path: Path) -> None:
    async with run_forecast_rig(tmp_path) as rig:
        owner = rig.start("a")
        held = await owner.own(0, 1)
        await rig.send(SERVERS, 10)
        await forecast_steps(rig, owner, 11, 31)
        chain = find_chain(rig)
        chain.plan = replace(chain.plan, max_bytes=chain.bytes)
        await forecast_steps(rig, owner, 31, 61)
        assert chain.bytes <= chain.plan.max_bytes
        assert chain.first > 1
        assert not held.publisher.is_away
        board = owner.read_board()
        await rig.kill(owner)
        heir = rig.start("b")
        await heir.own(0, 2)
        await rig.wait_until(lambda: heir.read_board() == board)


async def test_a_chain_is_shortened_before_its_log_is_full(tmp_path: Path) -> None:
    """Also if a server is silent, whose forecast has to be moved: for that the log must take something."""
    async with run_forecast_rig(tmp_path) as rig:
        chain = limit_chain(rig, 40)
        owner = rig.start("a")
        held = await owner.own(0, 1)
        await rig.send(SERVERS, 10)
        await forecast_steps(rig, owner, 11, 13)
        for step in range(13, 113):
            await rig.send(SERVERS[1:], step)
            await rig.wait_forecast(owner, SERVERS[1:], step)
        await rig.wait_until(lambda: not held.publisher.waiting)
        assert held.publisher.counts.local == 0
        assert held.publisher.counts.kept > 0
        assert chain.bytes <= chain.plan.max_bytes
        board = owner.read_board()
        await rig.kill(owner)
        heir = rig.start("b")
        await heir.own(0, 2)
        await rig.wait_until(lambda: heir.read_board() == board)
        assert set(board) == set(SERVERS)


async def test_a_shard_is_owned_again_though_the_log_is_full(tmp_path: Path) -> None:
    async with run_forecast_rig(tmp_path) as rig:
        owner = rig.start("a")
        await owner.own(0, 1)
        await rig.send(SERVERS, 10)
        await forecast_steps(rig, owner, 11, 31)
        board = owner.read_board()
        await rig.kill(owner)
        chain = find_chain(rig)
        chain.plan = replace(chain.plan, max_bytes=chain.bytes)
        heir = rig.start("b")
        with pytest.raises(LogFullError):
            await heir.own(0, 2)
        await heir.own(0, 2)
        assert heir.read_board() == board
        await forecast_steps(rig, heir, 31, 41)
        assert chain.bytes <= chain.plan.max_bytes


@pytest.mark.usefixtures("small_messages")
async def test_what_is_moved_fits_beside_what_it_is_moved_from(tmp_path: Path) -> None:
    """Most servers are silent, and of two versions, whose forecasts are moved in another order than they came."""
    servers = make_servers(0, 64)
    async with run_forecast_rig(tmp_path) as rig:
        chain = limit_chain(rig, 64 / 0.45)
        owner = rig.start("a")
        held = await owner.own(0, 1)
        await rig.send(servers, 10)
        await held.wait_caught_up()
        models = ["one", *["other"] * 3, *["one"] * 60]
        for step in range(11, 30):
            for server, model in zip(servers, models, strict=True):
                if step == 11 or server in servers[56:]:
                    held.offer(replace(make_forecast_rows(owner, [server], step), model=model))
            await rig.wait_until(lambda: not held.publisher.waiting)
        assert held.publisher.counts.local == 0
        assert held.publisher.counts.kept > 0
        assert chain.bytes <= chain.plan.max_bytes
        assert await read_newest(rig) == {server: 11 if server in servers[:56] else 29 for server in servers}


@pytest.mark.parametrize("has_followed", [False, True])
@pytest.mark.parametrize("is_full", [False, True])
async def test_an_heir_removes_what_a_former_owner_could_not(
    tmp_path: Path, *, has_followed: bool, is_full: bool
) -> None:
    """Who only reads the chain believes that its owner has removed what is too long."""
    async with run_forecast_rig(tmp_path) as rig:
        limit = 40 * FORECAST_BYTES
        chain = find_chain(rig)
        rig.max_chain_bytes = limit
        owner, heir = rig.start("a"), rig.start("b")
        await owner.own(0, 1)
        owner.made_log.purge = refuse_purge  # type: ignore[method-assign]
        if has_followed:
            await heir.follow(0).wait_caught_up()
        await rig.send(SERVERS, 10)
        step = 10
        while chain.bytes < limit - 4 * FORECAST_BYTES:
            step += 1
            await forecast_steps(rig, owner, step, step + 1)
        board = owner.read_board()
        await rig.kill(owner)
        if is_full:
            chain.plan = replace(chain.plan, max_bytes=chain.bytes)
            with pytest.raises(LogFullError):
                await heir.own(0, 2)
        await heir.own(0, 2)
        follower = heir.forecasts.chains.find(0)
        assert follower is not None
        assert follower.retention.bytes >= chain.bytes
        await rig.wait_until(lambda: heir.read_board() == board)
        await forecast_steps(rig, heir, step + 1, step + 20)
        assert not is_full or chain.bytes <= chain.plan.max_bytes


@pytest.mark.usefixtures("small_messages")
@pytest.mark.parametrize(
    ("limit", "later_limit", "filled", "can_purge"),
    [(80, 40, 56, True), (80, 80, 62, False), (80, 80, 76, False)],
    ids=["a lower limit", "no purge", "no purge, nearly full"],
)
async def test_an_heir_of_a_chain_that_is_too_long_goes_on(
    tmp_path: Path, *, limit: int, later_limit: int, filled: int, can_purge: bool
) -> None:
    """NATS keeps a former limit until the chain is shorter, and the heir does not know what was not removed."""
    servers = make_servers(0, 20 if can_purge else 40)
    async with run_forecast_rig(tmp_path) as rig:
        chain = limit_chain(rig, limit)
        owner = rig.start("a")
        held = await owner.own(0, 1)
        if not can_purge:
            owner.made_log.purge = refuse_purge  # type: ignore[method-assign]
        await rig.send(servers, 10)
        await held.wait_caught_up()
        step = 11
        await offer(rig, owner, servers, step)
        while chain.bytes < filled * FORECAST_BYTES:
            step += 1
            await offer(rig, owner, servers[:3], step)
        await rig.kill(owner)
        rig.max_chain_bytes = later_limit * FORECAST_BYTES
        heir = rig.start("b")
        held = await heir.own(0, 2)
        for later in range(step + 1, step + 101):
            await offer(rig, heir, servers[:3], later)
        assert held.publisher.counts.local == 0
        assert chain.bytes <= 0.8 * later_limit * FORECAST_BYTES
        assert await read_newest(rig) == dict.fromkeys(servers[:3], step + 100) | dict.fromkeys(servers[3:], 11)


@pytest.mark.usefixtures("small_messages")
async def test_a_forecast_that_was_removed_keeps_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After an outage newer forecasts wait: those that they replace are not moved, and are gone."""
    servers = make_servers(0, 20)
    async with run_forecast_rig(tmp_path) as rig:
        chain = limit_chain(rig, 80)
        owner = rig.start("a")
        held = await owner.own(0, 1)
        await rig.send(servers, 10)
        await forecast_steps(rig, owner, 11, 12, servers)
        step = 11
        while chain.bytes < 0.7 * chain.plan.max_bytes:
            step += 1
            await forecast_steps(rig, owner, step, step + 1, servers[:1])
        known, append, is_held_back = held._follower.chain, owner.log.append, []

        async def look_and_append(*given: Any, **options: Any) -> Any:
            is_held_back.append(known.superseded_below < chain.first)
            return await append(*given, **options)

        monkeypatch.setattr(owner.log, "append", look_and_append)
        owner.made_log.cut()
        held.offer(make_forecast_rows(owner, servers, step + 1))
        await rig.wait_until(lambda: held.publisher.counts.local >= 20)
        owner.made_log.heal()
        await rig.wait_until(lambda: not held.publisher.waiting)
        await forecast_steps(rig, owner, step + 2, step + 20, servers[:1])
        assert chain.first > len(servers)
        assert not any(is_held_back)
        assert await read_newest(rig) == {servers[0]: step + 19} | dict.fromkeys(servers[1:], step + 1)


async def test_the_newest_forecasts_stay_in_a_log_that_is_full(tmp_path: Path) -> None:
    """Nothing can be removed then: readers of this node get forecasts without a fence, and are told so."""
    async with run_forecast_rig(tmp_path) as rig:
        owner = rig.start("a")
        held = await owner.own(0, 1)
        await rig.send(SERVERS, 10)
        await forecast_steps(rig, owner, 11, 12)
        chain = find_chain(rig)
        kept = dict(chain.messages)
        chain.plan = replace(chain.plan, max_bytes=0)
        await rig.send(SERVERS[:1], 12)
        await rig.wait_until(lambda: held.publisher.is_away)
        await rig.wait_forecast(owner, SERVERS[:1], 12)
        assert chain.messages == kept
        chain.plan = replace(chain.plan, max_bytes=-1)
        await rig.wait_until(lambda: not held.publisher.waiting)
        assert len(await rig.check_log()) == 4
