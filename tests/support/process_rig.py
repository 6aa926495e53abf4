"""The processes of one daemon on one loop: the engine's gate and some workers' over real rings, doorbells and files."""

import asyncio
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from streamd.core.contract import ModelContract
from streamd.core.state.samples import CellSample
from streamd.runtime.process_links import ProcessLinks
from streamd.runtime.service import Service, ServiceLimits
from streamd.runtime.state.opening import SharedArrays, open_shared_state, open_state
from streamd.runtime.state.state import State, WindowLimits
from streamd.runtime.wiring import build_service, make_empty_deployment
from streamd.runtime.workers.block import SharedBlock, make_block
from streamd.runtime.workers.doorbell import Doorbell, make_doorbell
from streamd.runtime.workers.engine_gate import EngineGate
from streamd.runtime.workers.followed import FollowedServers
from streamd.runtime.workers.mail import Mail
from streamd.runtime.workers.ownership import find_owning_worker
from streamd.runtime.workers.taking import WorkerIngest
from streamd.runtime.workers.worker_gate import WorkerGate
from streamd.server.workers.memory import COLUMNS
from tests.support.contracts import make_contract

WINDOWS = WindowLimits(capacity=12, need=3, late_steps=4, grace_seconds=10.0)
NAMES = [f"web-{number}" for number in range(10)]
NOW = int(time.time()) // 300
"""The present step."""
LIMITS = ServiceLimits(max_ahead_seconds=1e9, evict_after_seconds=0.0)


class LateGiver:
    """Gives slots by the ingest of a worker, which is made later."""

    def __init__(self) -> None:
        self.ingest: WorkerIngest | None = None

    def admit(self, name: str, now_wall: float, silent_since: float = 0.0) -> tuple[int, str | None]:
        assert self.ingest is not None
        return self.ingest.admit(name, now_wall, silent_since)


class RigWorker:
    """One worker."""

    def __init__(self, rig: "ProcessRig", number: int) -> None:
        self.number = number
        self.run = rig.count_start(number)
        self.gate = WorkerGate(Mail(rig.block, number, rig.bells), rig.block.engine, self.run)
        self._rig = rig

    async def start(self) -> "RigWorker":
        rig = self._rig
        await self.gate.open()
        self.state: State = open_shared_state(rig.folder, rig.contract, WINDOWS, SharedArrays(rig.block.arrays, True))
        self.followed = FollowedServers(self.state, self.number, rig.workers)
        self.followed.read_all()
        giver = LateGiver()
        links = ProcessLinks(
            due_router=self.gate.due, slot_giver=giver, rewinder=self.gate, received=rig.block.arrays["received"]
        )
        self.service: Service = build_service(self.state, "model", {}, LIMITS, links=links)
        self.gate.on_serving = lambda model: self.service.pipeline.switch(make_empty_deployment(model))
        self.gate.serve(self.service, self.followed)
        self.ingest = giver.ingest = WorkerIngest(
            self.gate, self.service.ingest, rig.workers, self.state.contract.features
        )
        self.gate.take_handed_on = self.ingest.take_handed_on
        return self

    def close(self) -> None:
        self.gate.close()
        self.service.close()


class ProcessRig:
    """An engine process and its workers."""

    def __init__(self, folder: Path, workers: int, contract: ModelContract) -> None:
        self.folder = folder
        self.contract = contract
        self.workers = workers
        self.descriptor = make_block(COLUMNS, WINDOWS.capacity, workers)
        self.bells = [Doorbell(make_doorbell()) for _ in range(workers + 1)]
        self.block = SharedBlock(self.descriptor, COLUMNS, WINDOWS.capacity, workers)
        self.all: list[RigWorker] = []
        self._starts: Counter[int] = Counter()
        self.start_engine(has_workers=False)

    def start_engine(self, *, has_workers: bool) -> None:
        number = self.block.engine
        self.run = self.count_start(number)
        runs = {worker.number: worker.run for worker in self.all} if has_workers else None
        self.engine = EngineGate(self.block, Mail(self.block, number, self.bells), self.run, runs)
        links = self.engine.links
        assert links.row_writer is not None
        assert links.publisher is not None
        assert links.rewinder is not None
        self.point_rows, self.publisher, self.rewinder = links.row_writer, links.publisher, links.rewinder
        shared = SharedArrays(self.block.arrays, in_use=has_workers)
        self.state = open_state(self.folder, self.contract, WINDOWS, 0.0, shared)
        self.service = build_service(self.state, "model", {}, LIMITS, links=self.engine.links)
        self.engine.open(self.service)
        self.service.restore()

    def count_start(self, number: int) -> int:
        """Return the number of starts of a process before this one."""
        self._starts[number] += 1
        return self._starts[number] - 1

    def stop_engine(self) -> None:
        """End the engine process, and let the workers know."""
        self.engine.close()
        self.service.close()
        for worker in self.all:
            worker.gate.lose(self.block.engine, self.run)

    async def start_worker(self, number: int) -> RigWorker:
        worker = await RigWorker(self, number).start()
        if number < len(self.all):
            self.all[number] = worker
        else:
            self.all.append(worker)
        return worker

    def stop_worker(self, number: int) -> None:
        """End a worker, and let the others know."""
        self.all[number].close()
        run = self.all[number].run
        self.engine.lose(number, run)
        for worker in self.all:
            if worker.number != number:
                worker.gate.lose(number, run)

    async def wait_until(self, condition: Callable[[], bool], turns: int = 5_000) -> None:
        """Let the loop turn until a condition holds."""
        for _ in range(turns):
            if condition():
                return
            await asyncio.sleep(0.001)
        raise AssertionError("it does not come about")


@asynccontextmanager
async def run_processes(
    folder: Path, workers: int = 3, contract: ModelContract | None = None
) -> AsyncIterator[ProcessRig]:
    """Run the processes of a daemon; all workers are there."""
    rig = ProcessRig(folder, workers, contract or make_contract())
    for number in range(workers):
        await rig.start_worker(number)
    await rig.wait_until(lambda: not any(worker.gate.away for worker in rig.all))
    try:
        yield rig
    finally:
        for worker in rig.all:
            worker.close()
        rig.engine.close()
        rig.service.close()
        for bell in rig.bells:
            os.close(bell.descriptor)
        os.close(rig.descriptor)


def at(step: int) -> float:
    """Return a time in a step, counted from the present one."""
    return (NOW + step) * 300.0 + 1


def make_singles(rig: ProcessRig, names: Sequence[str], step: int) -> list[CellSample[Any]]:
    """Make a whole row of each server, as frames of one sample have them."""
    cells = rig.service.ingest.rows.cells_type
    return [CellSample(name, at(step), cells(1.0, 2.0, float(step))) for name in names]


def find_owner_of(rig: ProcessRig, name: str) -> RigWorker:
    """Return the worker that owns a server."""
    return rig.all[find_owning_worker(name, rig.workers)]


async def send_steps(rig: ProcessRig, names: Sequence[str], *steps: int) -> None:
    """Send a whole row of each server for each step, to the first worker, which accepts all."""
    for step in steps:
        assert await rig.all[0].ingest.singles.take(make_singles(rig, names, step)) == [None] * len(names)
