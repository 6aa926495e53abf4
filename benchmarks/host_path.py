"""The loop's CPU time for a due row on its way to the board, without sockets: queue, batch, gather, account, post.

A `Service` with lanes that cost nothing, in a process of its own for each tree: this one, and others that are named
(`--tree FOLDER`, a checkout of an earlier build, from 651203c on), in turns. Rows are written before the clock starts.
`frames`: 100 rows become due at once and are forecast before the next ones; `burst`: all servers are due at once.
`resident`: the lanes keep the windows, as a GPU does, so that the loop only stages the new rows. Microseconds of the
event loop's thread and of the whole process for each row; the medians of the rounds. Not measured: taking samples,
subscribers, waiting for the GIL, memory that is touched for the first time.
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
SERVERS = 4_000
ROWS_A_FRAME = 100
BUCKETS = (1, 8, 32, 64, 128, 256)
LANES = 4
LANE_SECONDS = 1e-3
WARM_ROUNDS = 2
ROUNDS = 7


PARTS = {
    "CostTable": ("streamd.core.scheduling.costs:CostTable", "streamd.core.costs:CostTable"),
    "RowReader": ("streamd.core.state.rows:RowReader", "streamd.core.rows:RowReader"),
    "Inputs": ("streamd.inference.lane:Inputs", "streamd.device.lane:Inputs"),
    "LaneWorker": ("streamd.runtime.lanes.worker:LaneWorker", "streamd.runtime.worker:LaneWorker"),
    "ServiceLimits": ("streamd.runtime.service:ServiceLimits", "streamd.runtime.service:ServiceLimits"),
    "WindowLimits": ("streamd.runtime.state.state:WindowLimits", "streamd.runtime.state:WindowLimits"),
    "open_state": ("streamd.runtime.state.opening:open_state", "streamd.runtime.state:open_state"),
    "make_service": ("streamd.runtime.wiring:build_service", "streamd.runtime.service:Service"),
}
"""What is measured, in this tree and in build 651203c, which had other names."""

METHODS = {
    "read_row": ("read_row", "read"),
    "write_sample": ("write_sample", "write"),
    "handle_result": ("handle_result", "take_result"),
    "wait_idle": ("wait_idle", "settle"),
}


def load_parts() -> SimpleNamespace:
    """Import what is measured from the tree that is on the path."""
    former = find_spec("streamd.core.state") is None
    parts = SimpleNamespace(**{name: both[former] for name, both in METHODS.items()})
    for name, both in PARTS.items():
        module, _, part = both[former].partition(":")
        setattr(parts, name, getattr(import_module(module), part))
    return parts


class InstantLane:
    """A lane that ignores its inputs."""

    device = "none"
    buckets: tuple[int, ...] = BUCKETS
    pads = True

    def __init__(self, name: str, contract: Any, forecasts: Any) -> None:
        self.name = name
        self.inputs = load_parts().Inputs.allocate(contract, BUCKETS[-1])
        self._forecasts = forecasts

    def run(self, count: int) -> Any:
        """Return the first `count` forecasts."""
        time.sleep(LANE_SECONDS)
        return self._forecasts[:count]

    def check(self) -> None:
        """Do nothing: the lane is always healthy."""

    def describe(self) -> dict[str, Any]:
        """Return no details."""
        return {}

    def close(self) -> None:
        """Do nothing."""


class ResidentLane(InstantLane):
    """A lane whose device keeps the windows: the loop stages the rows that are new, and nothing is moved."""

    def __init__(self, name: str, contract: Any, forecasts: Any, store: Any) -> None:
        from streamd.inference.lane import FinishedBatch
        from streamd.inference.resident import LaneWindows, Staging

        super().__init__(name, contract, forecasts)
        self.resident = self
        windows = LaneWindows(store, Staging(self.inputs, np.zeros), lambda staging: None)
        self.stage, self._enqueue, self._finish = windows.stage, windows.enqueue, FinishedBatch

    def run(self, count: int) -> Any:
        """Return the first `count` forecasts, in their final order."""
        self._enqueue()
        return self._finish(super().run(count).transpose(0, 2, 1, 3), (), None)


class Fleet:
    """A service over a state in memory's place, whose servers all have whole windows."""

    def __init__(self, folder: Path) -> None:
        from streamd.repository.versions import EngineRepository

        self.parts = parts = load_parts()
        self.contract = EngineRepository(ROOT / "engines").choose().contract
        limits = parts.WindowLimits(capacity=SERVERS, need=1)
        self.state = parts.open_state(folder, self.contract, limits, time.monotonic())
        self.service = parts.make_service(self.state, "instant_20260101_000000", {}, parts.ServiceLimits())
        for number in range(SERVERS):
            self.state.admit(f"server-{number:05d}", time.time())
        self.step = int(time.time()) // self.contract.step_seconds - 10_000
        features = self.contract.features
        read_row = getattr(parts.RowReader(features), parts.read_row)
        self._rows = [read_row(dict.fromkeys(features, float(number))) for number in range(7)]

    def open_lanes(self, *, are_resident: bool) -> None:
        """Open lanes that all return the same sorted forecasts."""
        pipeline, contract, parts = self.service.pipeline, self.contract, self.parts
        shape = (BUCKETS[-1], contract.horizon, len(contract.targets), len(contract.quantiles))
        forecasts = np.sort(np.random.default_rng(1).normal(size=shape).astype(np.float32), axis=-1)
        lanes: list[Any] = [InstantLane(f"instant-{index}", contract, forecasts) for index in range(LANES)]
        if are_resident:
            from streamd.inference.resident import ResidentStore

            store = ResidentStore(contract, SERVERS)
            lanes = [ResidentLane(f"resident-{index}", contract, forecasts, store) for index in range(LANES)]
        loop = asyncio.get_running_loop()
        workers = [parts.LaneWorker(lane, loop, getattr(pipeline, parts.handle_result)) for lane in lanes]
        pipeline.open_lanes(workers, parts.CostTable(dict.fromkeys(BUCKETS, LANE_SECONDS), pads=True))

    def write_rows(self) -> None:
        """Write the next row of every server."""
        self.step += 1
        now, row = time.monotonic(), self._rows[self.step % len(self._rows)]
        write = getattr(self.state.windows, self.parts.write_sample)
        for slot in range(SERVERS):
            write(slot, self.step, row, None, now)
        self.service.accuracy.sweep()  # as each second: the share of forecasts that are sampled depends on the servers

    def mark_due(self, first: int, count: int) -> None:
        """Mark servers as due, as ingest does in this tree."""
        pipeline: Any = self.service.pipeline
        if hasattr(pipeline, "mark_due_many"):
            pipeline.mark_due_many(np.arange(first, first + count))
            return
        for slot in range(first, first + count):
            pipeline.mark_due(slot, 1)

    async def run_round(self, rows: int) -> tuple[float, float]:
        """Let every server become due, `rows` at once; returns the seconds of the loop and of the process."""
        self.write_rows()
        before = self.service.scheduler.counts.delivered
        thread, process = time.thread_time(), time.process_time()
        for first in range(0, SERVERS, rows):
            self.mark_due(first, rows)
            await getattr(self.service.pipeline, self.parts.wait_idle)()
        seconds = time.thread_time() - thread, time.process_time() - process
        assert self.service.scheduler.counts.delivered - before == SERVERS, "each row gets its forecast"
        return seconds


async def measure_here() -> dict[str, float]:
    """Measure the tree whose package is imported, with lanes that need a copy of the windows, and resident ones."""
    found = await measure_fleet("", are_resident=False)
    if find_spec("streamd.core.state") is not None and find_spec("streamd.inference.resident") is not None:
        found |= await measure_fleet("resident ", are_resident=True)
    return found


async def measure_fleet(prefix: str, *, are_resident: bool) -> dict[str, float]:
    """Measure lanes of one kind."""
    with tempfile.TemporaryDirectory() as folder:
        fleet = Fleet(Path(folder))
        fleet.open_lanes(are_resident=are_resident)
        found: dict[str, float] = {}
        for name, rows in (("frames", ROWS_A_FRAME), ("burst", SERVERS)):
            rounds = [await fleet.run_round(rows) for _ in range(WARM_ROUNDS + ROUNDS)][WARM_ROUNDS:]
            for place, what in enumerate(("loop", "process")):
                median = statistics.median(seconds[place] for seconds in rounds)
                found[f"{prefix}{name}, {what}"] = round(median / SERVERS * 1e6, 2)
        fleet.service.close()
        return found


def measure_tree(tree: Path) -> dict[str, float]:
    """Measure a tree in a process of its own."""
    command = [sys.executable, str(Path(__file__).resolve()), "--here"]
    environment = {**os.environ, "PYTHONPATH": str(tree)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> int:
    """Measure every tree in turns, and print the medians and their ratios to this tree."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tree", type=Path, action="append", default=[], help="another checkout to measure")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.here:
        import structlog

        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(30), cache_logger_on_first_use=True)
        print(json.dumps(asyncio.run(measure_here())))
        return 0
    trees = [ROOT, *(tree.resolve() for tree in arguments.tree)]
    turns = [[measure_tree(tree) for tree in trees] for _ in range(arguments.turns)]
    medians = [
        {name: statistics.median(turn[place][name] for turn in turns) for name in turns[0][place]}
        for place in range(len(trees))
    ]
    for tree, found in zip(trees, medians, strict=True):
        print(tree)
        for name, microseconds in found.items():
            print(f"    {name:24} {microseconds:6.2f} µs a row, {microseconds / medians[0][name]:.2f} of this tree's")
    return 0


if __name__ == "__main__":
    sys.exit(main())
