"""Compares one network's engine with ONNX Runtime on the CPU, and with what PyTorch gave; and times it."""

from __future__ import annotations

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
"""Rows before this one may have been compared to choose what stays in float32."""

REPEATS, ROUNDS = 50, 5


def judge(asked: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of one engine; `passed` is whether every output correlates."""
    onnx = asked.models / f"{asked.network}.onnx"
    inputs = _arrays(onnx.with_suffix(".inputs.npz"))
    rows = {name: values[HELD_OUT:] for name, values in inputs.items()}
    pytorch = {name: values[HELD_OUT:] for name, values in _arrays(onnx.with_suffix(".outputs.npz")).items()}
    with InferenceEngine.open(onnx, backend="onnxruntime-cpu", buckets=[asked.bucket]) as reference:
        expected = reference(rows)
        precision = asked.precision if asked.backend == "tensorrt" else "auto"
        options = {"precision": precision, "plans": asked.plans, "buckets": [asked.bucket]}
        with InferenceEngine.open(onnx, backend=asked.backend, **options) as engine:
            found = engine(rows)
            outputs = compare(found, expected)
            result = {
                "passed": all(each["correlation"] >= SMALLEST_CORRELATION for each in outputs.values()),
                "outputs": outputs,
                "onnxruntime_against_pytorch": compare(expected, pytorch),
                "engine": engine.describe(),
                **timed(engine, {name: values[: asked.bucket] for name, values in rows.items()}),
            }
            spec = engine.inputs[0]
            if len(spec.shape) == 4:
                result["slide"] = slid(engine, reference, tuple(size or 0 for size in spec.shape))
                result["passed"] &= all(
                    each["correlation"] >= SMALLEST_CORRELATION for each in result["slide"].values()
                )
    return result


def compare(found: Outputs, expected: Outputs) -> dict[str, dict[str, float]]:
    """By output: correlation, relative and largest error, and how much of the expected output differs between rows."""
    told = {}
    for name, wanted in expected.items():
        one, other = found[name].astype(np.float64).ravel(), wanted.astype(np.float64).ravel()
        own = wanted.astype(np.float64) - wanted.mean(axis=0, dtype=np.float64)
        told[name] = {
            "correlation": float(np.corrcoef(one, other)[0, 1]),
            "relative_error": float(np.linalg.norm(one - other) / np.linalg.norm(other)),
            "largest_error": float(np.abs(one - other).max()),
            "largest_value": float(np.abs(other).max()),
            "share_that_differs_between_rows": float(own.std() / wanted.std()),
        }
    return told


def timed(engine: InferenceEngine, rows: Outputs) -> dict[str, Any]:
    """Latency of one batch on one lane, from arrays to arrays; and rows a second with every lane busy."""
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


def slid(engine: InferenceEngine, reference: InferenceEngine, shape: tuple[int, ...]) -> dict[str, dict[str, float]]:
    """A volume half as large again along each axis, in overlapping windows, through both."""
    volume = np.random.default_rng(0).standard_normal((shape[0], *(size * 3 // 2 for size in shape[1:])))
    return compare(engine.slide(volume, overlap=0.25), reference.slide(volume, overlap=0.25))


def _arrays(path: Path) -> Outputs:
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}
