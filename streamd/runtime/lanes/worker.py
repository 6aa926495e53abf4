"""A lane's thread: it takes a batch, runs it with the GIL released, and hands the result to the loop.

The result is put in order here too, off the loop: quantiles that do not cross, targets first, bad rows found.
"""

import asyncio
import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from math import isfinite
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import structlog

from streamd.core.arrays import Float32
from streamd.core.errors import BatchFailedError, InferenceError
from streamd.core.scheduling.scheduler import Batch
from streamd.inference.lane import Lane

log = structlog.get_logger(__name__)

SPARSE_CROSSINGS = 2
"""Where no more than one step in so many crosses, those alone are sorted."""


@dataclass(frozen=True, slots=True)
class LaneResult:
    """A batch that came back.

    `forecasts (batch, targets, horizon, quantiles) float32`, or the error instead; `bad_rows` are those that
    are not finite; `seconds` is what the lane took.
    """

    batch: Batch
    forecasts: Float32
    bad_rows: tuple[int, ...]
    error: InferenceError | None
    seconds: float


T = TypeVar("T")
Done = Callable[["LaneWorker", LaneResult], None]


class LaneWorker:
    """Owns a lane and its thread; calls `done` on the loop once a batch."""

    def __init__(self, lane: Lane, loop: asyncio.AbstractEventLoop, done: Done) -> None:
        self.lane = lane
        self.batches = 0
        self.windows = 0
        self.failures = 0
        self.busy_seconds = 0.0
        self.running: Batch | None = None
        """What it runs at this moment, as the loop knows it."""
        self._loop = loop
        self._done = done
        self._work: queue.SimpleQueue[Batch | Callable[[], None] | None] = queue.SimpleQueue()
        self.stopped = False
        """Whether it was told to end."""
        self._closed = False
        self._ended_event = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name=f"lane {lane.name}", daemon=True)
        self._thread.start()

    def status(self) -> dict[str, Any]:
        """What `/v1/status` tells of the lane."""
        return {
            "name": self.lane.name,
            "device": self.lane.device,
            "details": self.lane.describe(),
            "batches": self.batches,
            "windows": self.windows,
            "failures": self.failures,
            "busy_seconds": round(self.busy_seconds, 3),
        }

    def submit(self, batch: Batch) -> None:
        """Run a batch whose windows are in the lane's inputs; one at a time."""
        self.running = batch
        self._work.put(batch)

    def call(self, function: Callable[[Lane], T]) -> "asyncio.Future[T]":
        """Run a function with the lane in the lane's thread, before any batch is submitted.

        Once the lane is told to end, what has not begun is cancelled.
        """
        future: asyncio.Future[T] = self._loop.create_future()

        def run() -> None:
            if self.stopped:
                self._loop.call_soon_threadsafe(future.cancel)
                return
            try:
                value = function(self.lane)
            except Exception as exc:
                self._loop.call_soon_threadsafe(_resolve, future.set_exception, exc, future)
            else:
                self._loop.call_soon_threadsafe(_resolve, future.set_result, value, future)

        self._work.put(run)
        return future

    def report_to(self, done: Done) -> None:
        """Hand batches to another one from now on; only while nothing runs."""
        self._done = done

    def stop(self) -> None:
        """Let the thread end after what it runs; twice is harmless."""
        self.stopped = True
        self._work.put(None)

    def join(self, timeout_seconds: float) -> bool:
        """Wait for the thread; false if it still runs."""
        self._thread.join(timeout_seconds)
        return not self._thread.is_alive()

    @property
    def ended(self) -> bool:
        """Whether the thread has let go of its lane, which is the last that it does."""
        return self._closed

    async def wait_ended(self) -> None:
        """Wait until the thread has closed its lane."""
        await self._ended_event.wait()

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            try:
                if isinstance(work, Batch):
                    self._loop.call_soon_threadsafe(self._done, self, self._run_batch(work))
                else:
                    work()
            except RuntimeError:  # the loop is closed: nobody waits any more
                break
        try:
            self.lane.close()
        except Exception as exc:  # of a device that is gone, not even that need succeed
            log.warning("lane_not_closed", lane=self.lane.name, error=str(exc))
        self._closed = True
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._ended_event.set)

    def _run_batch(self, batch: Batch) -> LaneResult:
        began = time.perf_counter()
        count = len(batch.items)
        forecasts = np.empty((0, 0, 0, 0), np.float32)
        bad_rows: tuple[int, ...] = ()
        error: InferenceError | None = None
        try:
            forecasts, bad_rows = normalize_predictions(self.lane.run(count))
        except InferenceError as exc:
            error = exc
        except Exception as exc:  # a backend's defect must not end its thread
            error = BatchFailedError(f"lane {self.lane.name}: {type(exc).__name__}: {exc}")
        seconds = time.perf_counter() - began
        self.batches += 1
        self.windows += count
        self.failures += error is not None
        self.busy_seconds += seconds
        return LaneResult(batch, forecasts, bad_rows, error, seconds)


def _resolve(setter: Callable[[Any], None], value: Any, future: "asyncio.Future[Any]") -> None:
    if not future.done():
        setter(value)


def normalize_predictions(predictions: Float32) -> tuple[Float32, tuple[int, ...]]:
    """Return forecasts `(batch, targets, horizon, quantiles)`, a copy, and the rows that are not finite.

    `predictions (batch, horizon, targets, quantiles)`. Where quantiles cross they are sorted: Chernozhukov,
    Fernández-Val and Galichon, "Quantile and probability curves without crossing" (2010).

    A few passes over the whole batch: pieces that stay in the cache are quicker alone, but among busy threads every
    call waits for the GIL again, which costs more than the cache gives.
    """
    batch, horizon, targets, quantiles = predictions.shape
    # A step's quantiles move as one element: half the time that moving each number takes.
    together = np.ascontiguousarray(predictions).view(np.dtype((np.void, 4 * quantiles)))
    moved = together.reshape(batch, horizon, targets).transpose(0, 2, 1).copy(order="C")
    rows: Float32 = moved.view(np.float32).reshape(batch, targets * horizon * quantiles)
    _uncross(rows, quantiles)
    return rows.reshape(batch, targets, horizon, quantiles), _find_not_finite(rows)


def _uncross(rows: Float32, quantiles: int) -> None:
    """Sort the quantiles of every step in which they do not rise; NaN never does, and goes last.

    `rows (batch, numbers)`, the `quantiles` of a step beside each other.
    """
    flat, rises = rows.reshape(-1), np.empty(rows.shape, np.bool_)
    # Compared as one row of numbers, which takes a sixth of the time; what lies between two steps says nothing.
    np.greater_equal(flat[1:], flat[:-1], out=rises.reshape(-1)[:-1])
    np.bitwise_or(rises, _mark_step_ends(rows.shape[1], quantiles), out=rises)
    if rises.all():
        return
    steps = flat.reshape(-1, quantiles)
    crossed = np.flatnonzero(~rises) // quantiles  # a step once for each crossing in it, which harms nothing
    if len(crossed) * SPARSE_CROSSINGS > len(steps):
        steps.sort(axis=-1)
    else:
        steps[crossed] = np.sort(steps[crossed], axis=-1)


@lru_cache(maxsize=4)
def _mark_step_ends(size: int, quantiles: int) -> npt.NDArray[np.bool_]:
    """Which of a window's `size` numbers are the last of their step."""
    ends = np.zeros(size, np.bool_)
    ends[quantiles - 1 :: quantiles] = True
    return ends


def _find_not_finite(rows: Float32) -> tuple[int, ...]:
    """The rows of `(batch, numbers)` in which a number is not finite.

    Such a number makes its row's sum not finite. So may large ones: those rows are looked at again.
    """
    sums = np.einsum("ij->i", rows).tolist()
    return tuple(row for row, total in enumerate(sums) if not isfinite(total) and not np.isfinite(rows[row]).all())
