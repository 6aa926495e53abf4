"""Where a second goes at saturation: every batch's gather, launch, wait and hand-over, and when the GPU worked.

A lane's work on the GPU lies between two CUDA events around it, told against one reference event; the GPU is busy
while any lane's work is under way. Hand-over is putting quantiles in order (in the lane's thread, as in the daemon)
and the call into a uvloop loop that has nothing else to do. Beside it the two floors: bytes over PCIe, operations
over the tensor cores. Not measured: which kernel takes how long, copies apart from kernels, sockets.
`benchmarks.gpu.timeline_picture` draws the result.
"""

import asyncio
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from benchmarks.gpu import floors
from benchmarks.gpu.harness import ResultFile, Suite, make_backend, open_lanes, precisions
from benchmarks.gpu.throughput import Fill, Slots, fill_once
from benchmarks.gpu.windows import Gatherer, filled_store, make_windows
from benchmarks.harness import print_table
from streamd.inference import cuda
from streamd.inference.cuda import Event
from streamd.repository.versions import EngineVersion
from streamd.runtime.lanes.worker import normalize_predictions

BUCKET = 128
EVENTS_A_LANE = 4_000
PICTURE_SECONDS = 0.03
"""How much of the middle is kept batch by batch."""


@dataclass(slots=True)
class Batch:
    """One batch; seconds of the host's clock, but for the two of the GPU, which are from the reference event on."""

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
    """Runs lanes at saturation and notes when what happened."""

    def __init__(self, lanes: Sequence[Any], bucket: int, fill: Fill, *, events: bool) -> None:
        self.lanes = lanes
        self.bucket = bucket
        self.fill = fill
        self.batches: list[Batch] = []
        self.reference_at = 0.0
        """When the reference event was, by the host's clock."""
        self._pairs: list[tuple[Batch, Event, Event]] = []
        self._events = events
        self._stop = threading.Event()
        self._lock = threading.Lock()

    async def run(self, seconds: float) -> None:
        """Run all lanes for so long; results come to this loop."""
        loop = asyncio.get_running_loop()
        pools = [self._pool() for _ in self.lanes]
        reference = self._reference() if self._events else None
        self.reference_at = time.perf_counter()
        threads = [
            threading.Thread(target=self._lane, args=(place, pools[place], loop)) for place in range(len(self.lanes))
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

    def _pool(self) -> list[tuple[Event, Event]]:
        count = EVENTS_A_LANE if self._events else 0
        return [(Event(timing=True), Event(timing=True)) for _ in range(count)]

    def _reference(self) -> Event:
        event = Event(timing=True)
        stream = stream_of(self.lanes[0])
        event.record(stream)
        event.synchronize()
        return event

    def _lane(self, place: int, pool: list[tuple[Event, Event]], loop: asyncio.AbstractEventLoop) -> None:
        lane, clock, number = self.lanes[place], time.perf_counter, 0
        marks = iter(pool)
        lane.run(self.bucket)  # this thread's device is set by it
        while not self._stop.is_set():
            pair = next(marks, None)
            began = clock()
            self.fill(place, number, lane.inputs)
            gathered = clock()
            launched, result = self._run(lane, pair)
            waited = clock()
            normalize_predictions(result)
            batch = Batch(place, began, gathered, launched, waited, clock())
            loop.call_soon_threadsafe(self._take, batch)
            if pair is not None:
                with self._lock:
                    self._pairs.append((batch, *pair))
            number += 1

    def _run(self, lane: Any, pair: tuple[Event, Event] | None) -> tuple[float, Any]:
        """Start and wait, with the marks around the work where there are any."""
        if not hasattr(lane, "start"):
            return time.perf_counter(), lane.run(self.bucket)
        stream = stream_of(lane)
        if pair is not None:
            pair[0].record(stream)
        lane.start(self.bucket)
        if pair is not None:
            pair[1].record(stream)
        launched = time.perf_counter()
        return launched, lane.wait(self.bucket)

    def _take(self, batch: Batch) -> None:
        batch.received = time.perf_counter()
        self.batches.append(batch)

    def _read_events(self, reference: Event) -> None:
        for batch, first, last in self._pairs:
            last.synchronize()
            batch.gpu_began = first.elapsed_ms(reference) / 1e3
            batch.gpu_ended = last.elapsed_ms(reference) / 1e3


def stream_of(lane: Any) -> Any:
    """The stream that a TensorRT lane's work is on."""
    return lane._executor._stream


def union_seconds(intervals: Sequence[tuple[float, float]]) -> float:
    """The length of what intervals cover together."""
    covered, until = 0.0, -np.inf
    for begin, end in sorted(intervals):
        covered += max(0.0, end - max(begin, until))
        until = max(until, end)
    return float(covered)


def account(recorder: Recorder, seconds: float) -> dict[str, Any]:
    """Where the lanes' and the GPU's time went, over the middle eight tenths."""
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
        busy, total = union_seconds(marked), sum(end - begin for begin, end in marked)
        found |= {
            "gpu_busy_share": round(busy / span, 4),
            "lanes_on_the_gpu_at_once": round(total / span, 3),
            "gpu_mean_ms_a_batch": round(1e3 * total / len(marked), 4),
            "batches_with_marks": len(marked),
        }
    return found


def floors_of(suite: Suite, version: EngineVersion, reached: float) -> dict[str, Any]:
    """Both floors as forecasts a second, and what share of each was reached."""
    each = floors.bytes_per_forecast(version.contract)
    operations = floors.operations_per_forecast(version)
    found: dict[str, Any] = {"bytes_per_forecast": each, "operations_per_forecast": operations}
    total = sum(operations.values())
    for name, tflops in floors.measured_matmul_tflops(suite.arguments.out).items():
        floor = tflops * 1e12 / total
        found[f"{name.removesuffix('_tflops')}_floor_forecasts_per_second"] = round(floor)
        found[f"{name.removesuffix('_tflops')}_share_reached"] = round(reached / floor, 4)
    if suite.arguments.backend == "tensorrt":
        speed = floors.pcie_bytes_per_second(version.contract)
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
    slots = Slots(suite.arguments.servers, Gatherer(contract, filled_store(contract, suite.arguments.servers)))
    bucket = BUCKET if BUCKET in suite.buckets else suite.buckets[-1]
    tensorrt = suite.arguments.backend == "tensorrt"
    for version in suite.versions:
        for precision in precisions(suite, version):
            with suite.part(f"timeline {version.name} {precision}"):
                backend = make_backend(suite, version, precision, lanes_per_device=most, buckets=(bucket,))
                with open_lanes(backend, most) as lanes:
                    fill_once(lanes, make_windows(version.contract, bucket))
                    if tensorrt:
                        cuda.use_device(0)
                    recorder = Recorder(lanes, bucket, slots.of(bucket), events=tensorrt)
                    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                        runner.run(recorder.run(suite.seconds))
                found = account(recorder, suite.seconds)
                head = {"engine": version.name, "precision": precision, "lanes": most, "bucket": bucket}
                entry = {**head, **found, "picture": _picture(recorder, suite.seconds)}
                result.append("runs", entry)
                with suite.part(f"floors {version.name}"):
                    entry["floors"] = floors_of(suite, version, found["forecasts_per_second"])
                    result.write()
                _print(entry)


def _picture(recorder: Recorder, seconds: float) -> list[dict[str, Any]]:
    """The batches of a short stretch in the middle, times in ms from its beginning."""
    first = recorder.reference_at + 0.5 * seconds
    last = first + min(PICTURE_SECONDS, 0.4 * seconds)
    kept = []
    for batch in recorder.batches:
        if first <= batch.ordered and batch.began <= last:
            times = asdict(batch)
            lane = times.pop("lane")
            shift = first - recorder.reference_at
            for name in times:
                origin = shift if name.startswith("gpu") else first
                times[name] = round(1e3 * (times[name] - origin), 4)
            kept.append({"lane": lane, **times})
    return kept


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
