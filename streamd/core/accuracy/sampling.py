"""Which forecasts are held to be scored: a fair sample of servers and origins, the same on every run.

Chosen as by lot, not in turn: whatever recurs (the time of day, servers that report every other step) is met evenly.
"""

_MASK = (1 << 64) - 1


def compute_sampling_rate(places: float, servers: float, length: int) -> float:
    """How often to choose an origin, so that servers hold a place for `places / servers` of the time.

    A server that is chosen holds its place for `length` steps, and waits for `1 / compute_sampling_rate` steps before.
    """
    if places >= servers:
        return 1.0 if places else 0.0
    filled = places / servers
    return min(filled / (length * (1.0 - filled)), 1.0)


def hash_origin(slot: int, step: int) -> int:
    """Return a number below 2^64 that looks random: any of a server's origins, and of an origin's servers, is alike."""
    mixed = (slot * 0x9E3779B97F4A7C15 + step * 0xD1B54A32D192ED03) & _MASK
    return ((mixed ^ (mixed >> 32)) * 0xD6E8FEB86659FD93) & _MASK
