"""The scores of one kept forecast by target and quarter of the horizon, and what is computed from many of them.

Touches neither windows nor files: it is given forecasts and truth.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from streamd.core.arrays import Float32, Float64, Numbers
from streamd.core.contract import ModelContract
from streamd.core.unknown_targets import read_unknown

KEPT_LEVELS = (0.1, 0.5, 0.9)
"""The levels of which the nearest quantiles of the contract are kept."""

RANGES = 4
"""The ranges of the horizon that are scored apart."""

LOSS, INSIDE, ERROR, COUNT = range(4)
"""The columns of sums: pinball losses, values inside the interval, absolute errors of the median, scored values."""

_COLUMNS = 4


@dataclass(frozen=True)
class HistoryForm:
    """The kept part of a contract's forecasts: all targets and steps, and the quantiles nearest to `KEPT_LEVELS`."""

    contract: ModelContract

    @cached_property
    def quantile_places(self) -> tuple[int, ...]:
        """The indices of the kept quantiles in the contract, rising."""
        levels = np.array(self.contract.quantiles)
        return tuple(sorted({int(np.abs(levels - level).argmin()) for level in KEPT_LEVELS}))

    @cached_property
    def quantiles(self) -> tuple[float, ...]:
        """The kept quantiles, rising."""
        return tuple(self.contract.quantiles[place] for place in self.quantile_places)

    @cached_property
    def starts(self) -> Numbers:
        """The first step of each range, counted from 0, `(ranges,)`; fewer than `RANGES` for a short horizon."""
        return np.unique(np.arange(RANGES) * self.contract.horizon // RANGES)

    @property
    def range_names(self) -> list[str]:
        """The names of the ranges in steps ahead, from 1 on: `1-24` and so on."""
        ends = [*self.starts[1:].tolist(), self.contract.horizon]
        return [f"{begin + 1}-{end}" for begin, end in zip(self.starts.tolist(), ends, strict=True)]

    @property
    def values_shape(self) -> tuple[int, int, int]:
        """The shape of a kept forecast, `(targets, horizon, quantiles)`."""
        return len(self.contract.targets), self.contract.horizon, len(self.quantiles)

    @property
    def sums_shape(self) -> tuple[int, int, int]:
        """The shape of the sums of a forecast, `(targets, ranges, columns)`."""
        return len(self.contract.targets), len(self.starts), _COLUMNS

    def cut(self, forecasts: Float32) -> Float32:
        """Return a copy of the kept quantiles of `forecasts (n, targets, horizon, quantiles)`."""
        return np.ascontiguousarray(forecasts[..., self.quantile_places], dtype=np.float32)

    def select_truth(self, newest: int, step: int, rows: Float32) -> Float32:
        """Return the truth of a forecast from `step`, `(targets, horizon)`, NaN where it is missing.

        `rows (rows, targets)` are the last rows of its server up to the step `newest`.
        """
        horizon = self.contract.horizon
        truth = np.full((rows.shape[1], horizon), np.nan, np.float32)
        oldest = newest - len(rows) + 1
        first, last = max(step + 1, oldest), min(step + horizon, newest)
        if first <= last:
            truth[:, first - step - 1 : last - step] = rows[first - oldest : last - oldest + 1].T
        return truth

    def compute_sums(self, values: Float32, truth: Float32) -> Float32:
        """Score a forecast `(targets, horizon, quantiles)` by `truth (targets, horizon)`; NaN in either is not scored.

        Returns sums, `(targets, ranges, columns)`.
        """
        known = np.isfinite(truth) & ~read_unknown(values)[:, None]
        actual = np.where(known, truth, 0.0).astype(np.float64)[:, :, None]
        levels, error = np.array(self.quantiles), actual - values
        loss = np.maximum(levels * error, (levels - 1.0) * error).mean(2)
        median = int(np.abs(levels - 0.5).argmin())
        is_inside = (values[..., 0] <= actual[..., 0]) & (actual[..., 0] <= values[..., -1])
        columns = np.stack([loss, is_inside, np.abs(error[..., median]), np.ones_like(loss)], axis=2)
        columns = np.where(known[:, :, None], columns, 0.0)
        return np.add.reduceat(columns, self.starts, axis=1).astype(np.float32)

    def make_score(self, sums: Float32 | Float64) -> "HistoryScore":
        """Return the score of sums `(columns,)`."""
        count = int(sums[COUNT])
        if not count:
            return HistoryScore(loss=math.nan, coverage=math.nan, error=math.nan, count=0)
        return HistoryScore(
            loss=float(sums[LOSS]) / count,
            coverage=float(sums[INSIDE]) / count if len(self.quantiles) > 1 else math.nan,
            error=float(sums[ERROR]) / count,
            count=count,
        )


@dataclass(frozen=True)
class HistoryScore:
    """Means over scored values, NaN if there is no value; in the unit of the target.

    `loss` is the pinball loss, averaged over the kept quantiles; `coverage` the share of values between the lowest and
    the highest of them, NaN if only one is kept; `error` the absolute error of the median; `count` the values.
    """

    loss: float
    coverage: float
    error: float
    count: int
