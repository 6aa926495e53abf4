"""Measures variants of one network: lanes in threads, short turns that alternate, every latency recorded.

Turns alternate so that other influences on the machine (heat, other processes) affect all variants alike.
"""

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

from streamd.core.errors import StreamdError
from streamd.inference.runner import Arrays, Runner
from streamd.tools.engine.bench.hardware import DeviceMonitor
from streamd.tools.engine.gate.windows import ModelInputs

BENCH_PERCENTILES = (50, 95, 99)


@dataclass(frozen=True)
class Variant:
    """A way to run the network."""

    backend: str
    precision: str
    open_lanes: Callable[[int], Sequence[Runner]]
    """Opens the given number of lanes."""

    batch_sizes: tuple[int, ...] = ()
    """The batch sizes to measure; if empty, all that are requested."""

    @property
    def name(self) -> str:
        """Return the name in tables, as `tensorrt fp16`."""
        return f"{self.backend} {self.precision}"


@dataclass(kw_only=True)
class Cell:
    """The measurements of a variant at one batch size and one number of lanes: a row of the result's table."""

    variant: str
    backend: str
    precision: str
    batch: int
    lanes: int
    latencies_ms: list[float] = field(default_factory=list)
    """Of every batch of every turn."""

    seconds: float = 0.0
    """Length of all turns together."""

    gpu_memory_bytes: int | None = None
    """Device memory that all lanes of the variant took."""

    gpu_percent: list[float] = field(default_factory=list)
    """Samples of the device's utilisation."""

    @property
    def windows_per_second(self) -> float:
        """Return the throughput over all turns."""
        return len(self.latencies_ms) * self.batch / self.seconds

    def describe(self) -> dict[str, Any]:
        """Return the cell's entry in `benchmark_results.json`."""
        values = np.array(self.latencies_ms)
        percentiles = dict(
            zip((f"p{each}" for each in BENCH_PERCENTILES), np.percentile(values, BENCH_PERCENTILES), strict=True)
        )
        spread = {"mean": values.mean(), "std": values.std(), "min": values.min(), **percentiles, "max": values.max()}
        return {
            "variant": self.variant,
            "backend": self.backend,
            "precision": self.precision,
            "batch": self.batch,
            "lanes": self.lanes,
            "windows_per_second": round(self.windows_per_second, 1),
            "latency_ms": {name: round(float(value), 4) for name, value in spread.items()},
            "runs": len(values),
            "gpu_memory_bytes": self.gpu_memory_bytes,
            "gpu_utilization_percent": round(float(np.mean(self.gpu_percent)), 1) if self.gpu_percent else None,
        }


class Bench:
    """Opens every variant's lanes once, warms them up, and measures all cells in turns. Use it as a context.

    `failed` has the reason of each variant that could not be opened, by name.
    """

    def __init__(
        self,
        variants: Sequence[Variant],
        windows: ModelInputs,
        lanes: Sequence[int],
        monitor: DeviceMonitor,
        *,
        turn_seconds: float = 0.5,
        turns: int = 4,
        warmup_runs: int = 10,
    ) -> None:
        self.windows, self.lanes, self.monitor = windows, tuple(lanes), monitor
        self.turn_seconds, self.turns, self.warmup_runs = turn_seconds, turns, warmup_runs
        self.failed: dict[str, str] = {}
        self._variants = variants
        self._opened: dict[str, Sequence[Runner]] = {}
        self._memory: dict[str, int | None] = {}
        self._exit_stack = ExitStack()

    def __enter__(self) -> Self:
        for variant in self._variants:
            before = self.monitor.read_used_bytes()
            try:
                runners = variant.open_lanes(max(self.lanes))
            except StreamdError as exc:  # the other variants are still measured
                self.failed[variant.name] = str(exc)
                continue
            for runner in runners:
                self._exit_stack.callback(runner.close)
            self._opened[variant.name] = runners
            after = self.monitor.read_used_bytes()
            self._memory[variant.name] = None if before is None or after is None else max(0, after - before)
        return self

    def __exit__(self, *_: object) -> None:
        self._exit_stack.close()

    def run_cells(
        self, batches: Iterable[int], on_progress: Callable[[int, int], None] = lambda done, total: None
    ) -> list[Cell]:
        """Measure every cell; `on_progress(done, total)` is called after each turn."""
        cells = [
            (
                variant,
                Cell(
                    variant=variant.name,
                    backend=variant.backend,
                    precision=variant.precision,
                    batch=batch,
                    lanes=lanes,
                ),
            )
            for batch in batches
            for lanes in self.lanes
            for variant in self._variants
            if variant.name in self._opened and (not variant.batch_sizes or batch in variant.batch_sizes)
        ]
        for turn in range(self.turns + 1):  # the first is the warm-up
            for index, (variant, cell) in enumerate(cells):
                self._run_turn(self._opened[variant.name][: cell.lanes], cell, warmup=turn == 0)
                on_progress(turn * len(cells) + index + 1, (self.turns + 1) * len(cells))
        for _, cell in cells:
            cell.gpu_memory_bytes = self._memory[cell.variant]
        return [cell for _, cell in cells]

    def _run_turn(self, runners: Sequence[Runner], cell: Cell, *, warmup: bool) -> None:
        """Run all lanes at the same time for one turn, and add what was measured to the cell."""
        rows = np.arange(cell.batch) % len(next(iter(self.windows.values())))
        feeds = {name: values[rows] for name, values in self.windows.items()}
        if warmup:
            for runner in runners:
                for _ in range(self.warmup_runs):
                    runner.run(feeds)
            return
        with self.monitor.sample_utilization() as busy:
            latencies, seconds = run_lanes(runners, feeds, self.turn_seconds)
        cell.latencies_ms += latencies
        cell.seconds += seconds
        cell.gpu_percent += busy


def run_lanes(runners: Sequence[Runner], feeds: Arrays, seconds: float) -> tuple[list[float], float]:
    """Run each lane in its own thread for this long, at least once, always on the same batch.

    Returns all latencies in ms, and the time taken in seconds. An error of a lane is raised here.
    """
    latencies: list[list[float]] = [[] for _ in runners]
    raised: list[BaseException] = []
    ready = threading.Barrier(len(runners) + 1)

    def run_lane(runner: Runner, measured: list[float]) -> None:
        ready.wait()
        end = time.perf_counter() + seconds
        try:
            while True:
                began = time.perf_counter()
                runner.run(feeds)
                now = time.perf_counter()
                measured.append((now - began) * 1e3)
                if now >= end:
                    return
        except BaseException as exc:
            raised.append(exc)

    threads = [threading.Thread(target=run_lane, args=pair) for pair in zip(runners, latencies, strict=True)]
    for thread in threads:
        thread.start()
    ready.wait()
    began = time.perf_counter()
    for thread in threads:
        thread.join()
    taken = time.perf_counter() - began
    if raised:
        raise raised[0]
    return [latency for measured in latencies for latency in measured], taken
