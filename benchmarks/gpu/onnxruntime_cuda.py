"""ONNX Runtime's CUDA lanes: their errors against the CPU, and forecasts a second by lanes and batch size.

`python -m benchmarks.gpu.onnxruntime_cuda --out FOLDER`. Each lane is a thread that runs one batch after the other on
inputs that do not change; the latency of a batch is from its copy to the device until its forecasts are in host memory.
Variants take turns: float32, and matrix products in TensorFloat-32. Not measured: gathering windows, the transfer to
the event loop, fan-out, a network; batches that arrive at random; a model's own accuracy; several GPUs.
"""

import argparse
import json
import os
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.gpu.harness import ROOT, compute_percentiles_ms, describe_environment, find_versions, open_lanes
from benchmarks.gpu.windows import make_windows
from benchmarks.harness import print_table
from streamd.core.arrays import Float32
from streamd.core.errors import StreamdError
from streamd.inference.lane import Inputs
from streamd.inference.onnxruntime.cpu_lane import OnnxRuntimeCpuBackend
from streamd.inference.onnxruntime.cuda_lane import OnnxRuntimeCudaBackend
from streamd.repository.versions import EngineVersion

BATCHES_A_LANE = 24
LIMITS = {"fp32": 1e-3, "tf32": 5e-3}
"""The largest errors that pass, over all windows and scaled."""

WARMUP_SECONDS = 0.2
"""The time before a turn counts; every lane is busy by then."""

TURNS = 2


@dataclass
class Report:
    """The result file, which is written after every part."""

    path: Path
    content: dict[str, Any]

    def add(self, version: str, key: str, value: Any) -> None:
        """Add to a version's list of parts and write the file."""
        self.content.setdefault("versions", {}).setdefault(version, {}).setdefault(key, []).append(value)
        self.path.write_text(json.dumps(self.content, indent=1, default=float) + "\n", encoding="utf-8")


def main(arguments: list[str] | None = None) -> int:
    """Measure the requested versions; returns 1 if anything was wrong or did not run."""
    args = parse(arguments)
    args.out.mkdir(parents=True, exist_ok=True)
    report = Report(
        args.out / "onnxruntime_cuda.json", {"measured_on": describe_environment(), "not_measured": __doc__}
    )
    failures: list[str] = []
    for version in find_versions(args.engines, args.only):
        try:
            failures += measure(version, args, report)
        except StreamdError as error:
            failures.append(f"{version.name}: {error}")
    report.content["failures"] = failures
    report.path.write_text(json.dumps(report.content, indent=1, default=float) + "\n", encoding="utf-8")
    for failure in failures:
        print(f"FAILED  {failure}")
    return 1 if failures else 0


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse a command line; exits with 2, as argparse does, if it is wrong."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.onnxruntime_cuda", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the result")
    parser.add_argument(
        "--engines", type=Path, default=ROOT / "engines", help="folder of engine versions [default: engines]"
    )
    parser.add_argument(
        "--only", type=_parse_names, default=[], help="versions whose names begin so, such as patch,tft [default: all]"
    )
    parser.add_argument(
        "--buckets", type=_parse_numbers, default=(1, 32, 256), help="batch sizes to measure [default: 1,32,256]"
    )
    parser.add_argument(
        "--lanes", type=_parse_numbers, default=(1, 4), help="numbers of lanes to measure [default: 1,4]"
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=1.5,
        help="time for each cell, all of its turns together [default: %(default)g]",
    )
    parser.add_argument(
        "--windows", type=int, default=512, help="number of windows of the correctness check [default: %(default)s]"
    )
    return parser.parse_args(arguments)


def measure(version: EngineVersion, args: argparse.Namespace, report: Report) -> list[str]:
    """Check and time one version; returns the failures."""
    failures = []
    backends = {
        name: OnnxRuntimeCudaBackend(
            version.onnx,
            version.contract,
            args.buckets,
            lanes_per_device=max(args.lanes),
            tensor_float32=name == "tf32",
        )
        for name in LIMITS
    }
    windows = make_windows(version.contract, max(args.windows, *args.buckets))
    expected = forecast_on_cpu(version, windows)
    print(f"\n{version.name}: {next(iter(backends.values())).describe()}", flush=True)
    for name, backend in backends.items():
        began = time.perf_counter()
        with open_lanes(backend, max(args.lanes)) as lanes:
            opened_seconds = time.perf_counter() - began
            found = check(lanes, windows, expected)
            facts = {"precision": name, "opened_seconds": round(opened_seconds, 2), "lane": lanes[0].describe()}
            report.add(version.name, "correctness", {**facts, **backend.describe(), **found})
            print(f"  {name}: {facts} {found}", flush=True)
            off = max(found["relative_error"], found["scaled_error"]) > LIMITS[name]
            if off or found["strangers"] or found["not_finite"]:
                failures.append(f"{version.name} {name}: {found}")
    cells = []
    for count in args.lanes:
        for cell in time_lanes(backends, count, windows, args):
            cells.append(cell)
            report.add(version.name, "throughput", cell)
    keys = ("precision", "lanes", "bucket", "forecasts_per_second", "p50_ms", "p99_ms", "cores")
    print_table(version.name, keys, [[cell[key] for key in keys] for cell in cells])
    return failures


# ---------------------------------------------------------------- correctness
def forecast_on_cpu(version: EngineVersion, windows: Inputs) -> Float32:
    """Forecast with ONNX Runtime on all cores in float32: `(window, horizon, targets, quantiles) float32`."""
    count, most = len(windows.encoder_cont), 64
    lane = OnnxRuntimeCpuBackend(version.onnx, version.contract, (most,), len(os.sched_getaffinity(0))).make_lane(0)
    parts = []
    for begin in range(0, count, most):
        places = np.arange(begin, min(begin + most, count))
        fill_inputs(lane.inputs, windows, places)
        parts.append(lane.run(len(places)).copy())
    return np.concatenate(parts)


def fill_inputs(inputs: Inputs, windows: Inputs, places: npt.NDArray[np.int64]) -> None:
    """Copy windows into the first rows of a lane's inputs."""
    buffers = inputs.view_first(len(places))
    for name, source in windows.view_first(len(windows.encoder_cont)).items():
        buffers[name][:] = source[places]


def check(lanes: Sequence[Any], windows: Inputs, expected: Float32) -> dict[str, Any]:
    """Run random windows in batches of random size on all lanes at once; returns the errors.

    `scaled_error` is the root mean square of the relative errors of each window and target, so that bytes do not hide
    percents; `strangers` are rows that are nearer to the window of a neighbour in the batch than to their own.
    """
    norms = np.sqrt(np.square(expected, dtype=np.float64).sum(axis=(1, 3)))  # of each window and target
    found: list[dict[str, Any]] = []
    errors: list[Exception] = []

    def work(lane: Any, seed: int) -> None:
        random = np.random.default_rng(seed)
        sizes = [*lane.buckets, *random.integers(1, lane.buckets[-1] + 1, BATCHES_A_LANE).tolist()]
        try:
            for size in sizes:
                places = random.integers(0, len(expected), size)
                fill_inputs(lane.inputs, windows, places)
                found.append(compare(lane.run(size).copy(), expected, norms, places))
        except Exception as error:
            errors.append(error)

    run_in_threads(work, lanes)
    if errors:
        raise errors[0]
    return {
        "windows": sum(each["windows"] for each in found),
        "batches": len(found),
        "relative_error": float(
            np.sqrt(sum(each["squared_error"] for each in found) / sum(each["squared"] for each in found))
        ),
        "scaled_error": float(np.sqrt(np.mean(np.concatenate([each["scaled"] for each in found])))),
        "worst_window_and_target": max(each["worst"] for each in found),
        "strangers": sum(each["strangers"] for each in found),
        "not_finite": sum(each["not_finite"] for each in found),
    }


def compare(
    forecasts: Float32, expected: Float32, norms: npt.NDArray[np.float64], places: npt.NDArray[np.int64]
) -> dict[str, Any]:
    """Compare one batch with the forecasts of the CPU."""
    own = expected[places].astype(np.float64)
    squares = np.square(forecasts - own).sum(axis=(1, 3))
    scale = np.maximum(norms[places], 1e-9)
    to_own = (squares / scale**2).sum(axis=1)
    neighbours = np.roll(own, 1, axis=0)
    to_neighbour = (np.square(forecasts - neighbours).sum(axis=(1, 3)) / scale**2).sum(axis=1)
    differ = places != np.roll(places, 1)
    return {
        "windows": len(places),
        "squared_error": float(squares.sum()),
        "squared": float(np.square(own).sum()),
        "scaled": (squares / scale**2).ravel(),
        "worst": float(np.sqrt(squares / scale**2).max()),
        "strangers": int((differ & (to_neighbour < to_own)).sum()),
        "not_finite": int((~np.isfinite(forecasts)).any(axis=(1, 2, 3)).sum()),
    }


# ---------------------------------------------------------------- speed
def time_lanes(
    backends: dict[str, OnnxRuntimeCudaBackend], count: int, windows: Inputs, args: argparse.Namespace
) -> list[dict[str, Any]]:
    """Time every bucket on `count` lanes; the precisions take turns."""
    cells: dict[tuple[int, str], list[dict[str, Any]]] = {}
    for turn in range(TURNS):
        for name, backend in backends.items():
            with open_lanes(backend, count) as lanes:
                for lane in lanes:
                    fill_inputs(lane.inputs, windows, np.arange(lane.buckets[-1]))
                for bucket in args.buckets:
                    cell = time_once(lanes, bucket, args.seconds / TURNS)
                    cells.setdefault((bucket, name), []).append({**cell, "turn": turn})
    return [summarize(name, count, bucket, turns) for (bucket, name), turns in sorted(cells.items())]


def summarize(precision: str, lanes: int, bucket: int, turns: list[dict[str, Any]]) -> dict[str, Any]:
    """Summarize one cell: the mean of its turns, each turn, and the latencies of all."""
    seconds = np.concatenate([turn["seconds"] for turn in turns])
    return {
        "precision": precision,
        "lanes": lanes,
        "bucket": bucket,
        "forecasts_per_second": round(float(np.mean([turn["rate"] for turn in turns])), 1),
        "turns": [round(turn["rate"], 1) for turn in turns],
        "batches": len(seconds),
        "cores": round(float(np.mean([turn["cores"] for turn in turns])), 2),
        **compute_percentiles_ms(seconds),
    }


def time_once(lanes: Sequence[Any], bucket: int, seconds: float) -> dict[str, Any]:
    """Run one batch size on all lanes for `seconds`; `cores` is the number of cores that the process kept busy."""
    took: list[list[float]] = [[] for _ in lanes]
    errors: list[Exception] = []
    counted = threading.Event()
    stop = threading.Event()

    def work(lane: Any, place: int) -> None:
        try:
            while not stop.is_set():
                began = time.perf_counter()
                lane.run(bucket)
                if counted.is_set():
                    took[place].append(time.perf_counter() - began)
        except Exception as error:
            errors.append(error)
            stop.set()

    threads = [threading.Thread(target=work, args=(lane, place)) for place, lane in enumerate(lanes)]
    for thread in threads:
        thread.start()
    stop.wait(WARMUP_SECONDS)
    before, began = time.process_time(), time.perf_counter()
    counted.set()
    stop.wait(seconds)
    wall, busy = time.perf_counter() - began, time.process_time() - before
    done = sum(map(len, took))
    stop.set()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return {"rate": done * bucket / wall, "cores": busy / wall, "seconds": np.concatenate(took)}


def run_in_threads(work: Any, lanes: Sequence[Any]) -> None:
    """Run `work(lane, place)` for every lane at once, each in a thread of its own."""
    threads = [threading.Thread(target=work, args=(lane, place)) for place, lane in enumerate(lanes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _parse_numbers(text: str) -> tuple[int, ...]:
    return tuple(sorted({int(each) for each in text.split(",")}))


def _parse_names(text: str) -> list[str]:
    return [each for each in text.split(",") if each]


if __name__ == "__main__":
    sys.exit(main())
