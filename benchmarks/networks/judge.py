"""Compares the engine of one network with ONNX Runtime on the CPU and with PyTorch's results, and times it."""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from streamd.engine import InferenceEngine

Array = npt.NDArray[Any]
Outputs = dict[str, Array]

SMALLEST_CORRELATION = 0.999
HELD_OUT = 8
"""The first rows are left out: the build may have used them to choose the nodes that stay in float32."""

REPEATS, ROUNDS = 50, 5


def judge(args: argparse.Namespace) -> dict[str, Any]:
    """Measure one engine; `passed` is whether every output correlates."""
    onnx = args.models / f"{args.network}.onnx"
    inputs = _load_arrays(onnx.with_suffix(".inputs.npz"))
    rows = {name: values[HELD_OUT:] for name, values in inputs.items()}
    pytorch = {name: values[HELD_OUT:] for name, values in _load_arrays(onnx.with_suffix(".outputs.npz")).items()}
    with InferenceEngine.open(onnx, backend="onnxruntime-cpu", buckets=[args.bucket]) as reference:
        expected = reference(rows)
        precision = args.precision if args.backend == "tensorrt" else "auto"
        options = {"precision": precision, "plans": args.plans, "buckets": [args.bucket]}
        with InferenceEngine.open(onnx, backend=args.backend, **options) as engine:
            found = engine(rows)
            outputs = compare(found, expected)
            result = {
                "passed": all(each["correlation"] >= SMALLEST_CORRELATION for each in outputs.values()),
                "outputs": outputs,
                "onnxruntime_against_pytorch": compare(expected, pytorch),
                "engine": engine.describe(),
                **measure_speed(engine, {name: values[: args.bucket] for name, values in rows.items()}),
            }
            spec = engine.inputs[0]
            if len(spec.shape) == 4:
                result["slide"] = compare_sliding(engine, reference, tuple(size or 0 for size in spec.shape))
                result["passed"] &= all(
                    each["correlation"] >= SMALLEST_CORRELATION for each in result["slide"].values()
                )
    return result


def compare(found: Outputs, expected: Outputs) -> dict[str, dict[str, float]]:
    """Compare outputs by name: correlation, errors, and the share of the expected output that differs between rows."""
    compared = {}
    for name, reference in expected.items():
        one, other = found[name].astype(np.float64).ravel(), reference.astype(np.float64).ravel()
        own = reference.astype(np.float64) - reference.mean(axis=0, dtype=np.float64)
        compared[name] = {
            "correlation": float(np.corrcoef(one, other)[0, 1]),
            "relative_error": float(np.linalg.norm(one - other) / np.linalg.norm(other)),
            "largest_error": float(np.abs(one - other).max()),
            "largest_value": float(np.abs(other).max()),
            "share_that_differs_between_rows": float(own.std() / reference.std()),
        }
    return compared


def measure_speed(engine: InferenceEngine, rows: Outputs) -> dict[str, Any]:
    """Measure the latency of one batch on one lane, from arrays to arrays, and rows a second with every lane busy."""
    count = len(next(iter(rows.values())))
    engine(rows)
    began = time.perf_counter()
    taken: list[float] = []
    while len(taken) < 3 or (len(taken) < REPEATS and time.perf_counter() - began < 10):
        start = time.perf_counter()
        engine(rows)
        taken.append((time.perf_counter() - start) * 1e3)
    many = {name: np.concatenate([values] * (4 * engine.lanes)) for name, values in rows.items()}
    engine(many)
    began, done = time.perf_counter(), 0
    while done < ROUNDS and (done == 0 or time.perf_counter() - began < 10):
        engine(many)
        done += 1
    seconds = time.perf_counter() - began
    return {
        "batch": count,
        "latency_ms": {f"p{q}": round(float(np.percentile(taken, q)), 3) for q in (50, 95, 99)},
        "batches_timed": len(taken),
        "rows_per_second": round(done * count * 4 * engine.lanes / seconds, 1),
    }


def compare_sliding(
    engine: InferenceEngine, reference: InferenceEngine, shape: tuple[int, ...]
) -> dict[str, dict[str, float]]:
    """Compare both on a volume that is 1.5 times as large along each axis, in overlapping windows."""
    volume = np.random.default_rng(0).standard_normal((shape[0], *(size * 3 // 2 for size in shape[1:])))
    return compare(engine.slide(volume, overlap=0.25), reference.slide(volume, overlap=0.25))


def _load_arrays(path: Path) -> Outputs:
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}
