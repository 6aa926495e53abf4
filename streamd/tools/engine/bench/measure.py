"""Measures variants of one network beside each other: lanes in threads, short turns that alternate, every latency kept.

Turns alternate so that what a machine does meanwhile (heat, neighbours) falls on all variants alike.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from streamd.core.errors import StreamdError
from streamd.inference.runner import Arrays, Runner
from streamd.tools.engine.bench.hardware import DeviceMonitor
from streamd.tools.engine.gate.windows import ModelInputs

BENCH_PERCENTILES = (50, 95, 99)


@dataclass(frozen=True)
class Variant:
    """A way to run the network: `open` opens so many lanes; `batch_sizes` are those it takes, all where empty."""

    backend: str
    precision: str
    open: Callable[[int], Sequence[Runner]]
    batch_sizes: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        """As `tensorrt fp16`."""
        return f"{self.backend} {self.precision}"


@dataclass
class Cell:
    """What was measured of a variant at a batch size and a number of lanes.

    latencies_ms: of every batch of every turn; gpu_memory_bytes: what all lanes of the variant took of the device;
    gpu_percent: how busy the device was, sample by sample.
    """

    variant: str
    backend: str
    precision: str
    batch: int
    lanes: int
    latencies_ms: list[float] = field(default_factory=list)
    seconds: float = 0.0
    gpu_memory_bytes: int | None = None
    gpu_percent: list[float] = field(default_factory=list)

    @property
    def windows_per_second(self) -> float:
        """Over all turns."""
        return len(self.latencies_ms) * self.batch / self.seconds

    def told(self) -> dict[str, Any]:
        """What the results say of it."""
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
    """Opens every variant's lanes once, warms them up, and measures all cells in turns. Use it as a context."""

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
        self._open = ExitStack()

    def __enter__(self) -> Bench:
        for variant in self._variants:
            before = self.monitor.used_bytes()
            try:
                runners = variant.open(max(self.lanes))
            except StreamdError as exc:  # the others are measured all the same
                self.failed[variant.name] = str(exc)
                continue
            for runner in runners:
                self._open.callback(runner.close)
            self._opened[variant.name] = runners
            after = self.monitor.used_bytes()
            self._memory[variant.name] = None if before is None or after is None else max(0, after - before)
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def run(self, batches: Iterable[int], told: Callable[[int, int], None] = lambda done, total: None) -> list[Cell]:
        """Measure every cell; `told(done, total)` after each turn."""
        cells = [
            (variant, Cell(variant.name, variant.backend, variant.precision, batch, lanes))
            for batch in batches
            for lanes in self.lanes
            for variant in self._variants
            if variant.name in self._opened and (not variant.batch_sizes or batch in variant.batch_sizes)
        ]
        for turn in range(self.turns + 1):  # the first is the warm-up
            for index, (variant, cell) in enumerate(cells):
                self._turn(self._opened[variant.name][: cell.lanes], cell, warmup=turn == 0)
                told(turn * len(cells) + index + 1, (self.turns + 1) * len(cells))
        for _, cell in cells:
            cell.gpu_memory_bytes = self._memory[cell.variant]
        return [cell for _, cell in cells]

    def _turn(self, runners: Sequence[Runner], cell: Cell, *, warmup: bool) -> None:
        """Run all lanes at once for a turn."""
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
    """Run each in a thread of its own for so long, at least once, each time on this batch.

    Returns all latencies in ms, and the time taken. What a lane raises is raised here.
    """
    latencies: list[list[float]] = [[] for _ in runners]
    raised: list[BaseException] = []
    ready = threading.Barrier(len(runners) + 1)

    def work(runner: Runner, found: list[float]) -> None:
        ready.wait()
        end = time.perf_counter() + seconds
        try:
            while True:
                began = time.perf_counter()
                runner.run(feeds)
                now = time.perf_counter()
                found.append((now - began) * 1e3)
                if now >= end:
                    return
        except BaseException as exc:
            raised.append(exc)

    threads = [threading.Thread(target=work, args=pair) for pair in zip(runners, latencies, strict=True)]
    for thread in threads:
        thread.start()
    ready.wait()
    began = time.perf_counter()
    for thread in threads:
        thread.join()
    taken = time.perf_counter() - began
    if raised:
        raise raised[0]
    return [latency for found in latencies for latency in found], taken
