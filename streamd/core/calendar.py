"""The known-future inputs: the place of each forecast step in the day and in the week. Has no clock; all is UTC."""

import numpy as np

from streamd.core.arrays import Float32

DAY_SECONDS = 86_400
WEEK_SECONDS = 7 * DAY_SECONDS
_MONDAY_SECONDS = 4 * DAY_SECONDS
"""1970-01-05 00:00 UTC, a Monday: the angle of the week is zero there."""


def compute_known_future(step: int, horizon: int, step_seconds: int) -> Float32:
    """Return the calendar of the `horizon` steps after `step`, as `(horizon, 4) float32`.

    Each row is for the time at which a step begins, UTC: sine and cosine of the time of day, then sine and
    cosine of the day of the week counted from Monday 00:00.
    """
    # In whole seconds, and reduced to one period before any float: exact for any epoch.
    begins = (step + 1 + np.arange(horizon, dtype=np.int64)) * step_seconds
    day = (begins % DAY_SECONDS) * (2 * np.pi / DAY_SECONDS)
    week = ((begins - _MONDAY_SECONDS) % WEEK_SECONDS) * (2 * np.pi / WEEK_SECONDS)
    return np.stack([np.sin(day), np.cos(day), np.sin(week), np.cos(week)], axis=-1).astype(np.float32)
