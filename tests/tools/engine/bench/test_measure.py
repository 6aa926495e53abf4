"""Tests `streamd/tools/engine/bench/measure.py`: turns that alternate, statistics over all latencies, and lanes."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")

from streamd.core.errors import BackendUnavailableError, BatchFailedError
from streamd.inference.runner import Array
from streamd.tools.engine.bench.measure import Bench, Cell, Variant, run_lanes
from tests.support.small_networks import ScriptedRunner


class FakeMonitor:
    """A device of which each runner takes 100 bytes, and that is always 50 % busy."""

    used = 0

    def read_used_bytes(self) -> int | None:
        return self.used

    @contextmanager
    def sample_utilization(self) -> Iterator[list[float]]:
        yield [50.0]


class FakeRunner(ScriptedRunner):
    def __init__(self, name: str, monitor: Any, log: list[str]) -> None:
        super().__init__((1, 4), script=lambda number, rows: log.append(f"{name} {len(rows)}"), name=name)
        monitor.used += 100


def measured(**options: Any) -> tuple[list[Cell], list[str], list[FakeRunner], Bench]:
    monitor: Any = FakeMonitor()
    log: list[str] = []
    runners: list[FakeRunner] = []

    def open_lanes(name: str, lanes: int) -> list[FakeRunner]:
        if name == "c":
            raise BackendUnavailableError("not installed")
        opened = [FakeRunner(name, monitor, log) for _ in range(lanes)]
        runners.extend(opened)
        return opened

    variants = [
        Variant(name, "fp32", partial(open_lanes, name), sizes) for name, sizes in (("a", ()), ("b", (4,)), ("c", ()))
    ]
    windows = {"x": np.zeros((3, 2))}
    with Bench(variants, windows, (1, 2), monitor, turn_seconds=0.0, turns=2, warmup_runs=1, **options) as bench:
        cells = bench.run_cells((1, 4))
    return cells, log, runners, bench


def test_cells_take_turns_and_batches_are_filled() -> None:
    cells, log, runners, bench = measured()
    assert [(cell.variant, cell.batch, cell.lanes) for cell in cells] == [
        *(("a fp32", 1, 1), ("a fp32", 1, 2), ("a fp32", 4, 1), ("b fp32", 4, 1), ("a fp32", 4, 2), ("b fp32", 4, 2)),
    ]
    once = [*("a 1", "a 1", "a 1", "a 4", "b 4", "a 4", "a 4", "b 4", "b 4")]
    assert log == once * 3, "a warm-up and two turns, each variant beside the other; three windows fill a batch of four"
    assert bench.failed == {"c fp32": "not installed"}
    assert [runner.closed for runner in runners] == [1] * 4
    assert {cell.gpu_memory_bytes for cell in cells} == {200}
    assert all(cell.gpu_percent == [50.0, 50.0] for cell in cells)
    assert all(len(cell.latencies_ms) >= 2 * cell.lanes for cell in cells)


def test_statistics_are_over_all_latencies() -> None:
    cell = Cell(
        variant="a fp32",
        backend="a",
        precision="fp32",
        batch=8,
        lanes=2,
        latencies_ms=[float(each) for each in range(1, 101)],
        seconds=2.0,
    )
    output = cell.describe()
    assert output["windows_per_second"] == 400.0
    expected = {"mean": 50.5, "std": 28.8661, "min": 1.0, "p50": 50.5, "p95": 95.05, "p99": 99.01, "max": 100.0}
    assert output["latency_ms"] == expected
    assert (output["gpu_memory_bytes"], output["gpu_utilization_percent"]) == (None, None)


def test_lanes_run_at_the_same_time_and_an_error_of_one_is_raised() -> None:
    together = threading.Barrier(3)
    feeds = {"x": np.zeros((1, 2))}

    def meet(number: int, rows: Array) -> None:
        together.wait()

    lanes = [ScriptedRunner(script=meet) for _ in range(3)]
    latencies, seconds = run_lanes(lanes, feeds, 0.0)
    assert len(latencies) == 3
    assert seconds > 0

    def fail(number: int, rows: Array) -> None:
        raise BatchFailedError("no")

    with pytest.raises(BatchFailedError, match="no"):
        run_lanes([ScriptedRunner(script=fail)], feeds, 0.0)
