"""Recognises epoch times in a finer unit than seconds by their size. Converts nothing."""

FINER_TIME_UNITS = ((1e11, "milliseconds"), (1e14, "microseconds"), (1e17, "nanoseconds"))
"""The smallest number that is taken as a time in each unit, the coarsest first.

In seconds, 1e11 would be the year 5138. In its own unit, each range begins in 1973 and ends at the next range, in 5138.
"""

_END = 1e20


def guess_finer_unit(time: float) -> str | None:
    """Return the unit that an epoch time seems to have if it is too large for seconds, otherwise None."""
    if not time < _END:
        return None
    return next((unit for begin, unit in reversed(FINER_TIME_UNITS) if time >= begin), None)
