"""Tests `streamd/runtime/workers/singles.py` and `row_taker.py`: usual samples as rows, whoever owns their servers."""

import asyncio
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from streamd.core.access.caller import ANYBODY, Caller
from streamd.core.access.scopes import Scope
from streamd.core.errors import StorageError, StreamdError, UnavailableError
from streamd.core.state.samples import CellSample
from streamd.runtime.state.opening import open_state
from streamd.runtime.wiring import build_service
from streamd.runtime.workers import row_taker
from tests.support.contracts import make_contract
from tests.support.process_rig import LIMITS, NAMES, WINDOWS, ProcessRig, RigWorker, at, make_singles, run_processes
from tests.support.state_files import rows_of


async def begin(worker: RigWorker, samples: Sequence[CellSample[Any]], caller: Caller = ANYBODY) -> Any:
    """Take samples as rows; returns the outcome, or `None` if they are not usual."""
    outcome: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    if not worker.ingest.singles.begin(samples, caller, outcome.set_result):
        return None
    assert worker.ingest.load == 1, "a drain waits for it"
    found = await outcome
    assert worker.ingest.load == 0
    return found


async def settle(rig: ProcessRig) -> None:
    """Let every worker know of all servers."""
    await rig.wait_until(lambda: all(len(worker.state.directory.slots) == len(NAMES) for worker in rig.all))


def describe(errors: Sequence[StreamdError | None]) -> list[str]:
    """Return the texts of errors; the row that was the newest then may be one of the same batch."""
    return [re.sub("ends at [0-9]+", "ends", str(error)) for error in errors if error is not None]


@pytest.mark.parametrize("together", [1, 1_000], ids=["at once", "one by one"])
async def test_windows_and_errors_are_those_of_one_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, together: int
) -> None:
    monkeypatch.setattr(row_taker, "MIN_ROWS_TOGETHER", together)
    pick = random.Random(together)
    service = build_service(open_state(tmp_path / "alone", make_contract(), WINDOWS, 0.0), "model", {}, LIMITS)
    async with run_processes(tmp_path / "together") as rig:
        cells = rig.service.ingest.rows.cells_type
        first = make_singles(rig, NAMES, 0)
        await rig.all[0].ingest.singles.take(first)
        for sample in first:  # a new server is much work, and `take_few` stops early
            assert service.ingest.take_few([sample]) == [None]
        await settle(rig)
        begun = 0
        for turn in range(60):
            samples = [
                CellSample(
                    pick.choice(NAMES),
                    at(turn // 2 + pick.choice([0, 0, 0, 0, 1, -1, -6])),
                    cells(1.0, pick.choice([2.0, None, float(turn)]), float(turn)),
                    pick.choice([None, None, None, 3]),
                )
                for _ in range(pick.randrange(1, 9))
            ]
            expected = service.ingest.take_few(samples)
            found = await begin(rig.all[turn % 3], samples)
            begun += found is not None
            if found is None:
                found = await rig.all[turn % 3].ingest.singles.take(samples)
            assert describe(found) == describe(expected)
            assert not found or [error is None for error in found] == [error is None for error in expected]
        assert begun == 60, "all of them are usual until they are too old"
        for name in NAMES:
            assert rows_of(rig.state, name) == rows_of(service.state, name)
        accepted = sum(worker.service.ingest.accepted for worker in rig.all)
        assert accepted == service.ingest.accepted
        assert sum(worker.service.ingest.rejected.get("too_old", 0) for worker in rig.all) == (
            service.ingest.rejected.get("too_old", 0)
        )
        due = len(service.scheduler.due)
        await rig.wait_until(lambda: len(rig.service.scheduler.due) == due)
    service.close()


async def test_unusual_samples_are_not_begun(tmp_path: Path) -> None:
    async with run_processes(tmp_path) as rig:
        worker, (sample, *_) = rig.all[0], make_singles(rig, NAMES, 0)
        cells = rig.service.ingest.rows.cells_type
        assert await begin(worker, [sample]) is None, "its server is new"
        await worker.ingest.singles.take(make_singles(rig, NAMES, 0))
        await settle(rig)
        assert await begin(worker, [sample]) == []
        for time, values in ((-1.0, cells(1.0)), (1e300, cells(1.0)), (at(1), cells(1e300)), (at(1), cells())):
            assert await begin(worker, [sample, CellSample(sample.server, time, values)]) is None
        limited = Caller("limited", {Scope.INGEST: ("web-1",)})
        assert await begin(worker, make_singles(rig, NAMES, 1), limited) is None
        worker.ingest.is_draining = True
        assert await begin(worker, [sample]) is None


async def test_a_row_whose_slot_has_another_server_is_taken_by_its_name(tmp_path: Path) -> None:
    async with run_processes(tmp_path) as rig:
        await rig.all[0].ingest.singles.take(make_singles(rig, NAMES, 0))
        await settle(rig)
        samples = make_singles(rig, NAMES, 1)
        outcome: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        assert rig.all[0].ingest.singles.begin(samples, ANYBODY, outcome.set_result)
        for worker in rig.all:  # they are told that the engine process wants to forget the servers, which then stay
            for name in NAMES[:5]:
                worker.followed.release(worker.state.directory.slots[name])
        assert await outcome == []
        for name in NAMES:
            assert len(rows_of(rig.state, name)) == 2


async def test_all_rows_are_rejected_while_nothing_can_be_written(tmp_path: Path) -> None:
    async with run_processes(tmp_path) as rig:
        await rig.all[0].ingest.singles.take(make_singles(rig, NAMES, 0))
        await settle(rig)
        for worker in rig.all:
            worker.state.refuse_writes(StorageError("the disk is full"))
        errors = await begin(rig.all[0], make_singles(rig, NAMES, 1))
        assert [error.code for error in errors] == [StorageError.code] * len(NAMES)
        for worker in rig.all:
            worker.state.refuse_writes(None)
        assert await begin(rig.all[0], make_singles(rig, NAMES, 1)) == []


async def test_rows_for_a_worker_that_has_ended_are_refused_at_once(tmp_path: Path) -> None:
    async with run_processes(tmp_path) as rig:
        await rig.all[0].ingest.singles.take(make_singles(rig, NAMES, 0))
        await settle(rig)
        rig.stop_worker(1)
        assert isinstance(await begin(rig.all[0], make_singles(rig, NAMES, 1)), UnavailableError)
        await rig.start_worker(1)
        found: StreamdError | list[Any] | None = None
        for _ in range(200):
            found = await begin(rig.all[0], make_singles(rig, NAMES, 1))
            if found == []:
                break
            await asyncio.sleep(0.01)
        assert found == []
        for name in NAMES:
            assert len(rows_of(rig.state, name)) == 2
