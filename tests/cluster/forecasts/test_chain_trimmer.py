"""Tests `streamd/cluster/forecasts/chain_trimmer.py`."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.forecast_rig import (
    NAMES,
    ForecastRig,
    RigNode,
    make_forecast_rows,
    make_servers,
    run_forecast_rig,
)

BUSY, SILENT = make_servers(0, 2)


@pytest.fixture(autouse=True)
def trims_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let records and the look at the chain's length come without a wait, and a short chain be too long."""
    monkeypatch.setattr("streamd.cluster.forecasts.step_recorder.RECORD_SECONDS", 0.0)
    monkeypatch.setattr("streamd.cluster.forecasts.chain_trimmer.TRIM_SECONDS", 0.0)
    monkeypatch.setattr("streamd.core.cluster.chain_retention.MIN_BYTES", 0)
    monkeypatch.setattr("streamd.core.cluster.chain_retention.MIN_AGE_SECONDS", -1.0)


async def forecast_long(rig: ForecastRig, owner: RigNode) -> None:
    """Forecast one server once, and another one often."""
    await rig.send([BUSY, SILENT], 10, 11)
    await rig.wait_forecast(owner, [BUSY, SILENT], 11)
    for step in range(12, 32):
        await rig.send([BUSY], step)
        await rig.wait_forecast(owner, [BUSY], step)


async def test_a_chain_stays_short_and_keeps_the_forecast_of_a_silent_server(tmp_path: Path) -> None:
    async with run_forecast_rig(tmp_path) as rig:
        owner = rig.start("a")
        await owner.own(0, 1)
        await forecast_long(rig, owner)
        await rig.wait_until(lambda: owner.forecasts.counts.kept > 0)
        board = owner.read_board()
        stream = rig.made_log.broker.get_stream(NAMES.forecasts_stream(0))
        await rig.wait_until(lambda: stream.state.messages < 8 + 12)
        await rig.kill(owner)
        heir = rig.start("b")
        await heir.own(0, 2)
        await rig.wait_until(lambda: heir.read_board() == board)
        slots = heir.state.directory.slots
        assert [int(heir.forecasts.slots.fences[slots[name]]) for name in (BUSY, SILENT)] == [1, 1]
        await rig.check_log()


async def test_a_chain_stays_short_under_a_load_that_never_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then more waits at each moment: nothing is put off until nothing does."""
    async with run_forecast_rig(tmp_path) as rig:
        owner = rig.start("a")
        held = await owner.own(0, 1)
        await rig.send([BUSY], 10, 11)
        await rig.wait_forecast(owner, [BUSY], 11)
        rows = make_forecast_rows(owner, [BUSY], 11)
        append, lengths, step = owner.log.append, [], 12

        async def append_while_more_comes(subject: str, *given: Any, **options: Any) -> Any:
            nonlocal step
            if subject == NAMES.forecasts(0) and step < 60:
                step += 1
                held.offer(replace(rows, steps=np.array([step])))
                lengths.append(rig.made_log.broker.get_stream(NAMES.forecasts_stream(0)).state.messages)
            return await append(subject, *given, **options)

        monkeypatch.setattr(owner.log, "append", append_while_more_comes)
        held.offer(replace(rows, steps=np.array([12])))
        await rig.wait_until(lambda: step == 60 and not held.publisher.waiting)
        assert len(lengths) >= 40
        assert max(lengths) < 8 + 12


async def test_nobody_takes_a_kept_forecast_for_a_new_one(tmp_path: Path) -> None:
    async with run_forecast_rig(tmp_path) as rig:
        owner, other = rig.start("a"), rig.start("b")
        await owner.own(0, 1)
        readers = [await owner.subscribe(), await other.subscribe()]
        await forecast_long(rig, owner)
        await rig.wait_until(lambda: owner.forecasts.counts.kept > 0)
        await rig.send([SILENT], 12)
        await rig.wait_until(lambda: all(reader.steps[SILENT][-1] == 12 for reader in readers))
        for reader in readers:
            assert reader.steps[SILENT] == [11, 12]
        values = [{(each.server, each.step): each.values for each in reader.got} for reader in readers]
        assert values[0].items() >= values[1].items()


async def test_a_reader_that_comes_later_goes_on_behind_its_id(tmp_path: Path) -> None:
    """A kept forecast has the serial that it was posted with, so who has it does not get it again."""
    async with run_forecast_rig(tmp_path) as rig:
        owner = rig.start("a")
        await owner.own(0, 1)
        first = await owner.subscribe()
        await forecast_long(rig, owner)
        await rig.wait_until(lambda: owner.forecasts.counts.kept > 0)
        slot = owner.state.directory.slots[SILENT]
        serial = owner.state.board.get_serial(slot)
        other = rig.start("b")
        await other.subscribe()
        assert other.state.board.get_serial(other.state.directory.slots[SILENT]) == serial
        assert first.steps[SILENT] == [11]
