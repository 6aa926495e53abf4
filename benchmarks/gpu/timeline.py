"""A timeline of lanes at saturation: the gather, launch, wait and transfer of every batch, and the GPU's busy times.

The work of a lane on the GPU is between two CUDA events, whose times are relative to one reference event; the GPU is
busy while the work of any lane is in progress. After the wait, predictions are normalized (in the lane's thread, as in
the daemon) and transferred by a call into a uvloop loop that has no other work. The two lower bounds are beside them:
bytes over PCIe, operations on the tensor cores. Not measured: the time of each kernel, copies apart from kernels,
sockets. `benchmarks.gpu.timeline_picture` draws the result.
"""

import asyncio
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from benchmarks.gpu import floors
from benchmarks.gpu.harness import ResultFile, Suite, list_precisions, make_backend, open_lanes
from benchmarks.gpu.throughput import Fill, SlotTurns, fill_inputs
from benchmarks.gpu.windows import Gatherer, make_filled_store, make_windows
from benchmarks.harness import print_table
from streamd.inference import cuda
from streamd.inference.cuda import Event
from streamd.repository.versions import EngineVersion
from streamd.runtime.lanes.worker import normalize_predictions

BUCKET = 128
EVENTS_A_LANE = 4_000
PICTURE_SECONDS = 0.03
"""The length of the stretch in the middle whose batches are in the result."""


@dataclass(slots=True)
class Batch:
    """The times of one batch in seconds: of the host's clock, but those of the GPU since the reference event."""

    lane: int
    began: float
    gathered: float
    launched: float
    waited: float
    ordered: float
    received: float = 0.0
    gpu_began: float = 0.0
    gpu_ended: float = 0.0


class Recorder:
    """A run of lanes at saturation that records the times of every batch."""

    def __init__(self, lanes: Sequence[Any], bucket: int, fill: Fill, *, events: bool) -> None:
        self.lanes = lanes
        self.bucket = bucket
        self.fill = fill
        self.batches: list[Batch] = []
        self.reference_at = 0.0
        """The time of the reference event, by the host's clock."""
        self._pairs: list[tuple[Batch, Event, Event]] = []
        self._events = events
        self._stop = threading.Event()
        self._lock = threading.Lock()

    async def run(self, seconds: float) -> None:
        """Run all lanes for `seconds`; results are sent to this loop."""
        loop = asyncio.get_running_loop()
        pools = [self._make_events() for _ in self.lanes]
        reference = self._record_reference() if self._events else None
        self.reference_at = time.perf_counter()
        threads = [
            threading.Thread(target=self._run_lane, args=(place, pools[place], loop))
            for place in range(len(self.lanes))
        ]
        for thread in threads:
            thread.start()
        await asyncio.sleep(seconds)
        self._stop.set()
        await asyncio.gather(*(asyncio.to_thread(thread.join) for thread in threads))
        await asyncio.sleep(0.01)
        if reference is not None:
            self._read_events(reference)
        for event in (
            *(event for pool in pools for pair in pool for event in pair),
            *([reference] if reference else []),
        ):
            event.close()

    def _make_events(self) -> list[tuple[Event, Event]]:
        count = EVENTS_A_LANE if self._events else 0
        return [(Event(timing=True), Event(timing=True)) for _ in range(count)]

    def _record_reference(self) -> Event:
        event = Event(timing=True)
        stream = get_stream(self.lanes[0])
        event.record(stream)
        event.synchronize()
        return event

    def _run_lane(self, place: int, pool: list[tuple[Event, Event]], loop: asyncio.AbstractEventLoop) -> None:
        lane, clock, number = self.lanes[place], time.perf_counter, 0
        marks = iter(pool)
        lane.run(self.bucket)  # The first run makes the device current in this thread.
        while not self._stop.is_set():
            pair = next(marks, None)
            began = clock()
            self.fill(place, number, lane.inputs)
            gathered = clock()
            launched, result = self._run_batch(lane, pair)
            waited = clock()
            normalize_predictions(result)
            batch = Batch(place, began, gathered, launched, waited, clock())
            loop.call_soon_threadsafe(self._receive, batch)
            if pair is not None:
                with self._lock:
                    self._pairs.append((batch, *pair))
            number += 1

    def _run_batch(self, lane: Any, pair: tuple[Event, Event] | None) -> tuple[float, Any]:
        """Start a batch and wait for it, with events around the work if there are any."""
        if not hasattr(lane, "start"):
            return time.perf_counter(), lane.run(self.bucket)
        stream = get_stream(lane)
        if pair is not None:
            pair[0].record(stream)
        lane.start(self.bucket)
        if pair is not None:
            pair[1].record(stream)
        launched = time.perf_counter()
        return launched, lane.wait(self.bucket)

    def _receive(self, batch: Batch) -> None:
        batch.received = time.perf_counter()
        self.batches.append(batch)

    def _read_events(self, reference: Event) -> None:
        for batch, first, last in self._pairs:
            last.synchronize()
            batch.gpu_began = first.elapsed_ms(reference) / 1e3
            batch.gpu_ended = last.elapsed_ms(reference) / 1e3


def get_stream(lane: Any) -> Any:
    """Return the stream of a TensorRT lane, which has no public name because only benchmarks need it."""
    return lane._executor._stream


def compute_union_seconds(intervals: Sequence[tuple[float, float]]) -> float:
    """Compute the length of the union of intervals."""
    covered, until = 0.0, -np.inf
    for begin, end in sorted(intervals):
        covered += max(0.0, end - max(begin, until))
        until = max(until, end)
    return float(covered)


def account_time(recorder: Recorder, seconds: float) -> dict[str, Any]:
    """Compute the shares of the lanes' and the GPU's time, over the middle eight tenths of the run."""
    first = recorder.reference_at + 0.1 * seconds
    last = recorder.reference_at + 0.9 * seconds
    inside = [batch for batch in recorder.batches if first <= batch.began and batch.ordered <= last]
    wall, lanes = last - first, len(recorder.lanes)
    phases = {
        "gather": sum(batch.gathered - batch.began for batch in inside),
        "launch": sum(batch.launched - batch.gathered for batch in inside),
        "wait": sum(batch.waited - batch.launched for batch in inside),
        "put in order": sum(batch.ordered - batch.waited for batch in inside),
    }
    found: dict[str, Any] = {
        "forecasts_per_second": round(len(inside) * recorder.bucket / wall, 1),
        "batches": len(inside),
        "share_of_lane_time": {name: round(value / (wall * lanes), 4) for name, value in phases.items()},
        "mean_ms": {name: round(1e3 * value / max(len(inside), 1), 4) for name, value in phases.items()},
        "hand_over_mean_ms": round(1e3 * float(np.mean([b.received - b.ordered for b in inside])), 4)
        if inside
        else None,
    }
    marked = [(batch.gpu_began, batch.gpu_ended) for batch in inside if batch.gpu_ended]
    if marked:
        span = max(end for _, end in marked) - min(begin for begin, _ in marked)
        busy, total = compute_union_seconds(marked), sum(end - begin for begin, end in marked)
        found |= {
            "gpu_busy_share": round(busy / span, 4),
            "lanes_on_the_gpu_at_once": round(total / span, 3),
            "gpu_mean_ms_a_batch": round(1e3 * total / len(marked), 4),
            "batches_with_marks": len(marked),
        }
    return found


def compute_floors(suite: Suite, version: EngineVersion, reached: float) -> dict[str, Any]:
    """Compute both lower bounds as forecasts a second, and the share of each that was reached."""
    each = floors.count_bytes(version.contract)
    operations = floors.count_operations(version)
    found: dict[str, Any] = {"bytes_per_forecast": each, "operations_per_forecast": operations}
    total = sum(operations.values())
    for name, tflops in floors.read_matmul_tflops(suite.arguments.out).items():
        floor = tflops * 1e12 / total
        found[f"{name.removesuffix('_tflops')}_floor_forecasts_per_second"] = round(floor)
        found[f"{name.removesuffix('_tflops')}_share_reached"] = round(reached / floor, 4)
    if suite.arguments.backend == "tensorrt":
        speed = floors.measure_pcie(version.contract)
        found["pcie_gb_per_second"] = {name: round(value / 1e9, 2) for name, value in speed.items()}
        floor = min(
            speed["to_device"] / each["to_device"],
            speed["to_host"] / each["to_host"],
            speed["both_at_once"] / sum(each.values()),
        )
        found |= {"pcie_floor_forecasts_per_second": round(floor), "pcie_share_reached": round(reached / floor, 4)}
    return found


def run(suite: Suite) -> None:
    """Record every version in every precision."""
    import uvloop

    result = ResultFile(suite, "timeline", not_measured=__doc__)
    contract, most = suite.versions[0].contract, suite.arguments.max_lanes
    slots = SlotTurns(suite.arguments.servers, Gatherer(contract, make_filled_store(contract, suite.arguments.servers)))
    bucket = BUCKET if BUCKET in suite.buckets else suite.buckets[-1]
    tensorrt = suite.arguments.backend == "tensorrt"
    for version in suite.versions:
        for precision in list_precisions(suite, version):
            with suite.run_part(f"timeline {version.name} {precision}"):
                backend = make_backend(suite, version, precision, lanes_per_device=most, buckets=(bucket,))
                with open_lanes(backend, most) as lanes:
                    fill_inputs(lanes, make_windows(version.contract, bucket))
                    if tensorrt:
                        cuda.use_device(0)
                    recorder = Recorder(lanes, bucket, slots.make_fill(bucket), events=tensorrt)
                    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                        runner.run(recorder.run(suite.seconds))
                found = account_time(recorder, suite.seconds)
                head = {"engine": version.name, "precision": precision, "lanes": most, "bucket": bucket}
                entry = {**head, **found, "picture": _select_batches(recorder, suite.seconds)}
                result.append("runs", entry)
                with suite.run_part(f"floors {version.name}"):
                    entry["floors"] = compute_floors(suite, version, found["forecasts_per_second"])
                    result.write()
                _print(entry)


def _select_batches(recorder: Recorder, seconds: float) -> list[dict[str, Any]]:
    """Select the batches of a short stretch in the middle, with times in ms from its beginning."""
    first = recorder.reference_at + 0.5 * seconds
    last = first + min(PICTURE_SECONDS, 0.4 * seconds)
    selected = []
    for batch in recorder.batches:
        if first <= batch.ordered and batch.began <= last:
            times = asdict(batch)
            lane = times.pop("lane")
            shift = first - recorder.reference_at
            for name in times:
                origin = shift if name.startswith("gpu") else first
                times[name] = round(1e3 * (times[name] - origin), 4)
            selected.append({"lane": lane, **times})
    return selected


def _print(entry: dict[str, Any]) -> None:
    title = f"{entry['engine']} {entry['precision']}: {entry['lanes']} lanes, bucket {entry['bucket']}"
    rows = [
        (name, f"{value:.2%}", f"{entry['mean_ms'][name]:.3f}") for name, value in entry["share_of_lane_time"].items()
    ]
    print_table(title, ("phase of a lane", "share", "mean ms"), rows)
    for name in ("forecasts_per_second", "hand_over_mean_ms", "gpu_busy_share", "lanes_on_the_gpu_at_once"):
        print(f"  {name}: {entry.get(name)}")
    for name, value in entry.get("floors", {}).items():
        print(f"  {name}: {value}")
