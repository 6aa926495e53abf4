"""Tests `streamd/runtime/workers/worker_gate.py`: a worker that starts while others start and end."""

import asyncio
from pathlib import Path

from streamd.runtime.workers.mail import Mail
from streamd.runtime.workers.messages import Removed, encode_message
from streamd.runtime.workers.worker_gate import WorkerGate
from tests.support.process_rig import NAMES, run_processes, send_steps


async def test_what_was_told_to_the_former_process_is_not_heard(tmp_path: Path) -> None:
    async with run_processes(tmp_path) as rig:
        await send_steps(rig, NAMES, 0)
        slot = rig.state.directory.slots["web-1"]
        run = rig.all[0].run
        rig.stop_worker(0)
        mail = Mail(rig.block, 0, rig.bells)
        gate = WorkerGate(mail, rig.block.engine, run + 1)
        opening = asyncio.ensure_future(gate.open())
        await asyncio.sleep(0)
        gate._handle(rig.block.engine, encode_message(Removed(slot)))
        await opening
        assert gate._early == []
        gate.close()


async def test_an_engine_process_that_starts_while_a_worker_does_is_followed(tmp_path: Path) -> None:
    async with run_processes(tmp_path) as rig:
        await send_steps(rig, NAMES, 0)
        rig.stop_worker(1)
        late = await rig.start_worker(1)
        rig.stop_engine()
        rig.start_engine(has_workers=True)
        await rig.wait_until(lambda: late.gate.is_engine_up)
        await send_steps(rig, [*NAMES, "one-more"], 1)
        await rig.wait_until(lambda: "one-more" in late.state.directory.slots)


async def test_the_end_of_a_former_engine_process_that_is_heard_of_late_changes_nothing(tmp_path: Path) -> None:
    async with run_processes(tmp_path) as rig:
        former = rig.run
        rig.engine.close()
        rig.service.close()
        rig.start_engine(has_workers=True)
        await send_steps(rig, ["one-more"], 0)
        await rig.wait_until(lambda: all("one-more" in worker.state.directory.slots for worker in rig.all))
        for worker in rig.all:
            worker.gate.lose(rig.block.engine, former)
        assert all(worker.gate.is_engine_up for worker in rig.all)
