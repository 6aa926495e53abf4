"""The standard deviation of each series, by which its pinball loss is divided, as in the nPL of training.

Reads no windows: it is given rows. Training divides by the deviation of the whole series, test days included. Here only
a part of the series is known: the windows of the sampled forecasts, and the rows that they were scored with. At first
that is one day, whose deviation is often too small, so the loss of the first days is often too high.
"""

import numpy as np

from streamd.core.arrays import Float32, Float64
from streamd.core.state.window_columns import NO_STEP

FLAT_SHARE = 1e-6
"""A series is flat, and is not scored, if its deviation is below this share of its largest value (as in training)."""


class SeriesDeviations:
    """The running mean and deviation by slot and target. Memory is bounded by the number of slots."""

    def __init__(self, capacity: int, targets: int) -> None:
        self._count = np.zeros((capacity, targets), np.int64)
        self._mean = np.zeros((capacity, targets))
        self._squares = np.zeros((capacity, targets))  # sums of squared distances from the mean
        self._largest = np.zeros((capacity, targets))
        self._last = np.full(capacity, NO_STEP, np.int64)

    def add_rows(self, slot: int, step: int, rows: Float32) -> None:
        """Add the rows that are new; `rows (rows, targets)` end at `step`, with NaN for a missing value."""
        last = int(self._last[slot])
        new = rows if last == NO_STEP else rows[max(len(rows) - max(step - last, 0), 0) :]
        if not len(new):
            return
        self._last[slot] = step
        known = np.isfinite(new)
        values = np.where(known, new, 0.0).astype(np.float64)
        count = known.sum(0)
        there = np.maximum(count, 1)
        mean = values.sum(0) / there
        squares = (np.where(known, values - mean, 0.0) ** 2).sum(0)
        # Two sets of values are merged by their counts, means and sums of squares (Chan et al.): no value is kept.
        total = np.maximum(self._count[slot] + count, 1)
        apart = mean - self._mean[slot]
        self._squares[slot] += squares + apart**2 * self._count[slot] * count / total
        self._mean[slot] += apart * count / total
        self._count[slot] += count
        np.maximum(self._largest[slot], np.abs(values).max(0), out=self._largest[slot])

    def compute_deviation(self, slot: int) -> Float64:
        """Return the deviation of each target, `(targets,)`; NaN if it is flat or has no value yet."""
        deviation = np.sqrt(self._squares[slot] / np.maximum(self._count[slot], 1))
        least = FLAT_SHARE * np.maximum(1.0, self._largest[slot])
        return np.where((self._count[slot] > 0) & (deviation >= least), deviation, np.nan)

    def reset(self, slot: int) -> None:
        """Forget a slot that gets another server."""
        self._count[slot] = 0
        for array in (self._mean, self._squares, self._largest):
            array[slot] = 0.0
        self._last[slot] = NO_STEP
