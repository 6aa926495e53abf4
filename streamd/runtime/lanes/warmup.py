"""Warms lanes and measures the cost of a batch of each bucket while every lane is busy.

Runs before a deployment serves; waits on the event loop for the lanes' threads.
"""

import asyncio
import statistics
import time
from collections.abc import Mapping, Sequence
from functools import partial
from math import inf

import numpy as np

from streamd.core.scheduling.costs import CostTable
from streamd.inference.lane import Inputs, Lane
from streamd.runtime.lanes.worker import LaneWorker

REPEATS = 3
"""Timed runs of each bucket on each lane, after one that is not timed."""


async def measure_costs(workers: Sequence[LaneWorker], max_batch: int, budget_seconds: float) -> CostTable:
    """Run every bucket on all lanes at once, from the smallest on, and return the median seconds of each.

    Buckets that the budget does not suffice for are not measured, and not used. Raises the error of any lane.
    """
    for worker in workers:
        fill_plausibly(worker.lane.inputs)
    began = time.perf_counter()
    lane = workers[0].lane
    seconds: dict[int, float] = {}
    for bucket in lane.buckets:
        if bucket > max_batch and seconds:
            break
        left = budget_seconds - (time.perf_counter() - began)
        if seconds and left < (REPEATS + 1) * _expected_seconds(seconds, bucket):
            break
        runs = await asyncio.gather(*(worker.call(partial(_time_runs, worker, bucket)) for worker in workers))
        seconds[bucket] = statistics.median(took for run in runs for took in run)
    return CostTable(limit_by_smaller(seconds), pads=lane.pads, max_batch=max_batch)


def limit_by_smaller(seconds: Mapping[int, float]) -> dict[int, float]:
    """Return the seconds of each bucket, at most those of as many windows in batches of a smaller bucket.

    A longer run is disturbed more often by other work of the machine. Without this limit, large batches seem dear when
    the daemon starts on a busy machine, and it runs batches of four from then on, which take a fifth more CPU time.
    """
    limited: dict[int, float] = {}
    least = inf
    for bucket in sorted(seconds):
        least = min(least, seconds[bucket] / bucket)
        limited[bucket] = least * bucket
    return limited


async def warm_lane(worker: LaneWorker) -> None:
    """Run a new lane's smallest bucket once, to find out before it serves whether it works."""
    fill_plausibly(worker.lane.inputs)
    await worker.call(lambda lane: lane.run(lane.buckets[0]))


def _expected_seconds(seconds: dict[int, float], bucket: int) -> float:
    largest = max(seconds)
    return seconds[largest] * bucket / largest


def _time_runs(worker: LaneWorker, count: int, lane: Lane) -> list[float]:
    """Run a batch `REPEATS` times after a first run; returns the seconds of each, fewer if the lane is stopped."""
    lane.run(count)
    took: list[float] = []
    while len(took) < REPEATS and not worker.is_stopping:
        began = time.perf_counter()
        lane.run(count)
        took.append(time.perf_counter() - began)
    return took


def fill_plausibly(inputs: Inputs) -> None:
    """Fill a lane's inputs with numbers like those of real windows, because zeros can run faster."""
    random = np.random.default_rng(7)
    for buffer in (inputs.encoder_cont, inputs.decoder_cont):
        buffer[:] = random.random(buffer.shape[1:], np.float32)
    inputs.encoder_cat[:] = 0
    inputs.decoder_cat[:] = 0
    if inputs.memory_cont is not None:
        inputs.memory_cont[:] = random.random(inputs.memory_cont.shape[1:], np.float32)
