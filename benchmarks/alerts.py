"""The event loop's CPU time for a due row with ten alert rules and without any, in turns of one run.

A `Service` with lanes that cost nothing, as in `host_path.py`, and 20,000 servers that each get a row every 5 s: 100
rows every 25 ms. With rules, the thread of the alerts evaluates them beside the loop; of the forecasts, `--near` come
near a threshold and `--breaching` cross one, so that their alerts are made, stored and refreshed. Microseconds of the
loop's thread for a row each way, and how late the loop woke up.

On a machine that others use, turns differ by more than the rules cost. So the frames of the turns with rules are also
compared with each other: those that were handled beside an evaluation, and those between evaluations, a second apart.
Rows are written between the turns. Not measured: what listeners do with alerts (delivery, readers), taking samples,
subscribers, a slow disk.
"""

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from benchmarks.host_path import BUCKETS, LANE_SECONDS, LANES, InstantLane
from streamd.core.alerts.settings import AlertSettings
from streamd.core.contract import ModelContract
from streamd.core.scheduling.costs import CostTable
from streamd.core.state.rows import RowReader
from streamd.repository.versions import EngineRepository
from streamd.runtime.alerts.thread import AlertThread
from streamd.runtime.lanes.worker import LaneWorker
from streamd.runtime.service import Service, ServiceLimits
from streamd.runtime.state.opening import open_state
from streamd.runtime.state.state import WindowLimits
from streamd.runtime.wiring import build_service

ROOT = Path(__file__).resolve().parent.parent
ROWS_A_FRAME = 100
FRAME_SECONDS = 0.025
SAFE, NEAR, HIGH = 50.0, 89.0, 95.0
"""The largest value of a forecast that is clear, one in the hysteresis band, and one that breaches; limits are 90."""


def make_rules(contract: ModelContract, count: int) -> dict[str, dict[str, Any]]:
    """Return rules over all targets and several quantiles, one in three with globs."""
    rules = {}
    for number in range(count):
        rules[f"rule_{number}"] = {
            "target": contract.targets[number % len(contract.targets)],
            "above": 90.0,
            "quantile": contract.quantiles[2 + number % 4],
            "within": ["2h", "4h", "8h"][number % 3],
            "servers": ["server-*[02468]"] if number % 3 == 0 else ["*"],
        }
    return rules


def make_forecasts(contract: ModelContract, near: float, breaching: float) -> npt.NDArray[np.float32]:
    """Return sorted forecasts, `(batch, horizon, targets, quantiles)`, shares of which come near 90 or cross it."""
    random = np.random.default_rng(1)
    count = BUCKETS[-1]
    tops = np.full((count, len(contract.targets)), SAFE)
    drawn = random.random(tops.shape)
    tops[drawn < near + breaching] = NEAR
    tops[drawn < breaching] = HIGH
    rise = np.linspace(0.5, 1.0, contract.horizon)
    curves = tops[:, None, :, None] * rise[None, :, None, None]
    spread = np.linspace(-0.5, 0.5, len(contract.quantiles))
    forecasts: npt.NDArray[np.float32] = (curves + spread).astype(np.float32)
    return forecasts


class Fleet:
    """A service whose servers all have whole windows."""

    def __init__(self, folder: Path, arguments: argparse.Namespace) -> None:
        self.servers: int = arguments.servers
        self.contract = contract = EngineRepository(ROOT / "engines").choose().contract
        self.state = open_state(folder, contract, WindowLimits(capacity=self.servers, need=1), time.monotonic())
        self.rules = AlertSettings(rules=make_rules(contract, arguments.rules), max_forecast_age_seconds=float("inf"))
        self.service: Service = build_service(
            self.state, "instant_20260101_000000", {}, ServiceLimits(), alerts=self.rules
        )
        for number in range(self.servers):
            self.state.admit(f"server-{number:05d}", time.time())
        self.step = contract.to_step(time.time()) - 10_000
        row = RowReader(contract.features).read_row(dict.fromkeys(contract.features, 1.0))
        for _ in range(contract.context_length // 2):
            self._write_rows(row)
        self._row = row
        self._forecasts = make_forecasts(contract, arguments.near, arguments.breaching)

    def _write_rows(self, row: Any) -> None:
        self.step += 1
        now = time.monotonic()
        for slot in range(self.servers):
            self.state.windows.write_sample(slot, self.step, row, None, now)
        self.service.accuracy.sweep()  # as each second: the share of forecasts that are sampled depends on the servers

    def open_lanes(self) -> None:
        """Open lanes that all return the same forecasts."""
        pipeline, loop = self.service.pipeline, asyncio.get_running_loop()
        lanes = [InstantLane(f"instant-{index}", self.contract, self._forecasts) for index in range(LANES)]
        workers = [LaneWorker(lane, loop, pipeline.handle_result) for lane in lanes]
        pipeline.open_lanes(workers, CostTable(dict.fromkeys(BUCKETS, LANE_SECONDS), pads=True))

    async def run_turn(self, passes: int) -> list["Frame"]:
        """Let every server become due so many times, at the pace of the fleet; returns what each frame took."""
        frames: list[Frame] = []
        for _ in range(passes):
            self._write_rows(self._row)
            began = time.monotonic()
            for number in range(self.servers // ROWS_A_FRAME):
                thread, start = time.thread_time(), time.monotonic()
                self.service.pipeline.mark_due_many(np.arange(number * ROWS_A_FRAME, (number + 1) * ROWS_A_FRAME))
                at = began + (number + 1) * FRAME_SECONDS
                await asyncio.sleep(max(at - time.monotonic(), 0.0))
                end = time.monotonic()
                frames.append(Frame(time.thread_time() - thread, start, end, max(end - at, 0.0)))
            await self.service.pipeline.wait_idle()
        return frames


class Frame(NamedTuple):
    """One frame: the seconds of the loop's thread, when it began and ended, and how late the loop woke up for it."""

    seconds: float
    start: float
    end: float
    late_seconds: float


class Evaluations:
    """When the thread of the alerts was at work; begins with the first evaluation after `watch`."""

    def __init__(self) -> None:
        self.times: list[tuple[float, float]] = []

    def watch(self) -> None:
        """Note the times of all later evaluations."""
        run_once, times = AlertThread.run_once, self.times

        def run_timed(self: AlertThread) -> None:
            start = time.monotonic()
            run_once(self)
            times.append((start, time.monotonic()))

        AlertThread.run_once = run_timed  # type: ignore[method-assign]

    def is_beside(self, frame: Frame) -> bool:
        """Whether an evaluation ran while a frame was handled."""
        return any(start < frame.end and end > frame.start for start, end in self.times)


def compute_row_us(frames: Sequence[Frame]) -> float:
    """Return the mean microseconds of the loop's thread for a row."""
    return statistics.fmean(frame.seconds for frame in frames) / ROWS_A_FRAME * 1e6


def summarize(frames: Sequence[Frame]) -> dict[str, float]:
    """Return the figures of many frames."""
    late = [frame.late_seconds for frame in frames]
    return {"loop_us": compute_row_us(frames), "late_p99_ms": float(np.percentile(late, 99)) * 1e3}


async def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure turns with and without rules."""
    evaluations = Evaluations()
    evaluations.watch()
    with tempfile.TemporaryDirectory() as folder:
        fleet = Fleet(Path(folder), arguments)
        fleet.open_lanes()
        monitor = fleet.service.alerts
        assert monitor is not None, "it is built with rules"
        await monitor.start()
        await fleet.run_turn(2)  # memory is touched for the first time, and alerts begin
        frames: dict[str, list[Frame]] = {"with": [], "without": []}
        ratios, active, busy = [], 0, 0.0
        for number in range(arguments.turns):
            for name in ("with", "without") if number % 2 == 0 else ("without", "with"):
                monitor.replace_rules(fleet.rules if name == "with" else AlertSettings())
                await fleet.run_turn(1)  # the alerts of the rules begin, or end
                before = monitor.busy_seconds
                frames[name] += await fleet.run_turn(arguments.passes)
                if name == "with":
                    active, busy = len(monitor.active), busy + monitor.busy_seconds - before
            count = arguments.passes * fleet.servers // ROWS_A_FRAME
            ratios.append(compute_row_us(frames["with"][-count:]) / compute_row_us(frames["without"][-count:]))
        fleet.service.close()
    beside = [frame for frame in frames["with"] if evaluations.is_beside(frame)]
    between = [frame for frame in frames["with"] if not evaluations.is_beside(frame)]
    share = len(beside) / len(frames["with"])
    return {
        **{name: {key: round(value, 3) for key, value in summarize(each).items()} for name, each in frames.items()},
        "ratio_of_turns": round(compute_row_us(frames["with"]) / compute_row_us(frames["without"]), 4),
        "ratios": [round(each, 3) for each in ratios],
        "beside_evaluations_us": round(compute_row_us(beside), 3),
        "between_evaluations_us": round(compute_row_us(between), 3),
        "share_beside": round(share, 4),
        "ratio_of_frames": round(compute_row_us(frames["with"]) / compute_row_us(between), 4),
        "alerts_us": round(busy / (len(frames["with"]) * ROWS_A_FRAME) * 1e6, 3),
        "active": active,
        "rules": arguments.rules,
        "servers": arguments.servers,
        "rows_per_second": round(ROWS_A_FRAME / FRAME_SECONDS),
    }


def main() -> int:
    """Measure, and print the result as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--servers", type=int, default=20_000)
    parser.add_argument("--rules", type=int, default=10)
    parser.add_argument("--turns", type=int, default=6, help="pairs of turns")
    parser.add_argument("--passes", type=int, default=2, help="rows of each server in a turn")
    parser.add_argument("--near", type=float, default=0.02, help="share of the forecasts near a threshold")
    parser.add_argument("--breaching", type=float, default=0.005, help="share of the forecasts that cross one")
    arguments = parser.parse_args()
    import structlog

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(30), cache_logger_on_first_use=True)
    sys.setswitchinterval(1e-3)  # as the daemon does
    print(json.dumps(asyncio.run(measure(arguments)), indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
