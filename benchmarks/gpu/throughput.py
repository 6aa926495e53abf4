"""Forecasts a second from the window store to results in host memory, by lanes and bucket, and a batch's latency.

A lane is one thread, as in the daemon: it takes slots, gathers their windows into the lane's pinned inputs, launches,
waits, and repeats. Variants take turns within a cell: with the gather (of a fleet at the change of a step), with the
gather of windows that begin at any position, without it, the same with a lane that spins while it waits, without CUDA
graphs, and (one lane) an engine of dynamic shapes without CUDA graphs. The latency of a batch is from the beginning of
its gather until its forecasts are in host memory. Not measured: ingest, the transfer to the event loop, normalizing
predictions, fan-out, a network; batches that arrive at random (these lanes always have work).
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gpu.harness import ResultFile, Suite, compute_percentiles_ms, list_precisions, make_backend, open_lanes
from benchmarks.gpu.windows import Gatherer, make_filled_store, make_windows, move_newest_rows
from benchmarks.harness import print_table
from streamd.inference.lane import Inputs
from streamd.repository.versions import EngineVersion

TURNS = 2
WARMUP_SECONDS = 0.1
"""The time before a turn counts; every lane is busy by then."""

LANE_COUNTS = (1, 2, 3, 4, 6, 8)
BARE_LANES = (1, 8)
PLAIN_LANES, PLAIN_BUCKETS = (1, 4, 8), (32, 64, 256)
NAIVE_BUCKETS = (64, 256)
P99_LIMIT_MS = 8.0
PATCH_GOAL = 500_000
Fill = Callable[[int, int, Inputs], None]
"""`(lane, batch number, inputs)`: fills the inputs of a lane's next batch."""


@dataclass
class Cell:
    """A variant with a number of lanes and a bucket; `seconds` are the latencies of its batches."""

    variant: str
    lanes: int
    bucket: int
    rates: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def summarize(self) -> dict[str, Any]:
        """Summarize the cell: the mean of the turns, each turn, and latencies."""
        return {
            "variant": self.variant,
            "lanes": self.lanes,
            "bucket": self.bucket,
            "forecasts_per_second": round(float(np.mean(self.rates)), 1),
            "turns": [round(rate, 1) for rate in self.rates],
            "batches": len(self.seconds),
            **compute_percentiles_ms(self.seconds),
        }


class SlotTurns:
    """The slots of each lane's batches: shuffled once, then taken in turn, so that all of the store is read."""

    def __init__(self, servers: int, gather: Gatherer) -> None:
        self._order = np.random.default_rng(5).permutation(servers).astype(np.int64)
        self._gather = gather
        self._bucket = 1

    def make_fill(self, bucket: int) -> Fill:
        """Make a function that fills batches of `bucket`."""
        order, gather = self._order, self._gather
        starts = len(order) - bucket + 1

        def fill(lane: int, number: int, inputs: Inputs) -> None:
            begin = (lane * 2_503 + number * bucket) % starts
            gather(order[begin : begin + bucket].copy(), inputs)

        return fill


def no_fill(lane: int, number: int, inputs: Inputs) -> None:
    """Leave the inputs unchanged: they have real windows from the start."""


def run_lanes(lanes: Sequence[Any], bucket: int, fill: Fill, seconds: float) -> tuple[float, list[float]]:
    """Keep every lane busy with batches of `bucket`; returns forecasts a second, and each batch's latency."""
    stop = threading.Event()
    finished: list[list[tuple[float, float]]] = [[] for _ in lanes]
    errors: list[Exception] = []

    def work(place: int) -> None:
        lane, mine, number, clock = lanes[place], finished[place], 0, time.perf_counter
        try:
            while not stop.is_set():
                began = clock()
                fill(place, number, lane.inputs)
                lane.run(bucket)
                mine.append((began, clock()))
                number += 1
        except Exception as error:
            errors.append(error)
            stop.set()

    threads = [threading.Thread(target=work, args=(place,)) for place in range(len(lanes))]
    for thread in threads:
        thread.start()
    time.sleep(WARMUP_SECONDS)
    began = time.perf_counter()
    stop.wait(seconds)
    ended = time.perf_counter()
    stop.set()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    whole = [(first, last) for mine in finished for first, last in mine if began <= last <= ended]
    return len(whole) * bucket / (ended - began), [last - first for first, last in whole]


def fill_inputs(lanes: Sequence[Any], windows: Inputs) -> None:
    """Put real windows into every lane's inputs, because zeros could run faster."""
    for lane in lanes:
        for name, buffer in lane.inputs.view_first(len(lane.inputs.encoder_cont)).items():
            given = getattr(windows, name)
            buffer[:] = given[np.arange(len(buffer)) % len(given)]


def take_turns(cells: Sequence[tuple[Cell, Callable[[float], tuple[float, list[float]]]]], seconds: float) -> None:
    """Measure cells in turns, each for `seconds` in total."""
    for _ in range(TURNS):
        for cell, measure in cells:
            rate, latencies = measure(seconds / TURNS)
            cell.rates.append(rate)
            cell.seconds += latencies


class Bench:
    """The measurements of one version in one precision, with all of its variants."""

    def __init__(
        self, suite: Suite, version: EngineVersion, precision: str, slots: SlotTurns, scattered: SlotTurns
    ) -> None:
        self.suite = suite
        self.version = version
        self.precision = precision
        self.slots = slots
        self.scattered = scattered

    def run(self, result: ResultFile) -> list[dict[str, Any]]:
        """Measure every cell, and write each result at once."""
        suite, most = self.suite, self.suite.arguments.max_lanes
        head = {"engine": self.version.name, "precision": self.precision}
        found: list[dict[str, Any]] = []
        windows = make_windows(self.version.contract, 256)
        began = time.perf_counter()
        with open_lanes(make_backend(suite, self.version, self.precision, lanes_per_device=most), most) as lanes:
            described = lanes[0].describe() if hasattr(lanes[0], "describe") else {}
            opened = {"lanes": most, "seconds": round(time.perf_counter() - began, 2), **described}
            result.append("opened", {**head, **opened})
            with (
                open_lanes(*self._open_plain()) as plain,
                open_lanes(*self._open_naive()) as naive,
                open_lanes(*self._open_spinning()) as spinning,
            ):
                for each in (lanes, plain, naive, spinning):
                    fill_inputs(each, windows)
                for count in (count for count in LANE_COUNTS if count <= most):
                    for bucket in suite.buckets:
                        cells = self._make_cells(lanes, plain, naive, spinning, count, bucket)
                        take_turns(cells, suite.seconds)
                        for cell, _ in cells:
                            found.append({**head, **cell.summarize()})
                            result.append("cells", found[-1])
        return found

    def _make_cells(
        self,
        lanes: Sequence[Any],
        plain: Sequence[Any],
        naive: Sequence[Any],
        spinning: Sequence[Any],
        count: int,
        bucket: int,
    ) -> Any:
        chosen: list[tuple[str, Sequence[Any], Fill]] = [("graph", lanes[:count], self.slots.make_fill(bucket))]
        if count in BARE_LANES:
            chosen.append(("graph, windows at any place", lanes[:count], self.scattered.make_fill(bucket)))
            chosen.append(("graph, no gather", lanes[:count], no_fill))
        if spinning and count == 1:
            chosen.append(("graph, no gather, spinning", spinning, no_fill))
        if plain and count in PLAIN_LANES and bucket in PLAIN_BUCKETS:
            chosen.append(("plain enqueue", plain[:count], self.slots.make_fill(bucket)))
        if naive and count == 1 and bucket in NAIVE_BUCKETS:
            chosen.append(("dynamic shapes, plain enqueue", naive[:1], self.slots.make_fill(bucket)))
        return [(Cell(name, count, bucket), make_measurement(on, bucket, fill)) for name, on, fill in chosen]

    def _open_plain(self) -> tuple[Any, int]:
        buckets = tuple(bucket for bucket in PLAIN_BUCKETS if bucket in self.suite.buckets)
        if self.suite.arguments.backend != "tensorrt" or not buckets:
            return None, 0
        backend = make_backend(self.suite, self.version, self.precision, graphs=False, buckets=buckets)
        return backend, self.suite.arguments.max_lanes

    def _open_spinning(self) -> tuple[Any, int]:
        if self.suite.arguments.backend != "tensorrt":
            return None, 0
        return make_backend(self.suite, self.version, self.precision, spin=True), 1

    def _open_naive(self) -> tuple[Any, int]:
        plan = locate_naive_plan(self.suite, self.version, self.precision)
        if self.suite.arguments.backend != "tensorrt" or not plan.is_file():
            return None, 0
        from streamd.inference.tensorrt.engine import Plan
        from streamd.inference.tensorrt.lane import TensorRtBackend

        buckets = tuple(bucket for bucket in NAIVE_BUCKETS if bucket in self.suite.buckets) or (64,)
        return TensorRtBackend(Plan(plan, self.precision), self.version.contract, buckets, graphs=False), 1


def make_measurement(lanes: Sequence[Any], bucket: int, fill: Fill) -> Callable[[float], tuple[float, list[float]]]:
    """Bind all arguments of `run_lanes` but the seconds."""
    return lambda seconds: run_lanes(lanes, bucket, fill, seconds)


def locate_naive_plan(suite: Suite, version: EngineVersion, precision: str) -> Path:
    """Return the path of the plan of dynamic shapes, which the section `naive` builds."""
    path: Path = suite.arguments.plans / version.name / f"dynamic_{precision}.engine"
    return path


def summarize_cells(cells: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Summarize the cells of one version and precision in the terms of the goals."""
    ours = {(cell["lanes"], cell["bucket"]): cell for cell in cells if cell["variant"] == "graph"}
    if not ours:
        return {}
    best = max(ours.values(), key=lambda cell: cell["forecasts_per_second"])
    fast = [cell for cell in ours.values() if cell.get("p99_ms", np.inf) <= P99_LIMIT_MS]
    fastest = max(fast, key=lambda cell: cell["forecasts_per_second"], default=None)
    naive = [cell for cell in cells if cell["variant"].startswith("dynamic")]
    naive_rate = max((cell["forecasts_per_second"] for cell in naive), default=None)
    one, eight = ours.get((1, 32)), ours.get((8, 32))
    alone = {cell["variant"]: cell.get("p99_ms") for cell in cells if (cell["lanes"], cell["bucket"]) == (1, 256)}
    return {
        "best": _select_keys(best),
        f"best_with_p99_within_{P99_LIMIT_MS:g}_ms": _select_keys(fastest),
        "bucket_32_eight_lanes_over_one": _compute_ratio(eight, one),
        "bucket_256_on_one_lane_p99_ms": alone,
        "best_over_dynamic_plain_enqueue": round(best["forecasts_per_second"] / naive_rate, 2) if naive_rate else None,
        "dynamic_plain_enqueue_forecasts_per_second": naive_rate,
        "at_least_500000_per_second": bool(best["forecasts_per_second"] >= PATCH_GOAL),
    }


def _compute_ratio(above: dict[str, Any] | None, below: dict[str, Any] | None) -> float | None:
    if above is None or below is None:
        return None
    return round(float(above["forecasts_per_second"]) / max(float(below["forecasts_per_second"]), 1e-9), 2)


def _select_keys(cell: dict[str, Any] | None) -> dict[str, Any] | None:
    keys = ("lanes", "bucket", "forecasts_per_second", "p50_ms", "p99_ms")
    return {name: cell.get(name) for name in keys} if cell is not None else None


def run(suite: Suite) -> None:
    """Measure every version in every precision."""
    result = ResultFile(suite, "throughput", not_measured=__doc__, seconds_a_cell=suite.seconds, turns=TURNS)
    contract = suite.versions[0].contract
    servers = suite.arguments.servers
    store = make_filled_store(contract, servers)
    slots = SlotTurns(servers, Gatherer(contract, store))
    scattered = SlotTurns(servers, Gatherer(contract, move_newest_rows(store, contract.context_length)))
    result.put("servers_in_the_store", servers)
    for version in suite.versions:
        for precision in list_precisions(suite, version):
            with suite.run_part(f"throughput {version.name} {precision}"):
                cells = Bench(suite, version, precision, slots, scattered).run(result)
                result.append("summaries", {"engine": version.name, "precision": precision, **summarize_cells(cells)})
                _print(version.name, precision, cells, summarize_cells(cells))


def _print(engine: str, precision: str, cells: Sequence[dict[str, Any]], figures: dict[str, Any]) -> None:
    buckets = sorted({cell["bucket"] for cell in cells})
    rows = []
    for variant, lanes in sorted({(cell["variant"], cell["lanes"]) for cell in cells}):
        row = {cell["bucket"]: cell for cell in cells if cell["variant"] == variant and cell["lanes"] == lanes}
        rates = [_format_cell(row.get(bucket)) for bucket in buckets]
        rows.append((f"{variant}, {lanes} lane{'s' * (lanes > 1)}", *rates))
    print_table(f"{engine} {precision}: forecasts/s (p99 ms)", ("variant", *map(str, buckets)), rows)
    for name, value in figures.items():
        print(f"  {name}: {value}")


def _format_cell(cell: dict[str, Any] | None) -> str:
    if cell is None:
        return "-"
    return f"{cell['forecasts_per_second']:,.0f} ({cell.get('p99_ms', 0):.2f})"
