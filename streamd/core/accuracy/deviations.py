"""How much each series moves: the deviation by which its pinball loss is divided, as in training's nPL.

Training divides by the deviation of the whole series, the test days included. Here a series is what was seen of it so
far: the windows of the forecasts that were held, and the rows by which they were scored. It begins as one day's, which
is often too little, and so the loss of the first days is often too high.
"""

import numpy as np

from streamd.core.arrays import Float32, Float64
from streamd.core.state.windows import NO_STEP

FLAT_SHARE = 1e-6
"""A deviation below this part of the largest value is none: such a series says nothing (training's rule)."""


class SeriesDeviations:
    """Running means and squares by slot and target: memory is bounded by the number of slots, touched when used."""

    def __init__(self, capacity: int, targets: int) -> None:
        self._count = np.zeros((capacity, targets), np.int64)
        self._mean = np.zeros((capacity, targets))
        self._squares = np.zeros((capacity, targets))  # summed squared distance from the mean
        self._largest = np.zeros((capacity, targets))
        self._last = np.full(capacity, NO_STEP, np.int64)

    def add_rows(self, slot: int, step: int, rows: Float32) -> None:
        """Take what is new of the rows that end at `step`, `rows (rows, targets)`, NaN where missing."""
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
        total = np.maximum(self._count[slot] + count, 1)
        apart = mean - self._mean[slot]
        self._squares[slot] += squares + apart**2 * self._count[slot] * count / total
        self._mean[slot] += apart * count / total
        self._count[slot] += count
        np.maximum(self._largest[slot], np.abs(values).max(0), out=self._largest[slot])

    def compute_deviation(self, slot: int) -> Float64:
        """Return the deviation of each target, `(targets,)`, NaN where it is flat or was never seen."""
        deviation = np.sqrt(self._squares[slot] / np.maximum(self._count[slot], 1))
        least = FLAT_SHARE * np.maximum(1.0, self._largest[slot])
        return np.where((self._count[slot] > 0) & (deviation >= least), deviation, np.nan)

    def reset(self, slot: int) -> None:
        """Forget a slot that changes hands."""
        self._count[slot] = 0
        for array in (self._mean, self._squares, self._largest):
            array[slot] = 0.0
        self._last[slot] = NO_STEP
