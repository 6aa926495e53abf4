"""The choice of the forecasts that are scored: a fair sample of servers and origins, the same on every run.

Random by a hash, not in turn: so anything periodic (the time of day, servers that report every other step) is sampled
evenly. Keeps no state.
"""

import numpy as np
import numpy.typing as npt

from streamd.core.arrays import Numbers

_BY_SLOT = np.uint64(0x9E3779B97F4A7C15)
_BY_STEP = np.uint64(0xD1B54A32D192ED03)
_BY_MIXED = np.uint64(0xD6E8FEB86659FD93)


def compute_sampling_rate(places: float, servers: float, length: int) -> float:
    """Return the share of origins to choose so that each server has a place `places / servers` of the time.

    A chosen server keeps its place for `length` steps; before that it waits for `1 / rate` steps on average.
    """
    if places >= servers:
        return 1.0 if places else 0.0
    filled = places / servers
    return min(filled / (length * (1.0 - filled)), 1.0)


def choose_origins(slots: Numbers, steps: Numbers, threshold: int) -> npt.NDArray[np.bool_]:
    """Return which origins are chosen, `(n,)`: those whose hash is below `threshold`, up to 2^64, which chooses all."""
    if threshold >= 1 << 64:
        return np.ones(len(slots), np.bool_)
    chosen: npt.NDArray[np.bool_] = hash_origins(slots, steps) < np.uint64(threshold)
    return chosen


def hash_origins(slots: Numbers, steps: Numbers) -> npt.NDArray[np.uint64]:
    """Return pseudo-random numbers below 2^64, evenly spread over both the slots and the steps, `(n,)`."""
    mixed = slots.astype(np.uint64) * _BY_SLOT + steps.astype(np.uint64) * _BY_STEP
    hashes: npt.NDArray[np.uint64] = (mixed ^ (mixed >> np.uint64(32))) * _BY_MIXED
    return hashes
