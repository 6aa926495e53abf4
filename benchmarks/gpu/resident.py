"""Forecasts a second from the window store to results, with windows that stay on the device, beside windows copied.

A lane is one thread, as in the daemon. Variants take turns within a cell, on the same lanes' plan:

- `copied`: windows are gathered on the host and copied; results are as the network gives them. As `throughput` has it.
- `copied, finished`: the same, and the lane's thread sorts quantiles, puts targets first, finds what is not finite and
  computes checksums, as the daemon does.
- `resident`: each server has a new row; it is uploaded, the window is gathered on the device, and the forecasts come
  back sorted, targets first, checked, with their checksums.
- `resident, nothing new`: the same without new rows.

First each bucket's resident results are compared with the copied ones. `parts` has the time of the parts of a batch on
an idle device, by events. Staging of all lanes is one after the other, under a lock, as on the daemon's event loop.
Not measured: what `throughput` does not measure either.
"""

import threading
import time
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.gpu.harness import ResultFile, Suite, list_precisions, make_backend, open_lanes
from benchmarks.gpu.throughput import Cell, SlotTurns, fill_inputs, make_measurement, take_turns
from benchmarks.gpu.windows import Gatherer, make_filled_store, make_windows
from benchmarks.harness import print_table
from streamd.core.calendar import compute_known_future
from streamd.core.contract import ModelContract
from streamd.core.state.forecast_seals import compute_checks
from streamd.core.state.windows import WindowStore
from streamd.inference import cuda
from streamd.inference.cuda import Event
from streamd.inference.lane import HostWindows, Inputs
from streamd.repository.versions import EngineVersion
from streamd.runtime.lanes.worker import normalize_predictions

LANES = (1, 2, 4, 6, 8)
PART_REPEATS = 30
NO_NUMBER = np.zeros(1, np.int32)
GOALS = {"patch": 1_000_000, "tft": 200_000}


class HostFleet:
    """The windows of the host, whose servers report a row whenever they are staged."""

    def __init__(self, contract: ModelContract, store: WindowStore) -> None:
        self._lock = threading.Lock()
        self.make_calendar = cache(
            partial(compute_known_future, horizon=contract.horizon, step_seconds=contract.step_seconds)
        )
        self.windows = HostWindows(
            newest=store.arrays["newest"],
            changes=store.volatile["changes"],
            generations=np.zeros(store.capacity, np.int64),
            values=store.arrays["values"],
            marks=store.arrays["marks"],
        )

    def stage(self, lane: Any, slots: npt.NDArray[np.int64], *, rows: int) -> float:
        """Append so many rows to each of `slots` and stage them in a lane; returns the seconds of the staging."""
        windows = self.windows
        with self._lock:
            windows.newest[slots] += rows
            windows.changes[slots] += np.uint32(2 * rows)
            began = time.perf_counter()
            slots = slots[np.argsort(windows.newest[slots], kind="stable")]
            lane.resident.stage(windows, slots, NO_NUMBER, self.make_calendar)
            return time.perf_counter() - began


class ResidentLanes:
    """Lanes under the name and calls that `run_lanes` uses."""

    def __init__(self, lane: Any) -> None:
        self.inputs: Inputs = lane.inputs
        self.lane = lane

    def run(self, count: int) -> Any:
        """Run the staged batch."""
        return self.lane.resident.run(count)


class FinishingLane:
    """A lane whose thread also finishes the forecasts, as that of the daemon does."""

    def __init__(self, lane: Any) -> None:
        self.inputs: Inputs = lane.inputs
        self._lane = lane

    def run(self, count: int) -> Any:
        """Run a batch and finish it."""
        forecasts, bad_rows = normalize_predictions(self._lane.run(count))
        return forecasts, bad_rows, compute_checks(forecasts)


class Bench:
    """The measurements of one version in one precision."""

    def __init__(self, suite: Suite, version: EngineVersion, precision: str, store: WindowStore) -> None:
        self.suite = suite
        self.version = version
        self.precision = precision
        self.store = store
        self.fleet = HostFleet(version.contract, store)
        self.order = np.random.default_rng(5).permutation(store.capacity).astype(np.int64)

    def run(self, result: ResultFile) -> list[dict[str, Any]]:
        """Check, then measure every cell; writes each result at once."""
        suite, most = self.suite, self.suite.arguments.max_lanes
        head = {"engine": self.version.name, "precision": self.precision}
        found: list[dict[str, Any]] = []
        make = partial(make_backend, suite, self.version, self.precision, lanes_per_device=most)
        began = time.perf_counter()
        with open_lanes(make(capacity=self.store.capacity), most) as resident, open_lanes(make(), most) as copied:
            result.append(
                "opened", {**head, "seconds": round(time.perf_counter() - began, 2), **resident[0].describe()}
            )
            fill_inputs([*resident, *copied], make_windows(self.version.contract, 256))
            for bucket in suite.buckets:
                result.append("checked", {**head, **self.compare(resident, copied[0], bucket)})
            self.load_all(resident[0])
            for bucket in suite.buckets:
                result.append("parts", {**head, **self.measure_parts(resident[0], copied[0], bucket)})
            for count in (count for count in LANES if count <= most):
                for bucket in suite.buckets:
                    cells = self._make_cells(resident[:count], copied[:count], bucket)
                    take_turns(cells, suite.seconds)
                    for cell, _ in cells:
                        found.append({**head, **cell.summarize()})
                        result.append("cells", found[-1])
        return found

    # ------------------------------------------------------------ correctness
    def compare(self, resident: Sequence[Any], copied: Any, bucket: int) -> dict[str, Any]:
        """Run batches through all resident lanes in turn, with rows of all kinds; compare with the copied windows."""
        random, worst, wrong = np.random.default_rng(bucket), 0.0, 0
        gather = Gatherer(self.version.contract, self.store)
        for turn, lane in enumerate([*resident, *resident]):
            slots = random.choice(self.store.capacity, bucket, replace=False)
            slots = slots[np.argsort(self.store.arrays["newest"][slots], kind="stable")]
            self.fleet.stage(lane, slots, rows=turn % 3)
            finished = lane.resident.run(bucket)
            slots = slots[np.argsort(self.store.arrays["newest"][slots], kind="stable")]
            wrong += _count_differences(lane, copied, gather, slots, self.fleet)
            expected, bad_rows = normalize_predictions(copied.run(bucket))
            worst = max(worst, float(np.abs(finished.forecasts - expected).max() / np.abs(expected).max()))
            assert (finished.checks == compute_checks(finished.forecasts)).all(), "the checksums of the forecasts"
            assert finished.bad_rows == bad_rows
        return {"bucket": bucket, "largest_difference": worst, "inputs_that_differ": wrong}

    def load_all(self, lane: Any) -> None:
        """Upload every window once, so that only new rows are missing from then on."""
        bucket = self.suite.buckets[-1]
        for at in range(0, len(self.order), bucket):
            slots = self.order[at : at + bucket]
            self.fleet.stage(lane, slots, rows=0)
            lane.resident.run(len(slots))

    # ------------------------------------------------------------ where the time goes
    def measure_parts(self, resident: Any, copied: Any, bucket: int) -> dict[str, Any]:
        """Measure the parts of a batch on an idle device; median microseconds."""
        took: dict[str, list[float]] = {}
        with Event(timing=True) as began, Event(timing=True) as ended:
            for turn in range(PART_REPEATS):
                slots = self.order[(turn * bucket) % (len(self.order) - bucket) :][:bucket]
                took.setdefault("stage_on_host", []).append(self.fleet.stage(resident, slots, rows=1))
                for name, lane, batch in (("resident", resident, resident.resident), ("copied", copied, copied)):
                    began.record(lane.executor.stream)
                    clock = time.perf_counter()
                    batch.start(bucket)
                    took.setdefault(f"{name}_launch", []).append(time.perf_counter() - clock)
                    ended.record(lane.executor.stream)
                    made = batch.wait(bucket)
                    ended.synchronize()
                    took.setdefault(f"{name}_on_device", []).append(ended.elapsed_ms(began) / 1e3)
                clock = time.perf_counter()
                normalize_predictions(made)
                took.setdefault("finish_on_host", []).append(time.perf_counter() - clock)
        medians = {f"{name}_us": round(float(np.median(each)) * 1e6, 1) for name, each in took.items()}
        return {"bucket": bucket, **medians}

    # ------------------------------------------------------------ throughput
    def _make_cells(self, resident: Sequence[Any], copied: Sequence[Any], bucket: int) -> Any:
        gather = SlotTurns(self.store.capacity, Gatherer(self.version.contract, self.store)).make_fill(bucket)
        wrapped = [ResidentLanes(lane) for lane in resident]
        chosen: list[tuple[str, Sequence[Any], Any]] = [
            ("resident", wrapped, self._make_fill(wrapped, bucket, 1)),
            ("resident, nothing new", wrapped, self._make_fill(wrapped, bucket, 0)),
            ("copied", copied, gather),
            ("copied, finished", [FinishingLane(lane) for lane in copied], gather),
        ]
        return [(Cell(name, len(on), bucket), make_measurement(on, bucket, fill)) for name, on, fill in chosen]

    def _make_fill(self, lanes: Sequence[ResidentLanes], bucket: int, rows: int) -> Callable[[int, int, Inputs], None]:
        order, starts = self.order, len(self.order) - bucket + 1

        def fill(lane: int, number: int, inputs: Inputs) -> None:
            begin = (lane * 2_503 + number * bucket) % starts
            self.fleet.stage(lanes[lane].lane, order[begin : begin + bucket], rows=rows)

        return fill


def _count_differences(lane: Any, copied: Any, gather: Gatherer, slots: npt.NDArray[np.int64], fleet: HostFleet) -> int:
    """Gather the windows on the host too; returns how many of the network's inputs differ on the device."""
    count = len(slots)
    gather(slots, copied.inputs)
    for row, slot in enumerate(slots.tolist()):
        copied.inputs.decoder_cont[row] = fleet.make_calendar(int(fleet.windows.newest[slot]))
    differ = 0
    for name, expected in copied.inputs.view_first(count).items():
        found = download(lane.executor.pointers[name], expected.dtype, expected.shape)
        differ += int((found.view(np.uint32) != np.ascontiguousarray(expected).view(np.uint32)).any())
    return differ


def download(pointer: int, dtype: Any, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """Copy a tensor from the device."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    with cuda.HostBuffer(size) as pinned, cuda.Stream() as stream:
        array = pinned.array(dtype, shape)
        cuda.copy_to_host(array, pointer, size, stream)
        stream.synchronize()
        return array.copy()


def run(suite: Suite) -> None:
    """Measure every version in every precision that has a plan."""
    result = ResultFile(suite, "resident", not_measured=__doc__, seconds_a_cell=suite.seconds)
    result.put("servers_in_the_store", suite.arguments.servers)
    for version in suite.versions:
        store = make_filled_store(version.contract, suite.arguments.servers)
        for precision in list_precisions(suite, version):
            with suite.run_part(f"resident {version.name} {precision}"):
                cells = Bench(suite, version, precision, store).run(result)
                _print(version, precision, cells, result)


def _print(version: EngineVersion, precision: str, cells: Sequence[dict[str, Any]], result: ResultFile) -> None:
    buckets = sorted({cell["bucket"] for cell in cells})
    rows = []
    for variant, lanes in sorted({(cell["variant"], cell["lanes"]) for cell in cells}):
        row = {cell["bucket"]: cell for cell in cells if cell["variant"] == variant and cell["lanes"] == lanes}
        rates = [
            f"{row[bucket]['forecasts_per_second']:,.0f} ({row[bucket].get('p99_ms', 0):.1f})" for bucket in buckets
        ]
        rows.append((f"{variant}, {lanes}", *rates))
    print_table(f"{version.name} {precision}: forecasts/s (p99 ms)", ("variant, lanes", *map(str, buckets)), rows)
    for kind in ("checked", "parts"):
        for each in result.content.get(kind, []):
            if each["engine"] == version.name:
                print(f"  {kind}: { ({k: v for k, v in each.items() if k not in ('engine', 'precision')}) }")
    best = max((cell for cell in cells if cell["variant"] == "resident"), key=lambda cell: cell["forecasts_per_second"])
    goal = next((each for name, each in GOALS.items() if version.name.startswith(name)), 0)
    rate, lanes, bucket = (best[name] for name in ("forecasts_per_second", "lanes", "bucket"))
    print(f"  best resident: {rate:,.0f}/s, {lanes} lanes of {bucket}; goal {goal:,}")
