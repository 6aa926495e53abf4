"""The choice of the forecasts that are scored: a fair sample of servers and origins, the same on every run.

Random by a hash, not in turn: so anything periodic (the time of day, servers that report every other step) is sampled
evenly. Keeps no state.
"""

_MASK = (1 << 64) - 1


def compute_sampling_rate(places: float, servers: float, length: int) -> float:
    """Return the share of origins to choose so that each server has a place `places / servers` of the time.

    A chosen server keeps its place for `length` steps; before that it waits for `1 / rate` steps on average.
    """
    if places >= servers:
        return 1.0 if places else 0.0
    filled = places / servers
    return min(filled / (length * (1.0 - filled)), 1.0)


def hash_origin(slot: int, step: int) -> int:
    """Return a pseudo-random number below 2^64, evenly spread over both the slots and the steps."""
    mixed = (slot * 0x9E3779B97F4A7C15 + step * 0xD1B54A32D192ED03) & _MASK
    return ((mixed ^ (mixed >> 32)) * 0xD6E8FEB86659FD93) & _MASK
