"""Crossings: finds when curves reach a threshold. Touches arrays only."""

import numpy as np

from streamd.core.arrays import Float32, Float64


def find_crossings(curves: Float32, threshold: float, *, is_above: bool) -> Float64:
    """Return when each of `curves (n, horizon)` first reaches a threshold, in steps from the origin, `(n,)`.

    A value is crossed if it is at or above the threshold, or at or below it without `is_above`. Between two steps the
    curve is a line. 0 for a curve that begins crossed, infinity for one that never crosses, such as one of NaN. Other
    values are finite.
    """
    limit = np.float32(threshold)  # as exact as the curves: a stored 90.1 reaches 90.1
    crossed = curves >= limit if is_above else curves <= limit
    first = crossed.argmax(axis=1)
    rows = np.arange(len(curves))
    found = crossed[rows, first]
    times = np.where(found, first.astype(np.float64), np.inf)
    between = np.flatnonzero(found & (first > 0))
    if len(between):
        at = first[between]
        before = curves[between, at - 1].astype(np.float64)
        after = curves[between, at].astype(np.float64)
        times[between] = at - 1 + (float(limit) - before) / (after - before)
    return times
