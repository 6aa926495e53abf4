"""Tests `streamd/runtime/workers/engine_news.py`: what workers do with what the engine process tells."""

from pathlib import Path

import numpy as np

from streamd.core.errors import StorageError
from streamd.core.selection import ForecastSlice, ServerGlobs
from tests.support.process_rig import NAMES, NOW, make_singles, run_processes, send_steps


async def test_readers_of_every_worker_hear_of_forecasts(tmp_path: Path) -> None:
    async with run_processes(tmp_path) as rig:
        await send_steps(rig, NAMES, 0, 1, 2)
        globs, part = ServerGlobs(["*"]), ForecastSlice((0, 1), (0, 1, 2), 1, "float32")
        readers = [worker.service.hub.subscribe(globs, part) for worker in rig.all]
        slots = np.array(sorted(rig.state.directory.slots.values()), np.int64)
        values = np.zeros(rig.state.contract.forecast_shape, np.float32)
        for slot in slots.tolist():
            rig.state.board.post(slot, NOW + 2, 3, b"model", values)
        rig.publisher.publish(slots, 0.0)
        for worker, reader in zip(rig.all, readers, strict=True):
            await reader.wait()
            assert sorted(reader.take(100).tolist()) == slots.tolist()
            assert worker.state.board.last_serial == rig.state.board.last_serial


async def test_readers_get_what_a_killed_engine_process_had_only_posted(tmp_path: Path) -> None:
    async with run_processes(tmp_path) as rig:
        await send_steps(rig, NAMES, 0, 1, 2)
        reader = rig.all[0].service.hub.subscribe(ServerGlobs(["*"]), ForecastSlice((0,), (0,), 1, "float32"))
        slot = rig.state.directory.slots["web-2"]
        rig.state.board.post(slot, NOW + 2, 3, b"model", np.zeros(rig.state.contract.forecast_shape, np.float32))
        rig.stop_engine()
        rig.start_engine(has_workers=True)
        await reader.wait()
        assert reader.take(100).tolist() == [slot]
        assert slot not in rig.service.scheduler.due


async def test_rows_ahead_of_the_clock_are_dropped_by_the_owner(tmp_path: Path) -> None:
    async with run_processes(tmp_path) as rig:
        await send_steps(rig, NAMES, 0, 1, 2, 3)
        slot = rig.state.directory.slots["web-6"]
        generation = rig.state.directory.get_generation(slot)
        rig.rewinder.rewind(slot, NOW + 1)
        await rig.wait_until(lambda: rig.state.windows.get_newest_step(slot) == NOW + 1)
        assert rig.state.directory.get_generation(slot) > generation
        await rig.wait_until(lambda: all(worker.state.directory.slots.get("web-6") == slot for worker in rig.all))


async def test_no_process_acknowledges_rows_while_the_disk_fails(tmp_path: Path) -> None:
    async with run_processes(tmp_path) as rig:
        await send_steps(rig, NAMES, 0)
        rig.engine.refuse_writes(StorageError("the disk is full"))
        await rig.wait_until(lambda: all(worker.state.can_run_short for worker in rig.all))
        errors = await rig.all[0].ingest.singles.take(make_singles(rig, NAMES, 1))
        assert {error.code for error in errors if error is not None} == {"storage"}
        rig.engine.refuse_writes(None)
        await rig.wait_until(lambda: not any(worker.state.can_run_short for worker in rig.all))
        await send_steps(rig, NAMES, 1)
