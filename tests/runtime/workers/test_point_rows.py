"""Tests `streamd/runtime/workers/point_rows.py`: rows made of points, written by the owners of their servers."""

import asyncio
from pathlib import Path

import pytest

from streamd.core.errors import TooOldError
from streamd.core.state.rows import RowReader
from streamd.runtime.workers.ownership import find_owning_worker
from tests.support.process_rig import NAMES, NOW, run_processes, send_steps
from tests.support.state_files import rows_of, whole


async def test_rows_of_points_are_written_by_the_owner(tmp_path: Path) -> None:
    async with run_processes(tmp_path) as rig:
        await send_steps(rig, NAMES, 0)
        slot, row = rig.state.directory.slots["web-5"], RowReader(rig.state.contract.features).read_row(whole(7.0))
        assert rig.point_rows.write_row(slot, NOW + 1, row) == 0
        await rig.wait_until(lambda: NOW + 1 in rows_of(rig.state, "web-5"))
        with pytest.raises(TooOldError):
            rig.point_rows.write_row(slot, NOW - 20, row)


async def test_rows_of_points_wait_for_a_worker_that_is_restarted(tmp_path: Path) -> None:
    async with run_processes(tmp_path) as rig:
        await send_steps(rig, NAMES, 0)
        name = next(name for name in NAMES if find_owning_worker(name, 3) == 2)
        rig.stop_worker(2)
        row = RowReader(rig.state.contract.features).read_row(whole(7.0))
        rig.point_rows.write_row(rig.state.directory.slots[name], NOW + 1, row, 3)
        await asyncio.sleep(0.01)
        assert NOW + 1 not in rows_of(rig.state, name)
        await rig.start_worker(2)
        await rig.wait_until(lambda: NOW + 1 in rows_of(rig.state, name))
