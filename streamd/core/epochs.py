"""Epoch times in a finer unit than seconds, recognised by their size."""

FINER_TIME_UNITS = ((1e11, "milliseconds"), (1e14, "microseconds"), (1e17, "nanoseconds"))
"""From which number on a time is in which unit: in seconds, the first of them lies in the year 5138.

Each begins in 1973 in its own unit and ends where the next one begins, in 5138 again.
"""

_END = 1e20


def guess_finer_unit(time: float) -> str | None:
    """Return the unit that an epoch time seems to be in, where it is too large to be seconds; otherwise None."""
    if not time < _END:
        return None
    return next((unit for begin, unit in reversed(FINER_TIME_UNITS) if time >= begin), None)
