"""Tests `streamd/cluster/forecasts/step_recorder.py`."""

from pathlib import Path
from typing import Any

import pytest

from streamd.core.cluster.chain_retention import RECORDS_A_CHAIN
from streamd.core.cluster.shards import STEP_PARTS
from tests.support.forecast_rig import NAMES, make_servers, run_forecast_rig
from tests.support.recorded_posts import listen_to_posts

SERVERS = make_servers(0, 3)


async def test_a_short_chain_gets_records_seldom(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("streamd.cluster.forecasts.step_recorder.RECORD_SECONDS", 0.001)
    monkeypatch.setattr("streamd.cluster.forecasts.step_recorder.QUIET_SHARE", 10**9)
    async with run_forecast_rig(tmp_path) as rig:
        node = rig.start("a")
        await node.own(0, 1)
        for step in range(10, 16):
            await rig.send(SERVERS, step)
            if step > 10:  # one row is too few
                await rig.wait_forecast(node, SERVERS, step)
        parts = [NAMES.steps(0, part) for part in range(STEP_PARTS)]
        records = [await rig.log.read_last(NAMES.forecasts_stream(0), part) for part in parts]
        assert sum(record is not None for record in records) <= 1


async def test_a_chain_of_which_the_log_takes_little_gets_records_by_its_growth(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamd.cluster.forecasts.step_recorder.RECORD_SECONDS", 1e6)
    async with run_forecast_rig(tmp_path) as rig:
        rig.max_chain_bytes = 2**20
        node = rig.start("a")
        await node.own(0, 1)
        follower = node.forecasts.chains.find(0)
        assert follower is not None
        step = 10
        await rig.send(SERVERS, step)
        while not follower.chain.purge_below:
            step += 1
            await rig.send(SERVERS, step)
            await rig.wait_forecast(node, SERVERS, step)
        assert follower.retention.noted_bytes <= 2**20 * (STEP_PARTS + 2) / RECORDS_A_CHAIN


async def test_records_let_the_chain_be_shortened(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("streamd.cluster.forecasts.step_recorder.RECORD_SECONDS", 0.0)
    async with run_forecast_rig(tmp_path) as rig:
        node = rig.start("a")
        held = await node.own(0, 1)
        for step in range(10, 16):
            await rig.send(SERVERS, step)
        await rig.wait_forecast(node, SERVERS, 15)
        follower = node.forecasts.chains.find(0)
        assert follower is not None
        await rig.wait_until(lambda: follower.chain.purge_below > 0)
        await rig.log.purge(NAMES.forecasts_stream(0), NAMES.forecasts(0), below=follower.chain.purge_below)
        await rig.kill(node)
        heir = rig.start("b")
        recorded = listen_to_posts(heir)
        await heir.own(0, 2)
        chain = heir.forecasts.chains.find(0)
        assert chain is not None
        assert dict(chain.chain.steps) == dict.fromkeys(SERVERS, 15)
        await rig.send(SERVERS, 16)
        await rig.wait_forecast(heir, SERVERS, 16)
        assert {step for _, step in recorded.heard} == {16}  # no row is forecast again
        assert held.publisher.counts.messages > 8
