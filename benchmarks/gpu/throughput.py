"""Forecasts a second from the window store to results in host memory, by lanes and bucket, and a batch's latency.

A lane is one thread, as in the daemon: it takes slots, gathers their windows into the lane's pinned inputs, launches,
waits, and goes on. Variants take turns within a cell: with the gather (of a fleet at the turn of a step), with the
gather of windows that begin at any place, without it, the same with a lane that spins while it waits, without CUDA
graphs, and (one lane) an engine of dynamic shapes enqueued plainly. A batch's latency is from the beginning of its
gather until its forecasts are in host memory. Not measured: ingest, the event loop's hand-over, putting quantiles in
order, fan-out, a network; batches that arrive at random (these lanes always have work).
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gpu.harness import ResultFile, Suite, make_backend, open_lanes, percentiles_ms, precisions
from benchmarks.gpu.windows import Gatherer, filled_store, make_windows, with_places
from benchmarks.harness import print_table
from streamd.inference.lane import Inputs
from streamd.repository.versions import EngineVersion

TURNS = 2
SETTLE_SECONDS = 0.1
"""Before a turn counts: every lane is busy by then."""

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
    """One variant at one number of lanes and one bucket; `seconds` are batches' latencies."""

    variant: str
    lanes: int
    bucket: int
    rates: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """What is kept: the mean of the turns, each turn, and latencies."""
        return {
            "variant": self.variant,
            "lanes": self.lanes,
            "bucket": self.bucket,
            "forecasts_per_second": round(float(np.mean(self.rates)), 1),
            "turns": [round(rate, 1) for rate in self.rates],
            "batches": len(self.seconds),
            **percentiles_ms(self.seconds),
        }


class Slots:
    """Which slots each lane's batches take: shuffled once, then in turn, so that the store is walked as a whole."""

    def __init__(self, servers: int, gather: Gatherer) -> None:
        self._order = np.random.default_rng(5).permutation(servers).astype(np.int64)
        self._gather = gather
        self._bucket = 1

    def of(self, bucket: int) -> Fill:
        """A fill for batches of `bucket`."""
        order, gather = self._order, self._gather
        starts = len(order) - bucket + 1

        def fill(lane: int, number: int, inputs: Inputs) -> None:
            begin = (lane * 2_503 + number * bucket) % starts
            gather(order[begin : begin + bucket].copy(), inputs)

        return fill


def no_fill(lane: int, number: int, inputs: Inputs) -> None:
    """Leave the inputs as they are: real windows, filled once."""


def drive(lanes: Sequence[Any], bucket: int, fill: Fill, seconds: float) -> tuple[float, list[float]]:
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
    time.sleep(SETTLE_SECONDS)
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


def fill_once(lanes: Sequence[Any], windows: Inputs) -> None:
    """Put real windows into every lane's inputs: zeros could run faster."""
    for lane in lanes:
        for name, buffer in lane.inputs.first(len(lane.inputs.encoder_cont)).items():
            given = getattr(windows, name)
            buffer[:] = given[np.arange(len(buffer)) % len(given)]


def take_turns(cells: Sequence[tuple[Cell, Callable[[float], tuple[float, list[float]]]]], seconds: float) -> None:
    """Measure cells in turns, `seconds` each in all."""
    for _ in range(TURNS):
        for cell, measure in cells:
            rate, latencies = measure(seconds / TURNS)
            cell.rates.append(rate)
            cell.seconds += latencies


class Bench:
    """One version in one precision: its lanes with and without graphs, and the naive way where there is a plan."""

    def __init__(self, suite: Suite, version: EngineVersion, precision: str, slots: Slots, scattered: Slots) -> None:
        self.suite = suite
        self.version = version
        self.precision = precision
        self.slots = slots
        self.scattered = scattered

    def run(self, result: ResultFile) -> list[dict[str, Any]]:
        """Measure every cell and keep each as soon as it is there."""
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
                open_lanes(*self._plain()) as plain,
                open_lanes(*self._naive()) as naive,
                open_lanes(*self._spinning()) as spinning,
            ):
                for each in (lanes, plain, naive, spinning):
                    fill_once(each, windows)
                for count in (count for count in LANE_COUNTS if count <= most):
                    for bucket in suite.buckets:
                        cells = self._cells(lanes, plain, naive, spinning, count, bucket)
                        take_turns(cells, suite.seconds)
                        for cell, _ in cells:
                            found.append({**head, **cell.as_dict()})
                            result.append("cells", found[-1])
        return found

    def _cells(
        self,
        lanes: Sequence[Any],
        plain: Sequence[Any],
        naive: Sequence[Any],
        spinning: Sequence[Any],
        count: int,
        bucket: int,
    ) -> Any:
        chosen: list[tuple[str, Sequence[Any], Fill]] = [("graph", lanes[:count], self.slots.of(bucket))]
        if count in BARE_LANES:
            chosen.append(("graph, windows at any place", lanes[:count], self.scattered.of(bucket)))
            chosen.append(("graph, no gather", lanes[:count], no_fill))
        if spinning and count == 1:
            chosen.append(("graph, no gather, spinning", spinning, no_fill))
        if plain and count in PLAIN_LANES and bucket in PLAIN_BUCKETS:
            chosen.append(("plain enqueue", plain[:count], self.slots.of(bucket)))
        if naive and count == 1 and bucket in NAIVE_BUCKETS:
            chosen.append(("dynamic shapes, plain enqueue", naive[:1], self.slots.of(bucket)))
        return [(Cell(name, count, bucket), measure_of(on, bucket, fill)) for name, on, fill in chosen]

    def _plain(self) -> tuple[Any, int]:
        buckets = tuple(bucket for bucket in PLAIN_BUCKETS if bucket in self.suite.buckets)
        if self.suite.arguments.backend != "tensorrt" or not buckets:
            return None, 0
        backend = make_backend(self.suite, self.version, self.precision, graphs=False, buckets=buckets)
        return backend, self.suite.arguments.max_lanes

    def _spinning(self) -> tuple[Any, int]:
        if self.suite.arguments.backend != "tensorrt":
            return None, 0
        return make_backend(self.suite, self.version, self.precision, spin=True), 1

    def _naive(self) -> tuple[Any, int]:
        plan = naive_plan(self.suite, self.version, self.precision)
        if self.suite.arguments.backend != "tensorrt" or not plan.is_file():
            return None, 0
        from streamd.inference.tensorrt.engine import Plan
        from streamd.inference.tensorrt.lane import TensorRtBackend

        buckets = tuple(bucket for bucket in NAIVE_BUCKETS if bucket in self.suite.buckets) or (64,)
        return TensorRtBackend(Plan(plan, self.precision), self.version.contract, buckets, graphs=False), 1


def measure_of(lanes: Sequence[Any], bucket: int, fill: Fill) -> Callable[[float], tuple[float, list[float]]]:
    """`drive`, but for the seconds."""
    return lambda seconds: drive(lanes, bucket, fill, seconds)


def naive_plan(suite: Suite, version: EngineVersion, precision: str) -> Path:
    """Where the plan of dynamic shapes lies; section `naive` builds it."""
    path: Path = suite.arguments.plans / version.name / f"dynamic_{precision}.engine"
    return path


def summary(cells: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The figures that goals are stated in, of one version and precision."""
    ours = {(cell["lanes"], cell["bucket"]): cell for cell in cells if cell["variant"] == "graph"}
    if not ours:
        return {}
    best = max(ours.values(), key=lambda cell: cell["forecasts_per_second"])
    quick = [cell for cell in ours.values() if cell.get("p99_ms", np.inf) <= P99_LIMIT_MS]
    quickest = max(quick, key=lambda cell: cell["forecasts_per_second"], default=None)
    naive = [cell for cell in cells if cell["variant"].startswith("dynamic")]
    naive_rate = max((cell["forecasts_per_second"] for cell in naive), default=None)
    one, eight = ours.get((1, 32)), ours.get((8, 32))
    alone = {cell["variant"]: cell.get("p99_ms") for cell in cells if (cell["lanes"], cell["bucket"]) == (1, 256)}
    return {
        "best": _brief(best),
        f"best_with_p99_within_{P99_LIMIT_MS:g}_ms": _brief(quickest),
        "bucket_32_eight_lanes_over_one": _ratio(eight, one),
        "bucket_256_on_one_lane_p99_ms": alone,
        "best_over_dynamic_plain_enqueue": round(best["forecasts_per_second"] / naive_rate, 2) if naive_rate else None,
        "dynamic_plain_enqueue_forecasts_per_second": naive_rate,
        "at_least_500000_per_second": bool(best["forecasts_per_second"] >= PATCH_GOAL),
    }


def _ratio(above: dict[str, Any] | None, below: dict[str, Any] | None) -> float | None:
    if above is None or below is None:
        return None
    return round(float(above["forecasts_per_second"]) / max(float(below["forecasts_per_second"]), 1e-9), 2)


def _brief(cell: dict[str, Any] | None) -> dict[str, Any] | None:
    kept = ("lanes", "bucket", "forecasts_per_second", "p50_ms", "p99_ms")
    return None if cell is None else {name: cell.get(name) for name in kept}


def run(suite: Suite) -> None:
    """Measure every version in every precision."""
    result = ResultFile(suite, "throughput", not_measured=__doc__, seconds_a_cell=suite.seconds, turns=TURNS)
    contract = suite.versions[0].contract
    servers = suite.arguments.servers
    store = filled_store(contract, servers)
    slots = Slots(servers, Gatherer(contract, store))
    scattered = Slots(servers, Gatherer(contract, with_places(store, contract.context_length)))
    result.put("servers_in_the_store", servers)
    for version in suite.versions:
        for precision in precisions(suite, version):
            with suite.part(f"throughput {version.name} {precision}"):
                cells = Bench(suite, version, precision, slots, scattered).run(result)
                result.append("summaries", {"engine": version.name, "precision": precision, **summary(cells)})
                _print(version.name, precision, cells, summary(cells))


def _print(engine: str, precision: str, cells: Sequence[dict[str, Any]], figures: dict[str, Any]) -> None:
    buckets = sorted({cell["bucket"] for cell in cells})
    rows = []
    for variant, lanes in sorted({(cell["variant"], cell["lanes"]) for cell in cells}):
        row = {cell["bucket"]: cell for cell in cells if cell["variant"] == variant and cell["lanes"] == lanes}
        rates = [_cell_text(row.get(bucket)) for bucket in buckets]
        rows.append((f"{variant}, {lanes} lane{'s' * (lanes > 1)}", *rates))
    print_table(f"{engine} {precision}: forecasts/s (p99 ms)", ("variant", *map(str, buckets)), rows)
    for name, value in figures.items():
        print(f"  {name}: {value}")


def _cell_text(cell: dict[str, Any] | None) -> str:
    if cell is None:
        return "-"
    return f"{cell['forecasts_per_second']:,.0f} ({cell.get('p99_ms', 0):.2f})"
