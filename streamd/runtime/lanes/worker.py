"""Runs a lane's batches in a thread of its own, and returns the results to the event loop.

The results are normalized in the thread as well: quantiles sorted, targets first, rows that are not finite found.
Nothing here decides what runs.
"""

import asyncio
import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from math import isfinite
from typing import Any, NamedTuple, TypeVar

import numpy as np
import structlog

from streamd.core.arrays import Float32
from streamd.core.errors import BatchFailedError, InferenceError
from streamd.core.scheduling.batches import Batch
from streamd.core.state.forecast_seals import Sums, compute_checks
from streamd.core.unknown_targets import TargetFlags
from streamd.inference.lane import Lane, get_resident
from streamd.runtime.lanes.quantile_order import put_in_order

log = structlog.get_logger(__name__)

NO_FORECASTS: Float32 = np.empty((0, 0, 0, 0), np.float32)
NO_CHECKS: Sums = np.empty(0, np.uint64)


class LaneResult(NamedTuple):
    """The result of a batch.

    `forecasts (batch, targets, horizon, quantiles) float32`, or `error`; `checks (servers,)` are the checksums of the
    servers' forecasts; the forecasts of `bad_rows` are not finite; `began` is when the lane began (monotonic seconds),
    and `seconds` the time that it took. A target that is unknown is NaN, which makes no row bad.
    """

    batch: Batch
    forecasts: Float32
    checks: Sums
    bad_rows: tuple[int, ...]
    error: InferenceError | None
    began: float
    seconds: float


T = TypeVar("T")
Done = Callable[["LaneWorker", LaneResult], None]


class LaneWorker:
    """A lane and its thread; calls `done` on the loop once for each batch."""

    def __init__(self, lane: Lane, loop: asyncio.AbstractEventLoop, done: Done) -> None:
        self.lane = lane
        self.batches = 0
        self.windows = 0
        self.failures = 0
        self.busy_seconds = 0.0
        self.running: Batch | None = None
        """The batch that it runs. Used on the loop only: from `submit` until the pipeline takes the result."""
        self._loop = loop
        self._done = done
        self._work: queue.SimpleQueue[Batch | Callable[[], None] | None] = queue.SimpleQueue()
        self.is_stopping = False
        """Whether `stop` was called."""
        self._has_ended = False
        self._ended_event = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name=f"lane {lane.name}", daemon=True)
        self._thread.start()

    def describe(self) -> dict[str, Any]:
        """Return the entry of the lane in `/v1/status`."""
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
        """Run a batch whose windows are in the lane's inputs. Only one batch may run at a time."""
        self.running = batch
        self._work.put(batch)

    def call(self, function: Callable[[Lane], T]) -> "asyncio.Future[T]":
        """Run a function with the lane in the lane's thread; only before the first batch is submitted.

        Calls that have not begun when `stop` is called are cancelled.
        """
        future: asyncio.Future[T] = self._loop.create_future()

        def run() -> None:
            if self.is_stopping:
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
        """Report results to another pipeline from now on; only while no batch runs."""
        self._done = done

    def stop(self) -> None:
        """Let the thread close its lane and end after the work that is queued. A second call is a no-op."""
        self.is_stopping = True
        self._work.put(None)

    def join(self, timeout_seconds: float) -> bool:
        """Block until the thread ends; returns `False` if it still runs after the timeout."""
        self._thread.join(timeout_seconds)
        return not self._thread.is_alive()

    @property
    def has_ended(self) -> bool:
        """Whether the thread has closed its lane; after that it only ends."""
        return self._has_ended

    async def wait_ended(self) -> None:
        """Wait until the thread has closed its lane."""
        await self._ended_event.wait()

    def _run(self) -> None:
        while self._run_next():
            pass
        try:
            self.lane.close()
        except Exception as exc:  # on a lost device, closing may fail too
            log.warning("lane_not_closed", lane=self.lane.name, error=str(exc))
        self._has_ended = True
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._ended_event.set)

    def _run_next(self) -> bool:
        """Run what comes next, and keep nothing of it: the loop frees a batch, in the thread that made it."""
        work = self._work.get()
        if work is None:
            return False
        try:
            if isinstance(work, Batch):
                self._loop.call_soon_threadsafe(self._done, self, self._run_batch(work))
            else:
                work()
        except RuntimeError:  # the loop is closed, so no caller waits
            return False
        return True

    def _run_batch(self, batch: Batch) -> LaneResult:
        began = time.monotonic()
        count = len(batch)
        forecasts, checks = NO_FORECASTS, NO_CHECKS
        bad_rows: tuple[int, ...] = ()
        error: InferenceError | None = None
        try:
            forecasts, checks, bad_rows = run_finished(self.lane, batch)
        except InferenceError as exc:
            error = exc
        except Exception as exc:  # a backend's defect must not end its thread
            error = BatchFailedError(f"lane {self.lane.name}: {type(exc).__name__}: {exc}")
        seconds = time.monotonic() - began
        self.batches += 1
        self.windows += count
        self.failures += error is not None
        self.busy_seconds += seconds
        return LaneResult(
            batch=batch,
            forecasts=forecasts,
            checks=checks,
            bad_rows=bad_rows,
            error=error,
            began=began,
            seconds=seconds,
        )


def _resolve(setter: Callable[[Any], None], value: Any, future: "asyncio.Future[Any]") -> None:
    if not future.done():
        setter(value)


def run_finished(lane: Lane, batch: Batch) -> tuple[Float32, Sums, tuple[int, ...]]:
    """Run a batch; return normalized forecasts, a copy, the checksums of those of servers, and bad rows.

    Unknown targets are NaN in them, whatever the model makes of a target without a value.
    """
    count, servers = len(batch), len(batch.servers)
    if batch.memory is not None and lane.inputs.memory_cont is not None:
        batch.memory.read_into(lane.inputs.memory_cont)
    checks: Sums | None = None
    resident = get_resident(lane)
    if resident is None:
        forecasts, bad_rows = normalize_predictions(lane.run(count))
    else:
        finished = resident.run(count)
        forecasts, bad_rows, checks = finished.forecasts.copy(), finished.bad_rows, finished.checks
    if batch.unknown is not None:
        unknown = batch.unknown.search(lane.inputs.encoder_cont[:count])
        if unknown.any():
            bad_rows = hide_unknown(forecasts, unknown, bad_rows)
            checks = None  # a device computed those of what the model made
    if checks is None:
        checks = compute_checks(forecasts[:servers]) if servers else NO_CHECKS
    return forecasts, checks[:servers], bad_rows


def hide_unknown(forecasts: Float32, unknown: TargetFlags, bad_rows: tuple[int, ...]) -> tuple[int, ...]:
    """Make the unknown targets of forecasts NaN; returns the rows that are not finite in a target that is known.

    `forecasts (batch, targets, horizon, quantiles)`, `unknown (batch, targets)`; `bad_rows` have any number that is
    not finite.
    """
    for target in np.flatnonzero(unknown.any(axis=0)).tolist():
        rows = np.flatnonzero(unknown[:, target])
        forecasts[slice(None) if len(rows) == len(forecasts) else rows, target] = np.nan
    return tuple(row for row in bad_rows if not np.isfinite(forecasts[row, ~unknown[row]]).all())


def normalize_predictions(predictions: Float32) -> tuple[Float32, tuple[int, ...]]:
    """Return forecasts `(batch, targets, horizon, quantiles)`, a copy, and the rows that are not finite.

    `predictions (batch, horizon, targets, quantiles)`. Quantiles that cross are sorted: Chernozhukov, Fernández-Val and
    Galichon, "Quantile and probability curves without crossing" (2010).

    Each pass covers the whole batch. Pieces that fit into the cache are faster in a single thread, but among busy
    threads each call waits for the GIL again, which costs more than the cache saves.
    """
    batch, horizon, targets, quantiles = predictions.shape
    moved = _move_targets_first(predictions) if targets > 1 else predictions.copy()
    rows: Float32 = moved.reshape(batch, targets * horizon * quantiles)
    put_in_order(rows, quantiles)
    return rows.reshape(batch, targets, horizon, quantiles), _find_not_finite(rows)


def _move_targets_first(predictions: Float32) -> Float32:
    """Return a copy `(batch, targets, horizon, quantiles)` of `predictions (batch, horizon, targets, quantiles)`."""
    batch, horizon, targets, quantiles = predictions.shape
    # The quantiles of a step are copied as one opaque element of 4 * quantiles bytes (a void dtype), which takes half
    # the time of copying each number. With 3 quantiles, 2 targets and 2 steps of horizon, one window is
    #     predictions   step 0: [t0: q q q][t1: q q q]   step 1: [t0: q q q][t1: q q q]
    #     together      step 0: [   t0   ][   t1   ]     step 1: [   t0   ][   t1   ]       each bracket one element
    #     moved         t0: [ step 0 ][ step 1 ]         t1: [ step 0 ][ step 1 ]           transposed and copied
    together = np.ascontiguousarray(predictions).view(np.dtype((np.void, 4 * quantiles)))
    moved = together.reshape(batch, horizon, targets).transpose(0, 2, 1).copy(order="C")
    return moved.view(np.float32).reshape(batch, targets, horizon, quantiles)


def _find_not_finite(rows: Float32) -> tuple[int, ...]:
    """Return the rows of `(batch, numbers)` in which a number is not finite.

    Such a number makes the sum of its row not finite. Large numbers may do so too, so those rows are checked again.
    """
    if isfinite(np.einsum("ij->", rows)):
        return ()
    sums = np.einsum("ij->i", rows).tolist()
    return tuple(row for row, total in enumerate(sums) if not isfinite(total) and not np.isfinite(rows[row]).all())
