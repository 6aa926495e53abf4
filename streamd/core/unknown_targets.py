"""Finds the targets that no row of a window has a value of: they are unknown, whatever a model makes of them.

Pure, and knows no model. In forecasts an unknown target is NaN in all its numbers; no other number is.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from streamd.core.arrays import Float32, Numbers
from streamd.core.values import find_values

TargetFlags = npt.NDArray[np.bool_]

_NEVER = np.iinfo(np.int64).min
"""The step of a value that was never seen: before every window."""


@dataclass(frozen=True, slots=True)
class UnknownSearch:
    """The means to find the unknown targets of a batch once it runs.

    `columns (targets,)` are the features that are targets. `found (n, targets)` is what was found already of the first
    `n` windows, which may not lie with the others.
    """

    columns: Numbers
    found: TargetFlags | None = None

    def search(self, windows: Float32) -> TargetFlags:
        """Return which targets of a batch are unknown, `(batch, targets)`; `windows (batch, length, features)`."""
        if self.found is None:
            return find_unknown(windows, self.columns)
        if len(self.found) == len(windows):
            return self.found
        return np.concatenate((self.found, find_unknown(windows[len(self.found) :], self.columns)))


def find_unknown(windows: Float32, columns: Numbers) -> TargetFlags:
    """Return which targets have no value in any row, `(n, targets)`.

    `windows (n, length, features)` end with the newest row; `columns (targets,)` are the features that are targets.
    Usually the newest row has all of them, so only those that it lacks are looked for in the others.
    """
    unknown: TargetFlags = ~find_values(windows[:, -1, columns])
    for target in np.flatnonzero(unknown.any(axis=0)).tolist():
        rows = np.flatnonzero(unknown[:, target])
        which = slice(None) if len(rows) == len(windows) else rows  # a view if the whole fleet lacks it
        unknown[rows, target] = ~find_values(windows[which, :, int(columns[target])]).any(axis=1)
    return unknown


def read_unknown(forecasts: npt.NDArray[np.floating]) -> TargetFlags:
    """Return which targets of forecasts are unknown, `(..., targets)`.

    `forecasts (..., targets, horizon, quantiles)`, with one step and one quantile at least.
    """
    unknown: TargetFlags = np.isnan(forecasts[..., 0, 0])
    return unknown


def list_unknown(names: Sequence[str], unknown: TargetFlags) -> list[str]:
    """Return the names of the unknown targets, in their order; `unknown (targets,)` belongs to `names`."""
    return [name for name, is_unknown in zip(names, unknown.tolist(), strict=True) if is_unknown]


class LastValues:
    """The newest step of each slot and target that has a value, of copies of windows that only get new rows.

    So the unknown targets of a batch are found without a look at whole windows. `columns (targets,)` are the features
    that are targets.
    """

    def __init__(self, capacity: int, length: int, columns: Numbers) -> None:
        self._length = length
        self._columns = columns
        self._steps = np.full((capacity, len(columns)), _NEVER, np.int64)

    def note_rows(
        self, slots: Numbers, newest: Numbers, counts: Numbers, rows: Float32, places: Numbers
    ) -> TargetFlags:
        """Note the new rows of windows; returns which targets of these are unknown, `(n, targets)`.

        Window i, of slot `slots[i]` and with the newest step `newest[i]`, gets the next `counts[i]` rows; if those are
        `length`, its former rows count no more. `rows (sum of counts, features)` lie at `places` of rings of `length`.
        """
        steps = self._steps[slots]
        has_value = find_values(rows[:, self._columns])
        if (counts == 1).all() and self._length > 1:  # the usual case: one row a window, its newest
            np.copyto(steps, newest[:, None], where=has_value)
        elif len(rows):
            steps[counts == self._length] = _NEVER
            owners = np.repeat(np.arange(len(slots)), counts)
            at = newest[owners] - (newest[owners] - places) % self._length
            found = np.where(has_value, at[:, None], _NEVER)
            has_rows = counts > 0
            begins = (np.cumsum(counts) - counts)[has_rows]
            steps[has_rows] = np.maximum(steps[has_rows], np.maximum.reduceat(found, begins, axis=0))
        self._steps[slots] = steps
        unknown: TargetFlags = steps <= (newest - self._length)[:, None]
        return unknown
