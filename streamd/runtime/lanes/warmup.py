"""Warms lanes and measures what a batch of each bucket costs while every lane is busy."""

import asyncio
import statistics
import time
from collections.abc import Sequence
from functools import partial

import numpy as np

from streamd.core.scheduling.costs import CostTable
from streamd.inference.lane import Inputs, Lane
from streamd.runtime.lanes.worker import LaneWorker

REPEATS = 3


async def measure_costs(workers: Sequence[LaneWorker], max_batch: int, budget_seconds: float) -> CostTable:
    """Run every bucket on all lanes at once, from the smallest on, and return the median seconds of each.

    A bucket for which the budget does not suffice is not measured and not used. Raises what a lane raises.
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
    return CostTable(seconds, pads=lane.pads, max_batch=max_batch)


async def warm_lane(worker: LaneWorker) -> None:
    """Run a new lane's smallest bucket once, so that it is known to work before it is put to work."""
    fill_plausibly(worker.lane.inputs)
    await worker.call(lambda lane: lane.run(lane.buckets[0]))


def _expected_seconds(seconds: dict[int, float], bucket: int) -> float:
    largest = max(seconds)
    return seconds[largest] * bucket / largest


def _time_runs(worker: LaneWorker, count: int, lane: Lane) -> list[float]:
    """Run a batch a few times; returns the seconds of each run but the first, fewer once the lane is told to end."""
    lane.run(count)
    took: list[float] = []
    while len(took) < REPEATS and not worker.stopped:
        began = time.perf_counter()
        lane.run(count)
        took.append(time.perf_counter() - began)
    return took


def fill_plausibly(inputs: Inputs) -> None:
    """Fill a lane's inputs with numbers as real windows have them: zeros can run faster than they do."""
    random = np.random.default_rng(7)
    for buffer in (inputs.encoder_cont, inputs.decoder_cont):
        buffer[:] = random.random(buffer.shape[1:], np.float32)
    inputs.encoder_cat[:] = 0
    inputs.decoder_cat[:] = 0
