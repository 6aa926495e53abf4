"""Checks that the forecasts of lanes are right, and that each belongs to its own window.

The reference is ONNX Runtime on the CPU in float32. Real windows (20 % of the cells missing in every third, a million
times as large in every fifth) run on 1, 4 and 8 lanes at once, in every bucket and in batches of random size, permuted
and some of them repeated within a batch; the output is filled with NaN before each batch if it is writable. Not
measured: speed; a model's own accuracy; server ids other than 0; float16 on windows unlike those of training.
"""

import queue
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.gpu.harness import ResultFile, Suite, list_precisions, make_backend, open_lanes
from benchmarks.gpu.windows import make_windows
from benchmarks.harness import print_table
from streamd.core.arrays import Float32
from streamd.inference.lane import Inputs
from streamd.repository.versions import EngineVersion

LIMITS = {"fp32": 1e-3, "fp16": 5e-3, "int8": 5e-2}
LANE_COUNTS = (1, 4, 8)
BATCHES_A_BUCKET = 48
Ints = npt.NDArray[np.int64]


@dataclass
class Tally:
    """The errors of all batches of a pass. A relative error is `‖output - reference‖ / ‖reference‖`."""

    windows: int = 0
    batches: int = 0
    squared_error: float = 0.0
    squared_reference: float = 0.0
    worst_window: float = 0.0
    worst_scaled: float = 0.0
    scaled: list[float] = field(default_factory=list)
    rows_astray: int = 0
    """Rows that are nearer to another window's reference than to their own."""
    torn_repeats: int = 0
    """Windows that are twice in a batch with forecasts that differ by more than the limit."""
    unequal_repeats: int = 0
    """Windows that are twice in a batch with forecasts that differ in any bit: allowed, and reported."""
    not_finite: int = 0
    errors: list[str] = field(default_factory=list)

    def summarize(self) -> dict[str, Any]:
        """Return the scores as the result file has them."""
        return {
            "windows": self.windows,
            "batches": self.batches,
            "relative_error": float(np.sqrt(self.squared_error / max(self.squared_reference, 1e-300))),
            "worst_window_relative_error": self.worst_window,
            "per_target_scaled_error": float(np.sqrt(np.mean(self.scaled))) if self.scaled else None,
            "worst_per_target_scaled_error": self.worst_scaled,
            "rows_of_another_window": self.rows_astray,
            "repeats_beyond_limit": self.torn_repeats,
            "repeats_not_bit_equal": self.unequal_repeats,
            "windows_not_finite": self.not_finite,
            "errors": self.errors[:5],
        }


class Reference:
    """Windows with their forecasts by ONNX Runtime, and coordinates in which the nearest forecast is found.

    `near` is `(window, coordinate) float32`: the inverse hyperbolic sine of the forecasts, in units of each target's
    usual size. Like a logarithm, it keeps large targets and large windows from hiding the others.
    """

    def __init__(self, inputs: Inputs, forecasts: Float32) -> None:
        self.inputs = inputs
        self.forecasts = forecasts
        self.flat = forecasts.reshape(len(forecasts), -1).astype(np.float64)
        self.norms = np.linalg.norm(self.flat, axis=1)
        norms = np.linalg.norm(self.forecasts.astype(np.float64), axis=(1, 3))
        self.target_norms = np.maximum(norms, 1e-3 * np.median(norms, axis=0) + 1e-30)
        self._unit = np.maximum(np.median(np.abs(self.forecasts), axis=(0, 1, 3), keepdims=True), 1e-6)
        self.near = self.compute_coordinates(self.forecasts)
        self._squares = np.einsum("ij,ij->i", self.near, self.near)

    @classmethod
    def of(cls, version: EngineVersion, windows: int) -> "Reference":
        """Make so many real windows and forecast them with ONNX Runtime."""
        inputs = make_windows(version.contract, windows)
        return cls(inputs, compute_forecasts(version, inputs))

    def compute_coordinates(self, forecasts: Float32) -> Float32:
        """Convert forecasts, `(n, horizon, targets, quantiles)`, to coordinates, `(n, coordinate)`."""
        flat: Float32 = np.arcsinh(forecasts / self._unit).reshape(len(forecasts), -1).astype(np.float32)
        return flat

    def find_nearest(self, forecasts: Float32) -> Ints:
        """Return `(n,)`: the window whose reference is the nearest one to each forecast."""
        found: Ints = np.argmin(self._squares - 2.0 * self.compute_coordinates(forecasts) @ self.near.T, axis=1)
        return found

    def judge(self, rows: Ints, forecasts: Float32, limit: float, tally: Tally) -> None:
        """Compare the forecasts of a batch whose row i holds window `rows[i]`."""
        tally.windows += len(rows)
        tally.batches += 1
        finite = np.isfinite(forecasts).all(axis=(1, 2, 3))
        tally.not_finite += int((~finite).sum())
        rows, forecasts = rows[finite], forecasts[finite]
        difference = forecasts.astype(np.float64) - self.forecasts[rows]
        squares = np.einsum("nhtq,nhtq->nt", difference, difference)
        tally.squared_error += float(squares.sum())
        tally.squared_reference += float((self.norms[rows] ** 2).sum())
        each = np.sqrt(squares.sum(axis=1)) / np.maximum(self.norms[rows], 1e-30)
        scaled = np.sqrt(squares) / self.target_norms[rows]
        tally.worst_window = max(tally.worst_window, float(each.max(initial=0.0)))
        tally.worst_scaled = max(tally.worst_scaled, float(scaled.max(initial=0.0)))
        tally.scaled.append(float(np.mean(scaled**2)))
        tally.rows_astray += int((self.find_nearest(forecasts) != rows).sum())
        self._judge_repeats(rows, forecasts, limit, tally)

    def _judge_repeats(self, rows: Ints, forecasts: Float32, limit: float, tally: Tally) -> None:
        _, first, inverse = np.unique(rows, return_index=True, return_inverse=True)
        twin = first[inverse]
        again = np.flatnonzero(twin != np.arange(len(rows)))
        for place in again.tolist():
            difference = np.linalg.norm((forecasts[place] - forecasts[twin[place]]).astype(np.float64))
            tally.unequal_repeats += int(difference > 0)
            tally.torn_repeats += int(difference > 2 * limit * self.norms[rows[place]])


def compute_forecasts(version: EngineVersion, inputs: Inputs) -> Float32:
    """Forecast every window with ONNX Runtime on all cores: `(n, horizon, targets, quantiles) float32`."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(version.onnx), options, providers=["CPUExecutionProvider"])
    count, contract = len(inputs.encoder_cont), version.contract
    found = np.empty((count, contract.horizon, len(contract.targets), len(contract.quantiles)), np.float32)
    for at in range(0, count, 64):
        feed = {name: buffer[at : at + 64] for name, buffer in inputs.view_first(count).items()}
        (forecasts,) = session.run(["predictions"], feed)
        found[at : at + 64] = forecasts.reshape(len(forecasts), *found.shape[1:])
    return found


def make_batches(windows: int, buckets: Sequence[int], seed: int) -> list[Ints]:
    """Make batches of window numbers: full ones of every bucket, then random sizes; a tenth of each are repeats."""
    random = np.random.default_rng(seed)
    batches = []
    for bucket in buckets:
        order = random.permutation(windows)
        last = min(windows - bucket + 1, BATCHES_A_BUCKET * bucket)
        batches += [order[at : at + bucket] for at in range(0, last, bucket)]
    order, at = random.permutation(windows), 0
    while at < windows:
        size = int(np.exp(random.uniform(0.0, np.log(buckets[-1] + 0.99))))
        batches.append(order[at : at + size])
        at += size
    for batch in batches:
        repeats = len(batch) // 10
        if repeats:
            batch[random.integers(0, len(batch), repeats)] = batch[random.integers(0, len(batch), repeats)]
    return [batches[place].astype(np.int64) for place in random.permutation(len(batches))]


def run_pass(lanes: Sequence[Any], reference: Reference, batches: Sequence[Ints], limit: float) -> Tally:
    """Run the batches on all lanes at once, each in a thread of its own; judge them afterwards."""
    waiting: queue.SimpleQueue[Ints | None] = queue.SimpleQueue()
    for batch in [*batches, *([None] * len(lanes))]:
        waiting.put(batch)
    finished: list[tuple[Ints, Float32]] = []
    tally = Tally()

    def work(lane: Any) -> None:
        try:
            while (rows := waiting.get()) is not None:
                finished.append((rows, _run_batch(lane, reference.inputs, rows)))
        except Exception as error:  # It is in the result, and the other lanes continue.
            tally.errors.append(f"{lane.name}: {type(error).__name__}: {error}")

    threads = [threading.Thread(target=work, args=(lane,), name=f"lane {lane.name}") for lane in lanes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for rows, forecasts in finished:
        reference.judge(rows, forecasts, limit, tally)
    return tally


def _run_batch(lane: Any, inputs: Inputs, rows: Ints) -> Float32:
    count = len(rows)
    for name, buffer in lane.inputs.view_first(count).items():
        np.take(getattr(inputs, name), rows, axis=0, out=buffer)
    forecasts = lane.run(count)
    copied: Float32 = forecasts.copy()
    if forecasts.flags.writeable:
        forecasts[:] = np.nan  # Values that the next batch does not write are found.
    return copied


def has_passed(figures: dict[str, Any], limit: float) -> bool:
    """Whether all windows, the worst window and each target are within the limit, and no row is of another window."""
    wrong = ("rows_of_another_window", "repeats_beyond_limit", "windows_not_finite")
    errors = ("relative_error", "worst_window_relative_error", "per_target_scaled_error")
    within = all((figures[name] or 0.0) <= limit for name in errors)
    return bool(figures["windows"]) and within and not any(figures[name] for name in wrong) and not figures["errors"]


def check_version(suite: Suite, version: EngineVersion, precision: str, reference: Reference) -> list[dict[str, Any]]:
    """Check a version with each number of lanes."""
    found = []
    limit = LIMITS.get(precision, LIMITS["fp16"])
    counts = [count for count in LANE_COUNTS if count <= suite.arguments.max_lanes]
    for count in counts:
        batches = make_batches(len(reference.forecasts), suite.buckets, seed=count)
        with open_lanes(make_backend(suite, version, precision, lanes_per_device=count), count) as lanes:
            figures = run_pass(lanes, reference, batches, limit).summarize()
        head = {"engine": version.name, "precision": precision, "lanes": count, "limit": limit}
        found.append({**head, **figures, "passes": has_passed(figures, limit)})
    return found


def run(suite: Suite) -> None:
    """Check every version in every precision."""
    result = ResultFile(suite, "correctness", definitions=DEFINITIONS, not_measured=__doc__)
    for version in suite.versions:
        with suite.run_part(f"correctness {version.name}: reference"):
            reference = Reference.of(version, suite.arguments.windows)
        for precision in list_precisions(suite, version):
            with suite.run_part(f"correctness {version.name} {precision}"):
                for figures in check_version(suite, version, precision, reference):
                    result.append("passes", figures)
                    if not figures["passes"]:
                        suite.failures.append(f"correctness {version.name} {precision} on {figures['lanes']} lanes")
    _print(result.content.get("passes", []))


DEFINITIONS = {
    "relative_error": "norm of (output - reference) over norm of the reference, all windows, raw units",
    "worst_window_relative_error": "the same of one window, the worst",
    "per_target_scaled_error": "the same of one window and target, so that bytes do not hide percents; root mean "
    "square; a norm under a thousandth of the target's median counts as that",
    "worst_per_target_scaled_error": "the worst window and target of them",
    "rows_of_another_window": "rows whose forecast is nearer to another window's reference than to its own",
}


def _print(found: Sequence[dict[str, Any]]) -> None:
    head = (
        "engine",
        "precision",
        "lanes",
        "windows",
        "error",
        "worst window",
        "per target",
        "worst",
        "other window",
        "passed",
    )
    rows = [
        (
            each["engine"].split("_")[0],
            each["precision"],
            each["lanes"],
            each["windows"],
            f"{each['relative_error']:.1e}",
            f"{each['worst_window_relative_error']:.1e}",
            f"{each['per_target_scaled_error'] or 0:.1e}",
            f"{each['worst_per_target_scaled_error']:.1e}",
            each["rows_of_another_window"],
            "yes" if each["passes"] else "NO",
        )
        for each in found
    ]
    print_table("Forecasts against ONNX Runtime in float32", head, rows)
