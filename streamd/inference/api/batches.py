"""Splits the rows of a call into the batches that finish soonest, by measured costs."""

import time
from collections.abc import Callable

import numpy as np

from streamd.core.scheduling.costs import CostTable
from streamd.inference.runner import Arrays, Runner

OVERHEAD_SECONDS = 1e-4
"""What a batch costs beside its runner: handing it to a thread and back."""

MEASURED_RUNS = 3


def split_rows(count: int, costs: CostTable, lanes: int) -> list[int]:
    """Return the sizes of the batches for `count` rows over so many lanes, in order; they sum to `count`."""
    sizes: list[int] = []
    while count:
        # In rounds: what a lane has taken, it will not share again.
        idle = lanes - len(sizes) % lanes
        size = costs.choose_batch_size(count, idle)
        sizes.append(size)
        count -= size
    return sizes


def make_unmeasured_costs(runner: Runner) -> CostTable:
    """Costs of an engine with one bucket: nothing to choose, so nothing to measure."""
    return CostTable({runner.buckets[-1]: 1.0}, pads=runner.pads, overhead_seconds=OVERHEAD_SECONDS)


def measure_buckets(runner: Runner, rows: Arrays, now: Callable[[], float] = time.perf_counter) -> CostTable:
    """Run each bucket with these rows, repeated as often as it takes, and return what each costs.

    The best of some runs, after one that is not counted. Raises what the runner raises.
    """
    seconds = {}
    for bucket in runner.buckets:
        feeds = {name: np.resize(values, (bucket, *values.shape[1:])) for name, values in rows.items()}
        runner.run(feeds)
        taken = []
        for _ in range(MEASURED_RUNS):
            began = now()
            runner.run(feeds)
            taken.append(now() - began)
        seconds[bucket] = min(taken)
    return CostTable(seconds, pads=runner.pads, overhead_seconds=OVERHEAD_SECONDS)
