"""Makes the memory of a model that asks for one, from recorded rows, as the daemon would have kept it."""

import numpy as np
import numpy.typing as npt

from streamd.core.arrays import Float32
from streamd.core.contract import MEMORY_LENGTH
from streamd.core.memory_means import compute_memory

HISTORIES_AT_ONCE = 64
"""The windows whose histories are in memory at once: 15 MB with 169 hours of 14 features, a row each five minutes."""


def compute_series_memory(
    rows: npt.ArrayLike, ends: npt.ArrayLike, *, first_step: int, period: int, length: int = MEMORY_LENGTH
) -> Float32:
    """Return the memory of windows of one series, `(window, length, feature) float32`, oldest first, NaN where missing.

    `rows` is `(step, feature)`, NaN where missing; the first row is of the grid step `first_step` (its time in epoch
    seconds over the seconds of a step), and `period` is the number of steps in an hour. A window ends before the row at
    its place in `ends (window,)`. What lies before the first row is missing.
    """
    series, places = np.asarray(rows, np.float32), np.asarray(ends, np.int64)
    needed = (length + 1) * period
    padded = np.pad(series, ((needed, 0), (0, 0)), constant_values=np.nan)
    found = np.empty((len(places), length, series.shape[1]), np.float32)
    for begin in range(0, len(places), HISTORIES_AT_ONCE):
        some = slice(begin, begin + HISTORIES_AT_ONCE)
        history = padded[places[some, None] + np.arange(needed)]
        found[some] = compute_memory(history, (first_step + places[some]) % period, length, period)
    return found
